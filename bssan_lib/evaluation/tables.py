"""Metrics as tables, for notebooks and for a terminal. Notebook 05."""

import math
from collections.abc import Sequence

import pandas as pd

from bssan_lib.evaluation.faithfulness import ORDERS
from bssan_lib.evaluation.grounding import MAPS, ONLY_BY_TYPE
from bssan_lib.evaluation.grounding_checks import CHECKED
from bssan_lib.evaluation.retrieval import DIRECTIONS, MEASURES, RECALLS


def metrics_table(metrics: dict) -> pd.DataFrame:
    """Rows: the joint score, W2R alone, O2W alone, and the joint score against all images that satisfy a caption."""
    rows = {"joint": metrics, **{f"{name.upper()} alone": row for name, row in metrics.get("directions", {}).items()}}
    if "satisfying" in metrics:
        rows["joint, all that satisfy"] = metrics["satisfying"]
    cells = {}
    for label, row in rows.items():
        cells[label] = {f"{way} {name}": value for way in DIRECTIONS for name, value in row[way].items()}
        cells[label]["rsum"] = row["rsum"]
    return pd.DataFrame(cells).T


def grounding_table(metrics: dict) -> pd.DataFrame:
    """Rows: all phrases that name one object, then each type of phrase."""
    found = metrics["grounding"]
    rows = {"overall": {**found, "n": found["n_phrases"]}, **found["by_type"]}
    columns = {
        "W2R pointing": ("w2r", "pointing_game"),
        "centre": ("baselines", "center"),
        "W2R mass": ("w2r", "mass_in_box"),
        "even mass": ("baselines", "uniform_mass"),
        "O2W pointing": ("o2w", "pointing_game"),
        "even words": ("baselines", "uniform_words"),
        "O2W of object": ("o2w", "pointing_game_of_object"),
        "even of object": ("baselines", "uniform_words_of_object"),
    }
    return pd.DataFrame(
        {
            label: {"phrases": row["n"], **{name: row[part][key] for name, (part, key) in columns.items()}}
            for label, row in rows.items()
        }
    ).T.astype({"phrases": int})


def maps_table(metrics: dict) -> pd.DataFrame:
    """Rows: each attention map and baseline, over all phrases that name one object.

    The pointing game and its difference to the image centre have 95% intervals.
    """
    found = metrics["grounding"]
    ci95, above = found.get("ci95", {}), found["above"]["center"]
    rows: dict[str, dict] = {}
    for name in (*MAPS, "prior", *(f"{kind}_{part}" for kind in ("shuffled", "untrained") for part in CHECKED)):
        if name in found:
            row, difference = found[name], above[name]["pointing_game"]
            rows[name.replace("_", " ")] = {
                "pointing": with_interval(row["pointing_game"], ci95.get(name, {}).get("pointing_game")),
                "above centre": with_interval(difference["difference"], difference.get("ci95"), "+.1f"),
                "window": row["pointing_game_window"],
                "mass": row["mass_in_box"],
                "curve": row["area_under_curve"],
            }
    base = found["baselines"]
    centre = ci95.get("baselines", {}).get("center")
    rows["the picture's centre"] = {"pointing": with_interval(base["center"], centre)}
    rows["even attention"] = {
        "pointing": with_interval(base["uniform_pointing_game"]),
        "curve": 50.0,
        "window": base["uniform_pointing_game_window"],
        "mass": base["uniform_mass"],
    }
    rows["the true boxes"] = {"curve": base["true_box_area_under_curve"]}
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table[["pointing", "above centre", "window", "mass", "curve"]].fillna({"above centre": ""})


def with_interval(value: float, span: list[float] | None = None, form: str = ".1f") -> str:
    """A number with its interval, if there is one: "62.1 (60.8 to 63.5)"."""
    return f"{value:{form}}" + (f" ({span[0]:{form}} to {span[1]:{form}})" if span else "")


def verdict(span: Sequence[float] | None) -> str:
    """What the 95% interval of a difference says: "above", "below" or "within noise"; nothing without an interval."""
    if not span:
        return ""
    return "above" if span[0] > 0 else "below" if span[1] < 0 else "within noise"


def interval_table(metrics: dict) -> pd.DataFrame:
    """R@1, R@5 and R@10 of the joint score in both directions, with 95% intervals over images."""
    ci95 = metrics.get("ci95", {})
    names = [f"R@{k}" for k in RECALLS]
    return pd.DataFrame(
        {way: {k: with_interval(metrics[way][k], ci95.get(way, {}).get(k)) for k in names} for way in DIRECTIONS}
    ).T


def baseline_table(metrics: dict) -> pd.DataFrame:
    """Each measure of both directions over all phrases that name one object, beside the baseline that it must exceed."""
    found, ci95 = metrics["grounding"], metrics["grounding"].get("ci95", {})
    rows = {
        "W2R, pointing game": ("w2r", "pointing_game", "center", "the picture's centre"),
        "W2R, mass in box": ("w2r", "mass_in_box", "uniform_mass", "even attention"),
        "O2W, heaviest word is of the phrase": ("o2w", "pointing_game", "uniform_words", "even attention"),
        "O2W, mass on the phrase": ("o2w", "mass_on_words", "uniform_words", "even attention"),
        "O2W, heaviest word is of the object": (
            "o2w",
            "pointing_game_of_object",
            "uniform_words_of_object",
            "even attention",
        ),
    }
    return pd.DataFrame(
        {
            name: {
                "percent": with_interval(found[part][key], ci95.get(part, {}).get(key)),
                "baseline": with_interval(found["baselines"][base]),
                "which": which,
                "difference": f"{found[part][key] - found['baselines'][base]:+.1f}",
            }
            for name, (part, key, base, which) in rows.items()
        }
    ).T


