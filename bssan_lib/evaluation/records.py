"""The files of an evaluation: metrics.json, and beside it the ranks of all queries with a digest of the gallery.

    metrics.json         the numbers; "run" contains settings, seed and commit of the model, but no paths
    metrics.ranks.npz    int32 arrays of each fold, and a description of the gallery

The ranks are enough to compute all recalls, also for resampled images. So two records of the same gallery can be
compared without their scores. Nothing is unpickled.

Letters: N images, C captions, Q queries.
"""

import hashlib
import json
import re
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bssan_lib.config import Config, flatten
from bssan_lib.errors import DataError
from bssan_lib.evaluation.retrieval import DIRECTIONS, RECALLS, Ranks, metrics_of_folds
from bssan_lib.files import atomic_write
from bssan_lib.reading import LARGEST_FILE, check_file, one_line, parse_json, read_json, read_yaml

FORMAT = "bssan-ranks-1"
PATHS = (
    "data.folder",
    "data.prepared",
    "data.entities",
    "data.image_folder",
)  # differ between machines and do not affect training


class Metrics(dict):
    """The content of metrics.json, with the ranks and the description of the gallery as attributes."""

    ranks: list[Ranks] | None = None
    gallery: dict | None = None


Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10**9)]


class _Run(BaseModel):
    model_config = ConfigDict(strict=True)
    name: str | None = None
    seed: int | None = None
    commit: str | None = None
    config: dict[str, Any] | None = None


class _Content(BaseModel):
    """The keys of metrics.json that are used. Other keys may have any value."""

    model_config = ConfigDict(strict=True)
    dataset: str
    split: str
    protocol: str
    n_images: Count
    n_captions: Count
    i2t: dict[str, Number]
    t2i: dict[str, Number]
    rsum: Number = 0.0
    ci95: dict[str, list[Number] | dict[str, list[Number]]] = {}
    directions: dict[str, dict[str, Number | dict[str, Number]]] = {}
    run: _Run | None = None
    ensemble: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Record:
    """One evaluation, stored or new.

    name: of the run, checkpoint or file. metrics: as in metrics.json. ranks: of each fold; None if not stored.
    gallery: from `describe_gallery`, None without ranks. settings: the run's configuration with dotted keys, None if
    unknown. method: its name in tables; None: derived from settings or name.
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
        """The entries of the models of an ensemble; empty for a single model."""
        return self.metrics.get("ensemble") or []


def make_record(method: str, metrics: dict, seed: int | None = None) -> Record:
    """A record of the result of `evaluate`, for comparisons without files."""
    return Record(
        name=method if seed is None else f"{method}, seed {seed}",
        metrics=metrics,
        seed=seed,
        method=method,
        ranks=getattr(metrics, "ranks", None),
        gallery=getattr(metrics, "gallery", None),
    )


def describe_gallery(split, n_images: int) -> dict:
    """Digests of the first n_images of a `PreparedSplit` and of their captions, in order.

    Upper case and spacing of captions are ignored; their image rows are included. "images_sha256" is None if the names
    of the image files are unknown, as for precomputed features.
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
    """The path of the ranks: metrics.json -> metrics.ranks.npz."""
    return Path(metrics_path).with_suffix(".ranks.npz")


def write_ranks(metrics: dict, metrics_path: Path | str) -> None:
    """Writes the ranks of the result of `evaluate`. Raises OSError.

    Metrics without ranks change nothing: an existing file stays, and `read_record` rejects it if it does not fit.
    """
    if not isinstance(metrics, Metrics) or metrics.ranks is None:
        return
    folds = metrics.ranks
    about = {
        "format": FORMAT,
        "folds": len(folds),
        "gallery": metrics.gallery,
        **{key: metrics[key] for key in ("dataset", "split", "protocol", "n_images", "n_captions")},
    }
    arrays = {
        f"{number}_{field.name}": getattr(fold, field.name).astype(np.int32)
        for number, fold in enumerate(folds)
        for field in fields(Ranks)
    }
    with atomic_write(ranks_path(metrics_path)) as partial, open(partial, "wb") as file:
        np.savez_compressed(file, about=np.array(json.dumps(about)), **arrays)


def read_ranks(path: Path) -> tuple[list[Ranks], dict]:
    """The ranks of each fold, and {"dataset", "split", ..., "gallery"}. Raises DataError if the file is damaged."""
    try:
        check_file(path)
        with zipfile.ZipFile(path) as packed:
            if sum(part.file_size for part in packed.infolist()) > LARGEST_FILE:
                raise ValueError("its arrays are too large")
        with np.load(path, allow_pickle=False) as stored:
            about = parse_json(str(stored["about"]))
            if about["format"] != FORMAT:
                raise ValueError(f"format {about['format']!r} instead of {FORMAT}")
            folds = [
                Ranks(**{field.name: _rows(stored[f"{number}_{field.name}"]) for field in fields(Ranks)})
                for number in range(about["folds"])
            ]
        if not folds:
            raise ValueError("no fold")
        return folds, about
    except Exception as error:  # a damaged archive can fail in any way
        raise DataError(
            f"{path}: expected the ranks of an evaluation ({error}). Evaluate the checkpoint again with "
            "`bssan evaluate --out`, or delete the file."
        ) from error


def _rows(array: np.ndarray) -> np.ndarray:
    if array.ndim != 1 or not len(array) or array.dtype.kind not in "iu":
        raise ValueError(f"expected some integers, got {array.dtype} of the shape {list(array.shape)}")
    return array.astype(np.int64)


