"""A checkpoint and a split in, metrics.json out: retrieval, grounding, minimal pairs, failures. Notebook 05.

Scores come from `scoring`, ranks from `retrieval`, attention's aim from `grounding`; here they are put
together under the keys of every metrics file of the project, and laid out as tables. Percentages: 0 to 100.

Letters: N images, C captions, K regions, M objects, T words.
"""

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from bssan_lib.progress import tqdm

from bssan_lib.data.prepared import PreparedSplit, list_splits, open_prepared
from bssan_lib.errors import ConfigError, DataError, RunError
from bssan_lib.grounding import MAPS, ONLY_BY_TYPE, grounded_captions, measure_phrases, summary
from bssan_lib.grounding_checks import CHECKED, add_checks
from bssan_lib.records import Metrics, describe_gallery, describe_run, write_ranks
from bssan_lib.retrieval import (
    bootstrap_intervals, evaluate_protocol, fold_ranks, pair_metrics, protocol_folds, protocol_ranks,
    ranks_metrics,
)
from bssan_lib.scoring import Scores, attend, score_split

ATTENTIONS = 256  # captions whose attention is held at a time
WAYS = ("i2t", "t2i")


def evaluate(
    checkpoint, split: PreparedSplit, protocol: str = "full", bootstrap: int = 1000,
    memory: str | int = "1GiB", progress: bool = True, seed: int = 0, scores: Scores | None = None,
    precision: str = "float32",
    checks: bool = False,
) -> Metrics:
    """Every number of a checkpoint on a split.

    checkpoint: a `Checkpoint`. split: N images with captions. protocol: "full", "5k" or "1k-5fold".
    bootstrap: samples behind the 95% intervals, 0 for none; seed: theirs. memory, precision: of the scoring.
    scores: what `score_split` gave for this checkpoint and split, where it is at hand; else it is called.
    checks: whether grounding is compared with a prior of boxes, other words and an untrained model too, which
    costs two more passes of attention.

    Returns {"dataset", "split", "protocol", "n_images", "n_captions", "i2t", "t2i", "rsum", "ci95",
    "directions": {"w2r", "o2w"}, "satisfying", "grounding", "pairs", "model", "run", "seconds"}. Not everything is
    everywhere: "ci95" needs bootstrap; "satisfying" (R@K against all that satisfy) needs `split.satisfies`;
    "grounding" (see `grounding.grounding_metrics` for its keys, `ground` for those of checks) needs phrases with
    boxes, regions with boxes and attention in both directions, and takes the whole split; "directions" names those
    that the method has; "pairs" is for a split of minimal pairs, and for "test" where the split "pairs" stands beside it.
    ConfigError for an unknown protocol, DataError where the split is too small for it.
    """
    protocol_folds(len(split.ids), protocol)  # refused before anything is scored
    if scores is None:
        scores = score_split(checkpoint, split, memory, precision=precision, progress=progress)
    metrics = retrieval_of(scores.joint, split, protocol, bootstrap, seed)
    own = {way: getattr(scores, way) for way in ("w2r", "o2w") if getattr(scores, way) is not None}
    if own:
        metrics["directions"] = {way: evaluate_protocol(part, split.cap2im, protocol) for way, part in own.items()}
    if split.satisfies is not None:
        metrics["satisfying"] = evaluate_protocol(scores.joint, split.cap2im, protocol, split.satisfies)
    seconds = dict(scores.seconds)
    if split.phrases and split.boxes is not None and len(own) == 2:
        start = time.perf_counter()
        found = ground(checkpoint, split, bootstrap, seed, progress, checks)
        if found:
            metrics["grounding"] = found
            seconds["attend"] = time.perf_counter() - start
    add_pairs(metrics, split, scores.joint,
              lambda pairs: score_split(checkpoint, pairs, memory, precision=precision, progress=progress).joint)
    metrics["model"] = model_summary(checkpoint)
    if scores.gate is not None:
        metrics["model"]["learned"]["gate"] = scores.gate  # where each pair has a gate of its own: their mean
    if run := describe_run(checkpoint):
        metrics["run"] = run
    metrics["seconds"] = seconds
    return metrics


