"""Checks a data folder before a run: `bssan check-data`.

Text files are read completely and all images are opened; of features a sample of rows is read.

Letters: N images, C captions, K regions, D feature size.
"""

from collections import Counter
from pathlib import Path

import numpy as np

from bssan_lib.config import Config
from bssan_lib.data import RAW_SOURCES, detect_source, list_splits, open_prepared
from bssan_lib.data.precomp import FEATURES, check_cap2im, open_boxes, read_captions
from bssan_lib.data.vocabulary import words_of
from bssan_lib.errors import DataError
from bssan_lib.evaluation.retrieval import protocol_folds
from bssan_lib.reading import open_array
from bssan_lib.series.check_raw import check_flickr8k, check_karpathy, check_table
from bssan_lib.series.checked import FolderCheck, facts_of, sample_rows


def check_folder(folder: Path | str, config: Config, progress: bool = False) -> FolderCheck:
    """Checks a folder with the settings of a run. DataError only for a folder of no known format, or of several."""
    folder = Path(folder)
    found = FolderCheck(detect_source(folder, config.data.layout, config.data.source))
    checks = dict(flickr8k=check_flickr8k, karpathy=check_karpathy, table=check_table)
    checks |= dict(precomp=_check_precomp, prepared=_check_prepared)
    checks[found.source](folder, found, config, progress)
    for split in dict.fromkeys(["train", "dev", config.evaluation.split]):
        if split not in found.splits and not any(f"split {split}" in text for text in found.missing):
            there = ", ".join(found.splits) or "none"
            found.missing.append(
                f"split {split}: not found; a run trains on train, chooses the epoch on dev and reports "
                f"{config.evaluation.split} (evaluation.split); found: {there}"
            )
    if config.evaluation.split in found.splits:
        try:
            protocol_folds(found.splits[config.evaluation.split].images, config.evaluation.protocol)
        except DataError as error:
            found.missing.append(f"evaluation.protocol: {error}")
    if found.source in RAW_SOURCES and config.data.source not in (found.source, "scenes"):
        found.missing.append(
            f"data.source: the settings have {config.data.source}, the folder has {found.source}; change the setting"
        )
    return found


def word_facts(captions: list[str], min_count: int) -> tuple[int, int, float]:
    """The number of words with at least `min_count` occurrences, of all words, and the mean words per caption."""
    counts = Counter(word for caption in captions for word in words_of(caption))
    kept = sum(count >= min_count for count in counts.values())
    return kept, len(counts), sum(counts.values()) / max(1, len(captions))


# -- features


def _check_precomp(folder: Path, found: FolderCheck, config: Config, progress: bool) -> None:
    for path in sorted(folder.glob("*_caps.txt")):
        if not (folder / f"{path.name.removesuffix('_caps.txt')}_ims.npy").is_file():
            found.missing.append(f"{path.name.removesuffix('_caps.txt')}_ims.npy: no features beside {path.name}")
    for path in sorted(folder.glob("*_ims.npy")):
        if not (folder / f"{path.name.removesuffix('_ims.npy')}_caps.txt").is_file():
            found.missing.append(f"{path.name.removesuffix('_ims.npy')}_caps.txt: no captions beside {path.name}")
    for split in list_splits(folder):
        try:
            _check_features(folder, split, found)
        except DataError as error:
            found.missing.append(f"split {split}: {error}")
    lacking = [name for name in ("ids.txt", "boxes.npy") if not (folder / f"train_{name}").is_file()]
    if lacking:
        names = " and ".join(f"{{split}}_{name}" for name in lacking)
        found.lines.append(("not found", f"{names}; runs work without them, but attention is not drawn over images"))


def _check_features(folder: Path, split: str, found: FolderCheck) -> None:
    path = folder / f"{split}_ims.npy"
    features, captions = open_array(path, 3, "fu", FEATURES), read_captions(folder / f"{split}_caps.txt")
    if 0 in features.shape:
        raise DataError(f"{path}: an empty array {list(features.shape)}; expected {FEATURES}")
    rows = sample_rows(len(features))
    for row in rows:
        if not np.isfinite(features[row]).all():
            raise DataError(f"{path}, row {row}: NaN or infinity; extract the features of this image again")
    own, repeats = folder / f"{split}_cap2im.npy", 1
    if own.is_file():
        cap2im = check_cap2im(own, len(captions), len(features))
    else:
        if len(captions) == len(features) and len(captions) % 5 == 0:
            groups = [np.asarray(features[5 * (row // 5) : 5 * (row // 5) + 5]) for row in rows]
            repeats = 5 if all((group == group[:1]).all() for group in groups) else 1
        images = len(features) // repeats
        if len(captions) % images:
            raise DataError(
                f"{path}: {images:,} images, but {split}_caps.txt has {len(captions):,} captions; expected the "
                f"same number for each image, or {split}_cap2im.npy with the image of each caption"
            )
        cap2im = np.repeat(np.arange(images), len(captions) // images)
    found.splits[split] = facts_of(len(features) // repeats, captions, cap2im)
    if found.dimension and features.shape[2] != found.dimension:
        raise DataError(f"{path}: {features.shape[2]} numbers per region, other splits have {found.dimension}")
    found.regions, found.dimension = max(found.regions, features.shape[1]), features.shape[2]
    open_boxes(folder / f"{split}_boxes.npy", len(features) // repeats, features.shape[1], repeats)
    found.has_boxes |= (folder / f"{split}_boxes.npy").is_file()
    repeated = ", each image five times" if repeats == 5 else ""
    found.lines.append(
        (
            path.name,
            f"{list(features.shape)} {features.dtype}{repeated}, {path.stat().st_size / 1e9:.2f} GB; "
            f"{len(rows)} rows checked",
        )
    )


def _check_prepared(folder: Path, found: FolderCheck, config: Config, progress: bool) -> None:
    for name in list_splits(folder):
        try:
            split = open_prepared(folder, name)
        except DataError as error:
            found.missing.append(f"split {name}: {error}")
            continue
        found.splits[name] = facts_of(len(split.ids), split.captions, split.cap2im)
        sizes = split.sizes
        found.regions, found.dimension, found.has_boxes = sizes["regions"], sizes["dimension"], split.boxes is not None
        found.objects = 0 if split.objects is None else sizes["objects"]
        made = f"of {split.meta['source']} by {split.meta['backbone']['name']}"
        found.lines.append((f"{name}_ims.npy", f"{list(split.regions.shape)} {split.regions.dtype}, {made}"))
