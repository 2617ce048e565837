"""Metrics as tables, for notebooks and for a terminal. Notebook 05."""

import math

import pandas as pd

from bssan_lib.evaluation.grounding import MAPS, ONLY_BY_TYPE
from bssan_lib.evaluation.grounding_checks import CHECKED
from bssan_lib.evaluation.retrieval import DIRECTIONS


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
