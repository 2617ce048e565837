"""bssan check-data: what a folder holds, what is missing and what a run on it will take, before anything runs."""

import argparse
import shutil
import sys
from pathlib import Path

from bssan_lib.commands.options import add_reading, print_table, settings_of
from bssan_lib.errors import ConfigError, DataError


def add_commands(commands) -> None:
    """Adds this command to the parser of `bssan`."""
    check = commands.add_parser(
        "check-data", help="say what a data folder holds, what is missing and what a run will take"
    )
    check.add_argument("data", metavar="DIR", help="pictures with captions, or features")
    check.add_argument(
        "--config", metavar="FILE", help="the settings (default: those of configs/ that go with what is found)"
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
            f"{path}: its source is scenes, which are drawn and need no check; give the settings of a run on {folder}"
        )
    config.data.folder = str(folder.resolve())
    print_table([("folder", folder), ("settings", path)])
    found = check_folder(folder, config, progress=sys.stderr.isatty())
    print_table([("holds", found.source), *_split_rows(found), *found.lines])
    print_table(_cost_rows(found, config))
    if found.missing:
        said = "\n".join(f"  - {text}" for text in found.missing)
        raise DataError(f"{folder}: a run cannot start yet; missing or wrong:\n{said}")
    print_table([("missing", "nothing"), ("next", f"bssan reproduce --config {path} --data {folder}")])


def _configuration(source: str, folder: Path) -> str:
    """The name of the shipped settings that go with a folder."""
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
        said = f", {len(split.captions):,} captions, {each} an image" if split.captions else ", captions not read"
        rows.append((f"split {name}", f"{split.images:,} images{said}"))
    return rows


def _cost_rows(found, config) -> list[tuple[str, str]]:
    """Words, disk, memory and time, as far as what is there allows to compute them; disk that lacks room is missing."""
    from bssan_lib.data import RAW_SOURCES
    from bssan_lib.series.check_data import word_facts

    train = found.splits.get("train")
    if not train or not train.captions:
        return [("cost", "not computed: there are no training captions to compute it from")]
    kept, words, mean = word_facts(train.captions, config.data.min_word_count)
    rows = [
        (
            "words",
            f"{kept:,} of {words:,} come at least {config.data.min_word_count} times in training, the others are "
            f"<unk>; {mean:.1f} a caption",
        )
    ]
    from bssan_lib.series.cost import FeatureSizes, measure_extraction, measure_model, size, training_memory

    timed = []
    if found.source in RAW_SOURCES:
        if not found.pictures:
            return [*rows, ("cost", "not computed: no picture can be read")]
        sizes, each = measure_extraction(config.data, found.pictures)
        images, row = _features_to_make(found, config, sizes)
        rows.append(row)
        timed.append(("features, about", images * each, f"{images:,} pictures x {1000 * each:.1f} ms"))
    elif found.dimension:
        sizes = FeatureSizes(found.regions, found.objects, found.dimension, found.has_boxes)
    else:
        return [*rows, ("cost", "not computed: no features can be read")]
    measured = measure_model(config, sizes, train.captions)
    needed = training_memory(config, sizes, measured.parameters, mean)
    million = f"{measured.parameters / 1e6:.1f} million parameters"
    rows.append(
        (
            "memory",
            f"{size(needed)} a training step by arithmetic ({million}); here: {_memory_here()}; scoring "
            f"keeps to {config.evaluation.memory} (evaluation.memory)",
        )
    )
    return rows + _time_rows(found, config, measured, timed)


def _features_to_make(found, config, sizes) -> tuple[int, tuple[str, str]]:
    """How many pictures and further views have no features yet, and a row about the disk that they need."""
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
            f"disk: the features need {size(needed)}, and {parent} has {size(free)} left; make room or "
            "give another data.prepared"
        )
    there = f"; there already: {', '.join(sorted(done))}" if done else ""
    return images, (
        "disk",
        f"{size(needed)} for features in {place}, {size(free)} free; {sizes.regions} regions and "
        f"{sizes.objects} objects of {sizes.dimension} numbers an image{there}",
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
                f"{1e6 * measured.pair:.1f} s a million pairs",
            )
        )
    timed.append(
        (
            "02 and 03, at most",
            2 * training.single_epochs * steps * measured.step,
            f"one direction each for {training.single_epochs} epochs; `bssan train` leaves them out",
        )
    )
    total = sum(seconds for _, seconds, _ in timed)
    return [
        ("measured on", f"{measured.device}, as busy as it is now; disk not timed"),
        *((name, f"{duration(seconds):8s} {how}") for name, seconds, how in timed),
        ("in all, about", duration(total)),
    ]


def _memory_here() -> str:
    import psutil
    import torch

    from bssan_lib.series.cost import size

    if torch.cuda.is_available():
        free, whole = torch.cuda.mem_get_info()
        return f"{size(free)} free of {size(whole)} on the GPU"
    return f"{size(psutil.virtual_memory().total)} in the machine"
