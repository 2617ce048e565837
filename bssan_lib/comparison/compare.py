"""Compares methods from stored evaluations: means, standard deviations, intervals, differences, verdicts.

    compare([read_record("runs/joint-1"), read_record("runs/joint-2"), read_record("runs/w2r-1"), ...])

Two sources of uncertainty are reported separately. The standard deviation over seeds (of the sample, n - 1) shows the
effect of another training. The bootstrap over images shows the effect of other queries. For the difference of two
methods, both use the same resampled images, so that hard images are hard for both (paired bootstrap; Efron and
Tibshirani, An Introduction to the Bootstrap, 1993; for retrieval Sakai, SIGIR 2006, DOI 10.1145/1148170.1148261). Seeds
are averaged within each sample.

Letters: R records, S bootstrap samples, n seeds.
"""

import json

import numpy as np

from bssan_lib.comparison.verdicts import seed_error, verdict
from bssan_lib.config import Config, flatten, rename_old
from bssan_lib.errors import ConfigError, DataError
from bssan_lib.evaluation.bootstrap import interval, resampled_recalls
from bssan_lib.evaluation.records import Record, without_seed
from bssan_lib.evaluation.retrieval import DIRECTIONS, MEASURES, RECALLS

COMPARED = ("rsum", "i2t R@1", "t2i R@1")  # measures for which differences are computed
GALLERY = ("dataset", "split", "protocol", "n_images", "n_captions")
# Settings that do not define a method: two runs that differ only here belong to the same method.
IGNORED_SETTINGS = ("seed", "name", "training.save_steps", "training.accumulation_steps")
MAX_LABEL_KEYS = 2  # a method's label names at most so many settings; otherwise it is the name of its run
FEW = 3  # with fewer seeds, a mean says little about a method


