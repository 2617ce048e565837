"""bssan check-data: checks a data folder and estimates time, memory and disk of a run, before a run starts."""

import argparse
import shutil
import sys
from pathlib import Path

from bssan_lib.commands.options import add_reading, print_table, settings_of
from bssan_lib.errors import ConfigError, DataError


def add_commands(commands) -> None:
    """Adds this command to the parser of `bssan`."""
    check = commands.add_parser(
        "check-data", help="check a data folder and estimate the time, memory and disk of a run"
    )
    check.add_argument("data", metavar="DIR", help="images with captions, or features")
    check.add_argument(
        "--config", metavar="FILE", help="the settings (default: those of configs/ for the format found)"
    )
    add_reading(check)
    check.add_argument(
        "-p",
        dest="parameters",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="one setting, such as training.epochs=2; may be repeated",
    )
    check.set_defaults(command=_check)


def _check(options: argparse.Namespace) -> None:
    from bssan_lib.config import Config, load_config, override
    from bssan_lib.data import detect_source
    from bssan_lib.runs import find_config
    from bssan_lib.series.check_data import check_folder

    folder = Path(options.data)
    settings = settings_of(options)
    forced = override(Config(), settings).data
    path = options.config or _configuration(detect_source(folder, forced.layout, forced.source), folder)
    config = load_config(find_config(path), settings)
    if config.data.source == "scenes":
        raise ConfigError(
            f"{path}: data.source is scenes, which need no data folder; give the settings of a run on {folder}"
        )
    config.data.folder = str(folder.resolve())
    print_table([("folder", folder), ("settings", path)])
    found = check_folder(folder, config, progress=sys.stderr.isatty())
    print_table([("format", found.source), *_split_rows(found), *found.lines])
    print_table(_cost_rows(found, config))
    if found.missing:
        problems = "\n".join(f"  - {text}" for text in found.missing)
        raise DataError(f"{folder}: a run cannot start; missing or wrong:\n{problems}")
    print_table([("missing", "nothing"), ("next", f"bssan reproduce --config {path} --data {folder}")])


def _configuration(source: str, folder: Path) -> str:
    """The name of the project's settings for a folder."""
    from bssan_lib.data.karpathy import karpathy_files
    from bssan_lib.data.precomp import precomp_splits
    from bssan_lib.data.prepared import read_meta

    if source == "karpathy":
        return "coco" if karpathy_files(folder)[0].name == "dataset_coco.json" else "flickr30k"
    if source == "precomp":
        if "testall" in precomp_splits(folder):
            return "coco-precomp"
        return "flickr30k-precomp" if "f30k" in folder.resolve().name else "precomp"
    if source == "prepared":
        made_from = (read_meta(folder) or {}).get("source")
        return made_from if made_from in ("flickr8k", "flickr30k", "coco") else "precomp"
    return source


def _split_rows(found) -> list[tuple[str, str]]:
    rows = []
    for name, split in found.splits.items():
        each = f"{split.fewest}" if split.fewest == split.most else f"{split.fewest} to {split.most}"
        captions = f"{len(split.captions):,} captions, {each} per image" if split.captions else "captions not read"
        rows.append((f"split {name}", f"{split.images:,} images, {captions}"))
    return rows