def describe_run(checkpoint) -> dict | None:
    """Name, seed, commit and settings of the run of a checkpoint; None for a model that was not loaded from files.

    "config" has dotted keys without paths, or is None if the checkpoint is not in a run folder.
    """
    folder = checkpoint.folder
    if folder is None:
        return None
    folder = Path(folder).resolve()
    if folder.parent.name == "checkpoints" and (folder.parent.parent / "config.yaml").is_file():
        return _read_run(folder.parent.parent)
    return {"name": folder.name, "seed": checkpoint.info.get("seed"), "commit": None, "config": None}


def _read_run(folder: Path) -> dict:
    """Name, seed, commit and settings of a run folder. Keys that an older run lacks have their defaults."""
    try:
        stored = read_yaml(folder / "config.yaml") or {}
        flat = flatten(Config())
        for key, value in stored.items():
            flat |= {f"{key}.{name}": one for name, one in value.items()} if isinstance(value, dict) else {key: value}
        if flat["training.word_vectors"]:  # the file's name without its folder
            flat["training.word_vectors"] = Path(flat["training.word_vectors"]).name
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{folder / 'config.yaml'}: expected the settings of a run ({error}).") from error
    environment = folder / "environment.json"
    try:
        commit = read_json(environment).get("commit") if environment.is_file() else None
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{environment}: cannot be read ({error}).") from error
    return {
        "name": folder.name,
        "seed": flat["seed"],
        "commit": commit,
        "config": {key: value for key, value in flat.items() if key not in PATHS},
    }


def read_metrics(path: Path) -> dict:
    """The content of metrics.json. Raises OSError if it cannot be read, and ValueError with one line if a part is
    missing, of another type, or NaN."""
    metrics = read_json(path)
    try:
        _Content.model_validate(metrics)
    except ValidationError as error:
        raise ValueError(one_line(error)) from None
    return metrics


def read_record(source: Path | str, method: str | None = None) -> Record:
    """The record of a run folder, of a checkpoint folder that contains metrics.json, or of a metrics file.

    Raises DataError for any other source, and if ranks and metrics belong to different evaluations.
    """
    path = Path(source)
    path = path / "metrics.json" if path.is_dir() else path
    try:
        metrics = read_metrics(path)
        metrics["rsum"], [metrics[direction][f"R@{k}"] for direction in DIRECTIONS for k in RECALLS]
    except FileNotFoundError as error:
        raise DataError(
            f"{source}: no {path.name} found. Expected a run folder, a checkpoint folder with metrics.json, or a file "
            "of `bssan evaluate --out`."
        ) from error
    except OSError as error:
        raise DataError(f"{path}: the metrics cannot be read ({error.strerror}).") from error
    except (ValueError, KeyError) as error:
        raise DataError(f"{path}: expected a metrics file of `bssan evaluate` ({one_line(error)}).") from error
    ranks, about = read_ranks(ranks_path(path)) if ranks_path(path).is_file() else (None, {})
    if ranks is not None:
        _check_ranks(path, metrics, ranks, about)
    run = metrics.get("run")
    if run is None and not metrics.get("ensemble") and path.name == "metrics.json":
        run = _read_run(path.parent) if (path.parent / "config.yaml").is_file() else None
    run = run or {}
    stem = path.resolve().parent.name if path.name == "metrics.json" else path.stem
    return Record(
        name=run.get("name") or stem,
        metrics=metrics,
        ranks=ranks,
        gallery=about.get("gallery"),
        seed=run.get("seed"),
        settings=run.get("config"),
        commit=run.get("commit"),
        method=method,
        path=path,
    )


def _check_ranks(path: Path, metrics: dict, ranks: list[Ranks], about: dict) -> None:
    """Raises DataError unless the metrics agree with the ranks."""
    for fold in ranks:
        i2t, t2i = len(fold.i2t) == len(fold.images), len(fold.t2i) == len(fold.captions) == len(fold.caption_images)
        highest = max(fold.i2t.max() / metrics["n_captions"], fold.t2i.max() / metrics["n_images"])
        lowest = min(fold.i2t.min(), fold.t2i.min())
        if not (i2t and t2i and lowest >= 1 and highest <= 1 and set(fold.images) == set(fold.caption_images)):
            raise DataError(
                f"{ranks_path(path)}: expected complete ranks of {metrics['n_images']} images and "
                f"{metrics['n_captions']} captions. Evaluate the checkpoint again with `bssan evaluate --out`, or "
                "delete the ranks."
            )
    computed = metrics_of_folds(ranks)
    keys = [(direction, f"R@{k}") for direction in DIRECTIONS for k in RECALLS]
    whole = sum(len(fold.captions) for fold in ranks) == metrics["n_captions"]
    same = whole and all(
        metrics[key] == about.get(key) for key in ("dataset", "split", "protocol", "n_images", "n_captions")
    )
    if not same or any(abs(computed[direction][key] - metrics[direction][key]) > 1e-3 for direction, key in keys):
        raise DataError(
            f"{ranks_path(path)}: these ranks do not belong to {path.name} (rsum {computed['rsum']:.4f} from the "
            f"ranks, {metrics['rsum']:.4f} in {path.name}). Evaluate the checkpoint again with `bssan evaluate --out`, "
            "or delete the ranks."
        )


def without_seed(name: str, seed: int | None) -> str:
    """The name of a run without the seed at its end: "scan-seed2", "scan_s2" and "scan-2" become "scan"."""
    found = re.fullmatch(r"(.+?)[-_. ]+(?:seed|s)?[-_. ]*(\d+)", name)
    return found[1] if found and seed in (None, int(found[2])) else name