def compare(
    records: list[Record],
    names: list[str] | None = None,
    against: str | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> dict:
    """Compares methods, each over its seeds, with a reference method.

    records: R evaluations of one gallery; records of one method are its seeds. names: of the methods, in the order of
    their first records. against: the reference method; None: the first. samples, seed: of the bootstrap over images.

    Returns the content of comparison.json:
    {"gallery": {"dataset", "split", "protocol", "n_images", "n_captions"}, "bootstrap": {"samples", "seed"},
     "reference": name,
     "methods": [{"method", "kind": "single" or "ensemble", "members": models in each ensemble, "n", "seeds": [...],
                  "mean": {"i2t R@1", ..., "rsum"}, "sd": the same keys, None if n is 1, "rsum_ci95": [low, high] or
                  None, "records": [{"name", "path", "seed", "commit", "recalls", "rsum"}]}],
     "differences": [{"method", "against", "rsum": {"difference", "ci95" or None, "verdict"}, "i2t R@1": ..., "t2i R@1":
                  ...}]}
    "verdict": see `verdicts.verdict`; None without an interval.
    Raises DataError for records of different galleries and for records given twice, ConfigError for wrong names.
    """
    if not records:
        raise ConfigError("Expected at least one record to compare, got none.")
    if samples < 1:
        raise ConfigError(f"bootstrap: expected 1 sample or more, got {samples}.")
    for record in records[1:]:
        check_same_gallery(records[0], record)
    groups = group_records(records, names)
    reference = against or next(iter(groups))
    if reference not in groups:
        raise ConfigError(f"--against {reference}: expected one of the methods {', '.join(groups)}.")
    ranks = {id(record): record.ranks for record in records if record.ranks is not None}
    drawn = dict(zip(ranks, resampled_recalls(list(ranks.values()), samples, seed) if ranks else ()))
    resampled = {
        name: _with_rsum(np.mean([drawn[id(one)] for one in group], axis=0))  # each [S]
        for name, group in groups.items()
        if all(id(one) in drawn for one in group)
    }
    methods = [_method(name, group, resampled.get(name)) for name, group in groups.items()]
    comparison: dict = {
        "gallery": {key: records[0].metrics[key] for key in GALLERY},
        "bootstrap": {"samples": samples, "seed": seed},
        "reference": reference,
        "methods": methods,
    }
    comparison["differences"] = [
        {"method": name, "against": reference, **_difference(comparison, resampled, name, reference)}
        for name in groups
        if name != reference
    ]
    return comparison


def check_same_gallery(first: Record, other: Record) -> None:
    """Raises DataError, with the differences, unless two records ranked the same images and captions."""
    lines = [
        f"{key.replace('n_', '')} {first.metrics[key]} and {other.metrics[key]}"
        for key in GALLERY
        if first.metrics[key] != other.metrics[key]
    ]
    ours, theirs = first.gallery or {}, other.gallery or {}
    lines += [
        f"{what} (other ones, or in another order)"
        for what in ("captions", "images")
        if None not in (ours.get(f"{what}_sha256"), theirs.get(f"{what}_sha256"))
        and ours[f"{what}_sha256"] != theirs[f"{what}_sha256"]
    ]
    if lines:
        raise DataError(
            f"{_where(first)} and {_where(other)} cannot be compared, because they differ in: {'; '.join(lines)}. "
            "Evaluate both on the same data, split and protocol with `bssan evaluate --out`."
        )


def group_records(records: list[Record], names: list[str] | None = None) -> dict[str, list[Record]]:
    """{method: its records}. Records that differ only in the seed belong to one method.

    If a record has a `method`, that decides. A method is either single models or ensembles. names: labels for the
    methods; None: chosen here.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(_key(record), []).append(record)
    for group in groups.values():
        _refuse_twice(group)
    labels = _labels(list(groups.values()))
    if names is not None:
        if len(names) != len(groups) or len(set(names)) != len(names) or not all(names):
            found = "; ".join(
                f"{label} ({', '.join(one.name for one in group)})" for label, group in zip(labels, groups.values())
            )
            raise ConfigError(
                f"--names: expected {len(groups)} different names, one for each method, got "
                f"{', '.join(names)}. The methods are: {found}."
            )
        labels = names
    return dict(zip(labels, groups.values()))


def _key(record: Record) -> str:
    """Equal for the seeds of one method."""
    if record.method:
        return f"named {record.method}"
    if record.members:
        runs = [one.get("run") or {} for one in record.members]
        if all(run.get("config") for run in runs):
            return "ensemble " + json.dumps(
                sorted(json.dumps(_settings(run["config"]), sort_keys=True) for run in runs)
            )
        return f"ensemble {without_seed(record.name, None)}"
    if record.settings is None:
        return f"name {without_seed(record.name, record.seed)}"
    return json.dumps(_settings(record.settings), sort_keys=True)


def _settings(settings: dict) -> dict:
    """The settings that define a method, with current names. Settings of the evaluation are compared elsewhere."""
    today = flatten(Config()) | dict(rename_old(key, value) for key, value in settings.items())
    return {
        key: value
        for key, value in today.items()
        if key not in IGNORED_SETTINGS and not key.startswith(("evaluation.", "ablation."))
    }


def _refuse_twice(group: list[Record]) -> None:
    seen: dict = {}
    for record in group:
        same: list[tuple[str, str | int]] = [("path", str(record.path.resolve()))] if record.path else []
        if record.seed is not None and not record.members:
            same.append(("seed", record.seed))
        for key in same:
            if key in seen:
                raise DataError(
                    f"{_where(seen[key])} and {_where(record)} belong to the same method and have the same "
                    f"{key[0]} ({key[1]}). Leave one out, or give them different names: NAME=RUN."
                )
            seen[key] = record


def _labels(groups: list[list[Record]]) -> list[str]:
    """The label of each method: its given name, the settings that differ, or the name of its run without the seed."""
    if any(len({bool(one.members) for one in group}) > 1 for group in groups):
        raise ConfigError("Single models and ensembles have the same name. Give them different names: NAME=RUN.")
    own = [group[0].method or without_seed(group[0].name, group[0].seed) for group in groups]
    known = [
        None if group[0].method or group[0].members or group[0].settings is None else _settings(group[0].settings)
        for group in groups
    ]
    alike = [settings for settings in known if settings is not None]
    differing = [
        key
        for key in dict.fromkeys(key for one in alike for key in one)
        if len({json.dumps(one.get(key)) for one in alike}) > 1
    ]
    labels = list(own)
    if len(alike) > 1:
        for number, settings in enumerate(known):
            if settings is None:
                continue
            # A label names all differing keys if they are few; else, as in ablations, those that differ from the first.
            few = len(differing) <= MAX_LABEL_KEYS
            keys = differing if few else [key for key in differing if settings.get(key) != alike[0].get(key)]
            if 0 < len(keys) <= MAX_LABEL_KEYS:
                labels[number] = ", ".join(f"{key}={json.dumps(settings.get(key)).strip(chr(34))}" for key in keys)
    return [
        label if labels.count(label) == 1 else f"{label} ({labels[:number].count(label) + 1})"
        for number, label in enumerate(labels)
    ]


def _method(name: str, group: list[Record], resampled: dict | None) -> dict:
    """A method's row. resampled: {measure: [S]}, the mean over its seeds, or None if ranks are missing."""
    recalls = [_recalls(record.metrics) for record in group]
    span = interval(resampled["rsum"]) if resampled else None
    if span is None and len(group) == 1:  # an evaluation without ranks may have its own interval
        span = group[0].metrics.get("ci95", {}).get("rsum")
    return {
        "method": name,
        "kind": "ensemble" if group[0].members else "single",
        "members": sorted({len(record.members) for record in group}),
        "n": len(group),
        "seeds": [record.seed for record in group],
        "mean": {key: float(np.mean([one[key] for one in recalls])) for key in recalls[0]},
        "sd": None
        if len(group) < 2
        else {key: float(np.std([one[key] for one in recalls], ddof=1)) for key in recalls[0]},
        "rsum_ci95": span,
        "records": [
            {
                "name": record.name,
                "path": str(record.path) if record.path else None,
                "seed": record.seed,
                "commit": record.commit,
                **row,
            }
            for record, row in zip(group, recalls)
        ],
    }


def _recalls(metrics: dict) -> dict[str, float]:
    return {**{f"{way} R@{k}": metrics[way][f"R@{k}"] for way in DIRECTIONS for k in RECALLS}, "rsum": metrics["rsum"]}


def _with_rsum(recalls: np.ndarray) -> dict[str, np.ndarray]:
    """recalls: [S, 6] -> {measure: [S]}, including rsum."""
    return {**dict(zip(MEASURES, recalls.T)), "rsum": recalls.sum(1)}


def _difference(comparison: dict, resampled: dict, name: str, reference: str) -> dict:
    means, found = {method["method"]: method["mean"] for method in comparison["methods"]}, {}
    for measure in COMPARED:
        difference = means[name][measure] - means[reference][measure]
        span = judged = None
        if name in resampled and reference in resampled:
            # Rounded, so that the order of summation makes no difference.
            span = [round(bound, 9) for bound in interval(resampled[name][measure] - resampled[reference][measure])]
            judged = verdict(difference, span, seed_error(comparison, name, reference, measure))
        found[measure] = {"difference": difference, "ci95": span, "verdict": judged}
    return found


def _where(record: Record) -> str:
    return str(record.path) if record.path else record.name