def _cost_rows(found, config) -> list[tuple[str, str]]:
    """Words, disk, memory and time, if the folder allows an estimate. Adds a full disk to found.missing."""
    from bssan_lib.data import RAW_SOURCES
    from bssan_lib.series.check_data import word_facts

    train = found.splits.get("train")
    if not train or not train.captions:
        return [("cost", "not computed, because there are no training captions")]
    kept, words, mean = word_facts(train.captions, config.data.min_word_count)
    rows = [
        (
            "words",
            f"{kept:,} of {words:,} occur at least {config.data.min_word_count} times in training, the others are "
            f"<unk>; {mean:.1f} per caption",
        )
    ]
    from bssan_lib.series.cost import FeatureSizes, measure_extraction, measure_model, size, training_memory

    timed = []
    if found.source in RAW_SOURCES:
        if not found.pictures:
            return [*rows, ("cost", "not computed, because no image can be read")]
        sizes, each = measure_extraction(config.data, found.pictures)
        images, row = _features_to_make(found, config, sizes)
        rows.append(row)
        timed.append(("features, about", images * each, f"{images:,} images x {1000 * each:.1f} ms"))
    elif found.dimension:
        sizes = FeatureSizes(found.regions, found.objects, found.dimension, found.has_boxes)
    else:
        return [*rows, ("cost", "not computed, because no features can be read")]
    measured = measure_model(config, sizes, train.captions)
    needed = training_memory(config, sizes, measured.parameters, mean)
    million = f"{measured.parameters / 1e6:.1f} million parameters"
    rows.append(
        (
            "memory",
            f"{size(needed)} per training step, estimated ({million}); here: {_memory_here()}; scoring "
            f"uses up to {config.evaluation.memory} (evaluation.memory)",
        )
    )
    return rows + _time_rows(found, config, measured, timed)


def _features_to_make(found, config, sizes) -> tuple[int, tuple[str, str]]:
    """The number of images and views without features, and a row about the disk space that they need."""
    from bssan_lib.data.prepared import prepared_folder, read_meta
    from bssan_lib.series.cost import size

    place = prepared_folder(config.data).absolute()
    meta = read_meta(place) if place.is_dir() else None
    done = set(meta["splits"]) if meta else set()
    views = {name: config.data.views if name == "train" else 0 for name in found.splits if name not in done}
    needed = sum(sizes.bytes(found.splits[name].images, count) for name, count in views.items())
    images = sum(found.splits[name].images * (1 + count) for name, count in views.items())
    parent = next(parent for parent in (place, *place.parents) if parent.is_dir())
    free = shutil.disk_usage(parent).free
    if needed > free:
        found.missing.append(
            f"disk: the features need {size(needed)}, and {parent} has {size(free)} left; free some space or "
            "set another data.prepared"
        )
    there = f"; done already: {', '.join(sorted(done))}" if done else ""
    return images, (
        "disk",
        f"{size(needed)} for features in {place}, {size(free)} free; {sizes.regions} regions and "
        f"{sizes.objects} objects of {sizes.dimension} numbers per image{there}",
    )


def _time_rows(found, config, measured, timed) -> list[tuple[str, str]]:
    from bssan_lib.series.cost import duration, evaluation_seconds

    training, train = config.training, found.splits["train"]
    steps = max(1, len(train.captions) // training.batch_size)
    timed.append(
        (
            "training, about",
            training.epochs * steps * measured.step,
            f"{training.epochs} epochs x {steps:,} steps x {duration(measured.step)}",
        )
    )
    if dev := found.splits.get("dev"):
        images = min(dev.images, training.dev_images)
        captions = round(images / dev.images * len(dev.captions))
        timed.append(
            (
                "dev, each epoch",
                training.epochs * evaluation_seconds(measured, images, captions),
                f"{training.epochs} epochs x {images:,} images x {captions:,} captions",
            )
        )
    if test := found.splits.get(config.evaluation.split):
        timed.append(
            (
                "evaluation, about",
                evaluation_seconds(measured, test.images, len(test.captions)),
                f"{config.evaluation.split}: {test.images:,} images x {len(test.captions):,} captions, "
                f"{1e6 * measured.pair:.1f} s per million pairs",
            )
        )
    timed.append(
        (
            "02 and 03, at most",
            2 * training.single_epochs * steps * measured.step,
            f"one direction each, {training.single_epochs} epochs; `bssan train` skips these notebooks",
        )
    )
    total = sum(seconds for _, seconds, _ in timed)
    return [
        ("measured on", f"{measured.device}, with its current load; without reading from disk"),
        *((name, f"{duration(seconds):8s} {how}") for name, seconds, how in timed),
        ("total, about", duration(total)),
    ]


def _memory_here() -> str:
    import psutil
    import torch

    from bssan_lib.series.cost import size

    if torch.cuda.is_available():
        free, whole = torch.cuda.mem_get_info()
        return f"{size(free)} free of {size(whole)} on the GPU"
    return f"{size(psutil.virtual_memory().total)} in the machine"
