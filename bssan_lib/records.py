"""What an evaluation leaves behind: metrics.json, and beside it the ranks of every query, with a digest of the gallery.

    metrics.json         the numbers; "run" holds the settings, seed and commit of the model, but no paths of a machine
    metrics.ranks.npz    int32 arrays of each fold, and what was ranked: two records compare only if that is the same

Ranks are enough to count every recall again under resampled images, so records can be compared pair by pair long after
their scores are gone. Nothing is ever unpickled.

Letters: N images, C captions, Q queries.
"""

import hashlib
import io
import json
import re
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import yaml

from bssan_lib.config import Config, flatten
from bssan_lib.data.files import replace_bytes
from bssan_lib.errors import DataError
from bssan_lib.retrieval import RECALLS, Ranks, ranks_metrics

FORMAT = "bssan-ranks-1"
PATHS = ("data.folder", "data.prepared", "data.entities")  # a machine's own: no part of what was trained
WAYS = ("i2t", "t2i")


class Metrics(dict):
    """The keys of metrics.json, and the ranks they were counted from with the gallery's description."""

    ranks: list[Ranks] | None = None
    gallery: dict | None = None


@dataclass(frozen=True)
class Record:
    """One stored or fresh evaluation.

    name: of the run, checkpoint or file. metrics: as in metrics.json. ranks: one Ranks a fold, None where none were
    stored. gallery: what `describe_gallery` says, None without ranks. settings: the run's configuration with dotted
    keys, None where unknown. method: what it is to be called; None: found from settings and name.
    """

    name: str
    metrics: dict
    ranks: list[Ranks] | None = None
    gallery: dict | None = None
    seed: int | None = None
    settings: dict | None = None
    commit: str | None = None
    method: str | None = None
    path: Path | None = None

    @property
    def members(self) -> list[dict]:
        """What the metrics say of each model of an ensemble; empty for a single model."""
        return self.metrics.get("ensemble") or []


def make_record(method: str, metrics: dict, seed: int | None = None) -> Record:
    """A record of what `evaluate` has just returned, for a comparison in a notebook."""
    return Record(name=method if seed is None else f"{method}, seed {seed}", metrics=metrics, seed=seed, method=method,
                  ranks=getattr(metrics, "ranks", None), gallery=getattr(metrics, "gallery", None))


def describe_gallery(split, n_images: int) -> dict:
    """Digests of the first n_images of a `PreparedSplit` and of their captions, in order.

    Captions count without case and spacing, each with its image's row. "images_sha256" is None where file names are
    not known, as in the field's own folders.
    """
    captions = hashlib.sha256()
    for row, caption in zip(split.cap2im, split.captions):
        if row < n_images:
            captions.update(f"{row}\t{' '.join(caption.lower().split())}\n".encode("utf-8", "replace"))
    ids = split.ids[:n_images]
    known = any(name != f"row {row}" for row, name in enumerate(ids))
    images = hashlib.sha256("\n".join(ids).encode("utf-8", "replace")).hexdigest() if known else None
    return {"captions_sha256": captions.hexdigest(), "images_sha256": images}


def ranks_path(metrics_path: Path | str) -> Path:
    """metrics.json -> metrics.ranks.npz beside it."""
    return Path(metrics_path).with_suffix(".ranks.npz")


def write_ranks(metrics: dict, metrics_path: Path | str) -> None:
    """Writes the ranks that `evaluate` left with its metrics, whole or not at all. Raises OSError.

    Metrics that carry none take away the ranks of those they are about to replace.
    """
    path, folds = ranks_path(metrics_path), getattr(metrics, "ranks", None)
    if folds is None:
        path.unlink(missing_ok=True)
        return
    about = {"format": FORMAT, "folds": len(folds), "gallery": metrics.gallery,
             **{key: metrics[key] for key in ("dataset", "split", "protocol", "n_images", "n_captions")}}
    arrays = {f"{number}_{field.name}": getattr(fold, field.name).astype(np.int32)
              for number, fold in enumerate(folds) for field in fields(Ranks)}
    file = io.BytesIO()
    np.savez_compressed(file, about=np.array(json.dumps(about)), **arrays)
    replace_bytes(path, file.getvalue())