def retrieval_of(joint: np.ndarray, split: PreparedSplit, protocol: str, bootstrap: int, seed: int) -> Metrics:
    """What was ranked, recalls and their intervals, from scores [N, C]; with the ranks and the gallery's digest."""
    last = protocol_folds(len(split.ids), protocol)[-1][1]
    ranks = protocol_ranks(joint, split.cap2im, protocol)
    metrics = Metrics({
        "dataset": split.meta.get("source") or split.folder.name, "split": split.name, "protocol": protocol,
        "n_images": last, "n_captions": int(np.sum(split.cap2im < last)), **ranks_metrics(ranks),
    })
    metrics.ranks, metrics.gallery = ranks, describe_gallery(split, last)
    if bootstrap:
        metrics["ci95"] = bootstrap_intervals(ranks, bootstrap, seed)
    return metrics


def model_summary(checkpoint) -> dict:
    """What metrics.json says of a model."""
    return {**checkpoint.model.summary(), "vocabulary_sha256": checkpoint.vocabulary.sha256,
            "backbone": (checkpoint.backbone or {}).get("name")}


def ground(
    checkpoint, split: PreparedSplit, bootstrap: int = 1000, seed: int = 0, progress: bool = True, checks: bool = False
) -> dict | None:
    """`grounding_metrics` of a split with phrases and boxes [N, K, 4]: each caption with its own image.

    checks: adds the maps "prior", "shuffled_w2r", "shuffled_combined", "untrained_w2r" and "untrained_combined" of
    `grounding_checks`, with the same keys, and "above" the differences to the prior's plain pointing game.
    """
    captions = grounded_captions(split.phrases)

    def attentions():
        with tqdm(total=len(captions), desc="attend", unit="caption", disable=not progress) as bar:
            for first in range(0, len(captions), ATTENTIONS):
                some = captions[first:first + ATTENTIONS]
                yield from zip(some, attend(checkpoint, split, [(int(split.cap2im[c]), c) for c in some]))
                bar.update(len(some))

    measured = measure_phrases(attentions(), split.phrases, split.boxes, split.object_boxes, split.cap2im)
    if checks:
        add_checks(measured, checkpoint, split, seed, progress)
    return summary(measured, bootstrap, seed)


def pair_kinds(split: PreparedSplit) -> list[str] | None:
    """What each pair of a split of minimal pairs differs in, or None for any other split of N images."""
    return split.meta.get("splits", {}).get(split.name, {}).get("notes", {}).get("kinds")


def add_pairs(metrics: dict, split: PreparedSplit, joint: np.ndarray, score: Callable) -> None:
    """Adds "pairs" for a split of minimal pairs with scores [N, C], or for those beside test, which `score` scores."""
    if pair_kinds(split):
        metrics["pairs"] = _pairs(split, joint)
    elif split.name == "test" and "pairs" in list_splits(split.folder):
        pairs = open_prepared(split.folder, "pairs")
        metrics["pairs"] = _pairs(pairs, score(pairs))


def _pairs(split: PreparedSplit, scores: np.ndarray) -> dict:
    if not np.array_equal(split.cap2im, np.arange(len(split.ids))):
        raise DataError(f"{split.folder}: split {split.name!r} is of minimal pairs, so each image must have "
                        "one caption, in the order of images; its cap2im says otherwise. Prepare it again.")
    return pair_metrics(scores, pair_kinds(split))