def above_table(metrics: dict) -> pd.DataFrame:
    """Paired differences of the pointing game of each map to the picture's centre and to the prior, in percentage points."""
    rows = {}
    for against, name in (("center", "the picture's centre"), ("prior", "the prior")):
        for part, row in metrics["grounding"]["above"].get(against, {}).items():
            if part in MAPS:
                one = row["pointing_game"]
                said = with_interval(one["difference"], one.get("ci95"), "+.1f")
                rows[part.replace("_", " "), name] = {"difference": said, "verdict": verdict(one.get("ci95"))}
    return pd.DataFrame.from_dict(rows, orient="index")


def pairs_table(pairs: dict) -> pd.DataFrame:
    """Minimal pairs, the kinds with the highest group score first, and whether that is above chance.

    Above means by more than two standard errors of guessing. pairs: as `pair_metrics` returns them.
    """
    rows, chance = {}, pairs["chance"]["group"]
    kinds = sorted((kind for kind in pairs if kind not in ("all", "chance")), key=lambda kind: -pairs[kind]["group"])
    for kind in [*kinds, "all"]:
        error = 2 * math.sqrt(chance * (100 - chance) / pairs[kind]["n"])
        apart = pairs[kind]["group"] - chance
        rows[kind] = {**pairs[kind], "against chance": verdict((apart - error, apart + error))}
    return pd.DataFrame.from_dict(rows, orient="index").astype({"n": int})


def deletion_table(deletion: dict) -> pd.DataFrame:
    """The mean score of true pairs with a growing share of regions removed: a row for each order.

    deletion: as `deletion_summary` returns it. "falls less" says by how much less than in the order "most".
    """
    shares = [f"{share:.0f}%" for share in deletion["removed"]]
    rows = {}
    for order in ORDERS:
        less = deletion.get(f"most minus {order}")
        rows[order] = {share: f"{score:.3f}" for share, score in zip(shares, deletion[order]["own"])}
        rows[order]["falls less"] = with_interval(less["fall"], less.get("fall_ci95"), "+.3f") if less else ""
    return pd.DataFrame.from_dict(rows, orient="index")


def published_table(published: pd.DataFrame, metrics: dict, features: str) -> pd.DataFrame:
    """Published recalls, a row for BSSAN without numbers, and this run.

    published: columns method, features and "i2t R@1", .... features: what this run's model is given.
    """
    ours = {measure: round(metrics[measure[:3]][measure[4:]], 1) for measure in MEASURES}
    rows = [
        {"method": "BSSAN (10.1109/TIP.2018.2882225)", "features": "not available to us"},
        {"method": f"this run, {metrics['split']}, one model", "features": features, **ours},
    ]
    return pd.concat([published, pd.DataFrame(rows)], ignore_index=True).astype(object).fillna("–")


def pointing_table(metrics: dict, measure: str = "pointing_game") -> pd.DataFrame:
    """One measure of all maps, such as "pointing_game": rows are types of phrases, columns are maps."""
    found = metrics["grounding"]
    kinds = sorted(found["by_type"], key=lambda kind: -found["by_type"][kind]["n"])
    rows = {"overall": {**found, "n": found["n_phrases"]}, **{kind: found["by_type"][kind] for kind in kinds}}
    maps = [name for name, part in found.items() if isinstance(part, dict) and measure in part]
    return pd.DataFrame(
        {
            label: {
                "phrases": row["n"],
                "centre": row["baselines"]["center"],
                **{name.replace("_", " "): row[name][measure] for name in maps if name != "o2w"},
            }
            for label, row in rows.items()
        }
    ).T.astype({"phrases": int})


def format_grounding(metrics: dict) -> str:
    """Grounding as text for a terminal: all maps, then pointing games by type of phrase."""
    count, left_out = metrics["grounding"]["n_phrases"], " and ".join(ONLY_BY_TYPE)
    table = pointing_table(metrics)
    wide = [name for name in table if name.endswith(" combined")]  # so that lines have at most 100 characters
    return "\n".join(
        [
            f"Attention maps against true boxes, {count} phrases (without {left_out}), percent:",
            maps_table(metrics).to_string(float_format="{:.1f}".format, na_rep=""),
            "Pointing game by type of phrase:",
            table.drop(columns=wide).to_string(float_format="{:.1f}".format),
        ]
    )


def format_table(metrics: dict) -> str:
    """All metrics as text for a terminal."""
    parts = [
        f"{metrics['dataset']} {metrics['split']}, protocol {metrics['protocol']}: "
        f"{metrics['n_images']} images, {metrics['n_captions']} captions",
        metrics_table(metrics).to_string(float_format="{:.1f}".format),
    ]
    if "ci95" in metrics:
        ci95 = metrics["ci95"]
        bounds = {f"{way} R@1": ci95[way]["R@1"] for way in DIRECTIONS} | {"rsum": ci95["rsum"]}
        text = ", ".join(f"{name} {low:.1f} to {high:.1f}" for name, (low, high) in bounds.items())
        parts.append(f"95% intervals of the joint score over images: {text}")
    if "grounding" in metrics:
        left_out = " and ".join(ONLY_BY_TYPE)
        parts.append(f"Attention against true boxes and words (overall without {left_out}):")
        parts.append(grounding_table(metrics).to_string(float_format="{:.1f}".format))
        parts.append(format_grounding(metrics))
    if "pairs" in metrics:
        parts.append("Minimal pairs, percent right:")
        table = pd.DataFrame(metrics["pairs"]).T
        table["n"] = ["" if math.isnan(n) else int(n) for n in table["n"]]
        parts.append(table[["n", "text", "image", "group"]].to_string(float_format="{:.1f}".format))
    return "\n".join(parts)