def read_ranks(path: Path) -> tuple[list[Ranks], dict]:
    """One Ranks a fold, and what was ranked: {"dataset", "split", "protocol", ..., "gallery"}. DataError if damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            if about["format"] != FORMAT:
                raise ValueError(f"format {about['format']!r} instead of {FORMAT}")
            return [Ranks(**{field.name: stored[f"{number}_{field.name}"].astype(np.int64) for field in fields(Ranks)})
                    for number in range(about["folds"])], about
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: no ranks of an evaluation ({error}); delete the file, or measure the checkpoint again "
                        "with `bssan evaluate --out`.") from error


def describe_run(checkpoint) -> dict | None:
    """Name, seed, commit and settings of the run that a loaded checkpoint lies in; None for one in memory alone.

    "config" has dotted keys without a machine's paths; it is None for a checkpoint that lies in no run.
    """
    folder = checkpoint.folder
    if folder is None:
        return None
    folder = Path(folder).resolve()
    if folder.parent.name == "checkpoints" and (folder.parent.parent / "config.yaml").is_file():
        return _run_of(folder.parent.parent)
    return {"name": folder.name, "seed": checkpoint.info.get("seed"), "commit": None, "config": None}


def _run_of(folder: Path) -> dict:
    """What config.yaml and environment.json of a run folder say, read leniently: an older run has fewer keys."""
    try:
        stored = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")) or {}
        flat = flatten(Config())
        for key, value in stored.items():
            flat |= {f"{key}.{inner}": one for inner, one in value.items()} if isinstance(value, dict) else {key: value}
        if flat["training.word_vectors"]:  # which vectors, but not where this machine keeps them
            flat["training.word_vectors"] = Path(flat["training.word_vectors"]).name
    except (OSError, ValueError, yaml.YAMLError, AttributeError) as error:
        raise DataError(f"{folder / 'config.yaml'}: cannot be read as a run's settings ({error}).") from error
    environment = folder / "environment.json"
    try:
        commit = json.loads(environment.read_text(encoding="utf-8")).get("commit") if environment.is_file() else None
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{environment}: cannot be read ({error}).") from error
    return {"name": folder.name, "seed": flat["seed"], "commit": commit,
            "config": {key: value for key, value in flat.items() if key not in PATHS}}


def read_record(given: Path | str, method: str | None = None) -> Record:
    """The record of a run folder, a checkpoint folder with metrics.json in it, or a metrics file.

    Raises DataError for anything else, and where ranks and metrics are not of one evaluation.
    """
    path = Path(given)
    path = path / "metrics.json" if path.is_dir() else path
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        for key in ("dataset", "split", "protocol", "n_images", "n_captions", "rsum"):
            metrics[key]
        [metrics[way][f"R@{k}"] + 0.0 for way in WAYS for k in RECALLS]
    except FileNotFoundError as error:
        raise DataError(f"{given}: no {path.name} there. Expected a run folder, a checkpoint with its metrics.json, or a "
                        "file that `bssan evaluate --out` wrote.") from error
    except OSError as error:
        raise DataError(f"{path}: the metrics cannot be read ({error.strerror}).") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: no metrics file of `bssan evaluate` ({error!r}).") from error
    ranks, about = read_ranks(ranks_path(path)) if ranks_path(path).is_file() else (None, {})
    if ranks is not None:
        _refuse_other_ranks(path, metrics, ranks, about)
    run = metrics.get("run")
    if run is None and not metrics.get("ensemble") and path.name == "metrics.json":
        run = _run_of(path.parent) if (path.parent / "config.yaml").is_file() else None
    run = run or {}
    stem = path.resolve().parent.name if path.name == "metrics.json" else path.stem
    return Record(name=run.get("name") or stem, metrics=metrics, ranks=ranks, gallery=about.get("gallery"),
                  seed=run.get("seed"), settings=run.get("config"), commit=run.get("commit"), method=method, path=path)


def _refuse_other_ranks(path: Path, metrics: dict, ranks: list[Ranks], about: dict) -> None:
    counted = ranks_metrics(ranks)
    same = all(metrics[key] == about.get(key) for key in ("dataset", "split", "protocol", "n_images", "n_captions"))
    if not same or any(abs(counted[way][f"R@{k}"] - metrics[way][f"R@{k}"]) > 1e-3 for way in WAYS for k in RECALLS):
        raise DataError(f"{ranks_path(path)}: not the ranks that {path.name} was counted from (rsum {counted['rsum']:.4f} "
                        f"by the ranks, {metrics['rsum']:.4f} in the file). Measure the checkpoint again with "
                        "`bssan evaluate --out`, or delete the ranks.")


def without_seed(name: str, seed: int | None) -> str:
    """A run's name without the seed at its end: "scan-seed2", "scan_s2" and "scan-2" are all "scan"."""
    found = re.fullmatch(r"(.+?)[-_. ]+(?:seed|s)?[-_. ]*(\d+)", name)
    return found[1] if found and seed in (None, int(found[2])) else name
