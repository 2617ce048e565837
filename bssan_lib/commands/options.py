"""Options that several commands share, and how their values are read."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from bssan_lib.errors import ConfigError

MOST_SAMPLES = 100_000  # of the bootstrap


def add_config(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    names = "a YAML file, or the name of one of the project's, such as scenes" + (" (default)" if default else "")
    parser.add_argument("--config", required=default is None, default=default, metavar="FILE", help=names)
    parser.add_argument("--data", metavar="DIR", help="the data folder, where the configuration names none")
    parser.add_argument(
        "-p",
        dest="parameters",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="one setting, such as training.epochs=2; may be repeated",
    )


def data_of_checkpoint(checkpoint, options: argparse.Namespace):
    """Settings that turn raw data into features of the kind that a checkpoint was trained on."""
    from bssan_lib.config import Config
    from bssan_lib.data import detect_source
    from bssan_lib.models.checkpoint import features_settings
    from bssan_lib.runs import absolute_paths

    places = {"source": detect_source(options.data), "folder": options.data, "prepared": options.prepared}
    return absolute_paths(Config(data=features_settings(checkpoint, **places))).data


def parse_parameters(given: list[str]) -> dict[str, str]:
    """["training.epochs=2"] as {"training.epochs": "2"}."""
    parameters = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"-p {text}: expected KEY=VALUE, such as training.epochs=2")
        parameters[key.strip()] = value
    return parameters


def run_folder(out: str | None, name: str) -> Path:
    """Where a run is written: --out, or runs/NAME; from the working directory, whatever the repository holds."""
    return Path(out or Path("runs") / name).expanduser().absolute()


def print_table(rows: Sequence[tuple[str, object]]) -> None:
    """Prints names and values in two columns."""
    for name, value in rows:
        print(f"{name:18s} {value}")


def add_processes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--processes", type=int, metavar="N", help="processes that share the work (default: one for each GPU, else one)"
    )


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", metavar="DIR", help="a checkpoint or a run folder (default: the packaged model)"
    )


def open_photograph(checkpoint: str | None, image: str):
    """A photograph with the features that a checkpoint needs."""
    return open_camera(checkpoint).take(image)


def open_camera(folder: str | None):
    """A `Camera`, which computes the features of pictures, for a checkpoint or for the packaged model."""
    import torch

    from bssan_lib.evaluation.photograph import Camera, load_pretrained
    from bssan_lib.models.checkpoint import check_directions, load_checkpoint

    device = "cuda" if torch.cuda.is_available() else "cpu"
    checkpoint = load_checkpoint(folder, device) if folder else load_pretrained(device=device)
    check_directions(checkpoint)
    return Camera(checkpoint, device)


def print_unknown_words(checkpoint, captions: list[str]) -> None:
    """Prints the words of captions that are not in the checkpoint's vocabulary, if there are any."""
    from bssan_lib.evaluation.photograph import unknown_words

    unknown = dict.fromkeys(word for caption in captions for word in unknown_words(caption, checkpoint.vocabulary))
    if unknown:
        shown = list(unknown)[:20] + ([f"and {len(unknown) - 20} more"] if len(unknown) > 20 else [])
        print(f"not in the vocabulary, treated as <unk>: {visible(', '.join(shown))}")


def visible(text: str) -> str:
    """A text that others made, in which what would steer a terminal is visible: an escape as \\x1b."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def check_samples(count: int, least: int = 0) -> None:
    """ConfigError for a number of bootstrap samples that is none, or so many that they fill the memory."""
    if not least <= count <= MOST_SAMPLES:
        raise ConfigError(f"--bootstrap {count}: expected {least} to {MOST_SAMPLES:,} samples")


def formats_of(out: str) -> tuple[str, ...]:
    """The formats that an --out asks for. ConfigError for another ending."""
    from bssan_lib.viz.style import FORMATS

    suffix = Path(out).suffix.lower().removeprefix(".")
    if suffix and suffix not in FORMATS:
        raise ConfigError(f"--out {out}: expected .pdf, .svg, .png, or no ending for all three, got .{suffix}")
    return (suffix,) if suffix else FORMATS


def output_stem(out: str) -> Path:
    """An --out without its ending. ConfigError, before anything is computed, where nothing could be written."""
    from bssan_lib.files import check_target

    path = Path(out)
    if not path.name or path.is_dir() and not path.is_symlink():
        raise ConfigError(f"--out {out}: a folder; expected a file to write, such as {path / 'figure.pdf'}")
    nearest = next(folder for folder in path.absolute().parents if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ConfigError(f"--out {out}: {nearest} is no folder that can be written to; choose another place")
    stem = path.with_suffix("") if path.suffix else path
    for ending in ("txt", *formats_of(out)):
        check_target(stem.with_name(f"{stem.name}.{ending}"))
    return stem


def width_of(text: str) -> float:
    """Inches of "one", "two" or a number."""
    from bssan_lib.viz.style import column_width

    try:
        return column_width(float(text))
    except ValueError:
        return column_width(text)