def nearest(
    scores: np.ndarray, cap2im: np.ndarray, query: int, direction: str, k: int = 5,
    positives: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The k best answers to one query.

    scores: [N, C]. cap2im: [C]. query: an image row for direction "i2t", a caption row for "t2i". positives:
    [C, N] bool or None. Returns rows [k] (captions for i2t, images for t2i), their scores [k], and whether
    each is right [k].
    """
    _check_direction(direction)
    row = np.asarray(scores[query] if direction == "i2t" else scores[:, query])
    best = np.argsort(-row, kind="stable")[:k]
    if positives is not None:
        right = positives[best, query] if direction == "i2t" else positives[query, best]
    else:
        right = cap2im[best] == query if direction == "i2t" else best == cap2im[query]
    return best, row[best], np.asarray(right, bool)


def failures(
    scores: np.ndarray, cap2im: np.ndarray, direction: str, k: int = 5, positives: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k queries that went most wrong: their rows [k] and ranks [k], worst first.

    scores: [N, C]. cap2im: [C]. direction: "i2t" (queries are images) or "t2i" (captions). positives: [C, N].
    """
    _check_direction(direction)
    ranks = fold_ranks(scores, cap2im, positives)
    values, queries = (ranks.i2t, ranks.images) if direction == "i2t" else (ranks.t2i, ranks.captions)
    worst = np.argsort(-values, kind="stable")[:k]
    return queries[worst], values[worst]


def _check_direction(direction: str) -> None:
    if direction not in WAYS:
        raise ConfigError(f"Unknown direction {direction!r}: i2t (an image looks for captions) or t2i.")


def plain(value):
    """A value as JSON has it: floats of four decimals (small ones of four digits), null for NaN."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (float, np.floating)):
        value = float(value)
        if not math.isfinite(value):
            return None
        return round(value, 4) if value == 0 or abs(value) >= 0.1 else float(f"{value:.4g}")
    return int(value) if isinstance(value, np.integer) else value


def write_metrics(metrics: dict, path: Path | str) -> None:
    """Writes metrics as JSON, whole or not at all, keys in their order, and the ranks that `evaluate` left with them.

    Raises RunError where it cannot.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    text = json.dumps(plain(metrics), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_ranks(metrics, path)
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        try:
            partial.unlink(missing_ok=True)
        except OSError:
            pass  # the first error says what is wrong
        raise RunError(f"{path}: metrics cannot be written ({error.strerror or error}). Choose a place that "
                       "can be written and has room.") from error


def metrics_table(metrics: dict) -> pd.DataFrame:
    """Retrieval as a table: a row for the joint score, each direction alone, and against all that satisfy."""
    alone = metrics.get("directions", {})
    rows = {"joint": metrics, **{f"{way.upper()} alone": row for way, row in alone.items()}}
    if "satisfying" in metrics:
        rows["joint, all that satisfy"] = metrics["satisfying"]
    cells = {}
    for label, row in rows.items():
        cells[label] = {f"{way} {name}": value for way in WAYS for name, value in row[way].items()}
        cells[label]["rsum"] = row["rsum"]
    return pd.DataFrame(cells).T


def grounding_table(metrics: dict) -> pd.DataFrame:
    """Grounding as a table: a row for all phrases that name an object, then one for each type of phrase."""
    found = metrics["grounding"]
    rows = {"overall": {**found, "n": found["n_phrases"]}, **found["by_type"]}
    columns = {
        "W2R pointing": ("w2r", "pointing_game"), "centre": ("baselines", "center"),
        "W2R mass": ("w2r", "mass_in_box"), "even mass": ("baselines", "uniform_mass"),
        "O2W pointing": ("o2w", "pointing_game"), "even words": ("baselines", "uniform_words"),
        "O2W of object": ("o2w", "pointing_game_of_object"),
        "even of object": ("baselines", "uniform_words_of_object"),
    }
    return pd.DataFrame({
        label: {"phrases": row["n"], **{name: row[part][key] for name, (part, key) in columns.items()}}
        for label, row in rows.items()
    }).T.astype({"phrases": int})


def maps_table(metrics: dict) -> pd.DataFrame:
    """What points how well: a row for each map and baseline, over all phrases that name an object.

    Intervals of 95% stand behind the pointing game and behind its difference to the picture's centre.
    """
    found = metrics["grounding"]
    ci95, above = found.get("ci95", {}), found["above"]["center"]
    rows: dict[str, dict] = {}
    for name in (*MAPS, "prior", *(f"{kind}_{part}" for kind in ("shuffled", "untrained") for part in CHECKED)):
        if name in found:
            row, apart = found[name], above[name]["pointing_game"]
            rows[name.replace("_", " ")] = {
                "pointing": with_interval(row["pointing_game"], ci95.get(name, {}).get("pointing_game")),
                "above centre": with_interval(apart["difference"], apart.get("ci95"), "+.1f"),
                "window": row["pointing_game_window"], "mass": row["mass_in_box"], "curve": row["area_under_curve"],
            }
    base = found["baselines"]
    centre = ci95.get("baselines", {}).get("center")
    rows["the picture's centre"] = {"pointing": with_interval(base["center"], centre)}
    rows["even attention"] = {"pointing": with_interval(base["uniform_pointing_game"]), "curve": 50.0,
                              "window": base["uniform_pointing_game_window"], "mass": base["uniform_mass"]}
    rows["the true boxes"] = {"curve": base["true_box_area_under_curve"]}
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table[["pointing", "above centre", "window", "mass", "curve"]].fillna({"above centre": ""})


def with_interval(value: float, span: list[float] | None = None, form: str = ".1f") -> str:
    """A number, and its interval where there is one: "62.1 (60.8 to 63.5)"."""
    return f"{value:{form}}" + (f" ({span[0]:{form}} to {span[1]:{form}})" if span else "")


def pointing_table(metrics: dict, measure: str = "pointing_game") -> pd.DataFrame:
    """A measure of every map by type of phrase: a row a type, a column a map. measure: a key of a map."""
    found = metrics["grounding"]
    kinds = sorted(found["by_type"], key=lambda kind: -found["by_type"][kind]["n"])
    rows = {"overall": {**found, "n": found["n_phrases"]}, **{kind: found["by_type"][kind] for kind in kinds}}
    maps = [name for name, part in found.items() if isinstance(part, dict) and measure in part]
    return pd.DataFrame({
        label: {"phrases": row["n"], "centre": row["baselines"]["center"],
                **{name.replace("_", " "): row[name][measure] for name in maps if name != "o2w"}}
        for label, row in rows.items()
    }).T.astype({"phrases": int})


def format_grounding(metrics: dict) -> str:
    """Grounding as text for a terminal: every map, then pointing games by type."""
    count, left_out = metrics["grounding"]["n_phrases"], " and ".join(ONLY_BY_TYPE)
    table = pointing_table(metrics)
    wide = [name for name in table if name.endswith(" combined")]  # for a line of 100 letters
    return "\n".join([
        f"Attention as maps of the picture, {count} phrases with true boxes (without {left_out}), percent:",
        maps_table(metrics).to_string(float_format="{:.1f}".format, na_rep=""),
        "Pointing game by type of phrase:",
        table.drop(columns=wide).to_string(float_format="{:.1f}".format),
    ])


def format_table(metrics: dict) -> str:
    """The metrics as text for a terminal: what was measured, retrieval, intervals, grounding and pairs."""
    parts = [f"{metrics['dataset']} {metrics['split']}, protocol {metrics['protocol']}: "
             f"{metrics['n_images']} images, {metrics['n_captions']} captions",
             metrics_table(metrics).to_string(float_format="{:.1f}".format)]
    if "ci95" in metrics:
        ci95 = metrics["ci95"]
        bounds = {f"{way} R@1": ci95[way]["R@1"] for way in WAYS} | {"rsum": ci95["rsum"]}
        text = ", ".join(f"{name} {low:.1f} to {high:.1f}" for name, (low, high) in bounds.items())
        parts.append(f"95% intervals of the joint score over images: {text}")
    if "grounding" in metrics:
        left_out = " and ".join(ONLY_BY_TYPE)
        parts.append(f"Attention against true boxes and words (overall without {left_out}):")
        parts.append(grounding_table(metrics).to_string(float_format="{:.1f}".format))
        parts.append(format_grounding(metrics))
    if "pairs" in metrics:
        parts.append("Minimal pairs told apart:")
        table = pd.DataFrame(metrics["pairs"]).T
        table["n"] = ["" if math.isnan(n) else int(n) for n in table["n"]]
        parts.append(table[["n", "text", "image", "group"]].to_string(float_format="{:.1f}".format))
    return "\n".join(parts)
