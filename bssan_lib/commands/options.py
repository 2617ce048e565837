"""Options that several commands share, and functions that parse their values."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bssan_lib.errors import ConfigError

MOST_SAMPLES = 100_000  # of the bootstrap


def add_config(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    names = "a YAML file, or the name of one of the project's, such as scenes" + (" (default)" if default else "")
    parser.add_argument("--config", required=default is None, default=default, metavar="FILE", help=names)
    parser.add_argument("--data", metavar="DIR", help="the data folder (default: data.folder of the configuration)")
    add_reading(parser)
    parser.add_argument(
        "-p",
        dest="parameters",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="one setting, such as training.epochs=2; may be repeated",
    )


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Options that say how a data folder is read; each is a setting too."""
    parser.add_argument("--images", metavar="DIR", help="where the photographs lie, if not in the data folder")
    parser.add_argument("--layout", metavar="NAME", help="read the data folder as this layout of docs/datasets.md")
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out photographs that cannot be opened, and count them"
    )
    parser.add_argument(
        "--allow-overlap", action="store_true", help="go on where photographs of train are in dev or test too"
    )


def settings_of(options: argparse.Namespace) -> dict[str, str]:
    """The settings that a command's options give: those of -p, and those of `add_reading`."""
    from bssan_lib.runs import quoted

    settings = parse_parameters(getattr(options, "parameters", []))
    if options.images:
        settings["data.image_folder"] = quoted(Path(options.images).expanduser().absolute())
    if options.layout:
        settings["data.layout"] = quoted(options.layout)
    flags = (("data.skip_bad", options.skip_bad), ("data.allow_overlap", options.allow_overlap))
    return settings | {key: "true" for key, given in flags if given}


def data_of_checkpoint(checkpoint, options: argparse.Namespace):
    """Settings that prepare raw data with the backbone of a checkpoint. Raises CheckpointError if it is unknown."""
    from bssan_lib.config import Config, override
    from bssan_lib.data import detect_source
    from bssan_lib.models.checkpoint import features_settings
    from bssan_lib.runs import absolute_paths

    settings = settings_of(options)
    layout = override(Config(), settings).data.layout
    places = {"source": detect_source(options.data, layout), "folder": options.data, "prepared": options.prepared}
    data = features_settings(checkpoint, **places)
    return absolute_paths(override(Config(data=data), settings)).data


def parse_parameters(arguments: list[str]) -> dict[str, str]:
    """Parses ["training.epochs=2"] into {"training.epochs": "2"}."""
    parameters = {}
    for text in arguments:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"-p {text}: expected KEY=VALUE, such as training.epochs=2")
        parameters[key.strip()] = value
    return parameters


def run_folder(out: str | None, name: str) -> Path:
    """The folder of a run: --out, or runs/NAME in the working directory."""
    return Path(out or Path("runs") / name).expanduser().absolute()


def print_table(rows: Sequence[tuple[str, object]]) -> None:
    """Prints names and values in two columns."""
    for name, value in rows:
        print(f"{name:18s} {value}")


def add_font(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--font",
        metavar="NAME|FILE",
        help="a font for characters that DejaVu Sans lacks; also as BSSAN_FONT (default: an installed font that has them)",
    )


def use_font(options: argparse.Namespace) -> None:
    """Makes --font the font of what this process draws. ConfigError where it is none."""
    from bssan_lib.viz.fonts import families

    if options.font:
        os.environ["BSSAN_FONT"] = options.font
    families()


def add_processes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="number of processes that share the work (default: one for each GPU, else one)",
    )


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", metavar="DIR", help="a checkpoint or a run folder (default: the packaged model)"
    )


def open_photograph(checkpoint: str | None, image: str):
    """A `Photograph` of an image file, with the features that a checkpoint needs."""
    return open_extractor(checkpoint).extract(image)


def open_extractor(folder: str | None):
    """A `FeatureExtractor` for a checkpoint folder, by default for the packaged model."""
    import torch

    from bssan_lib.evaluation.photograph import FeatureExtractor, load_pretrained
    from bssan_lib.models.checkpoint import check_directions, load_checkpoint

    device = "cuda" if torch.cuda.is_available() else "cpu"
    checkpoint = load_checkpoint(folder, device) if folder else load_pretrained(device=device)
    check_directions(checkpoint)
    return FeatureExtractor(checkpoint, device)


def print_unknown_words(checkpoint, captions: list[str]) -> None:
    """Prints the words of captions that are not in the checkpoint's vocabulary."""
    from bssan_lib.evaluation.photograph import unknown_words

    unknown = dict.fromkeys(word for caption in captions for word in unknown_words(caption, checkpoint.vocabulary))
    if unknown:
        shown = list(unknown)[:20] + ([f"and {len(unknown) - 20} more"] if len(unknown) > 20 else [])
        print(f"not in the vocabulary, treated as <unk>: {visible(', '.join(shown))}")


def visible(text: str) -> str:
    """Text from outside with control characters written out, because they could change the terminal: \\x1b for escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def check_samples(count: int, least: int = 0) -> None:
    """Raises ConfigError if the number of bootstrap samples is less than `least`, or so large that memory runs out."""
    if not least <= count <= MOST_SAMPLES:
        raise ConfigError(f"--bootstrap {count}: expected {least} to {MOST_SAMPLES:,} samples")


def formats_of(out: str) -> tuple[str, ...]:
    """The file formats of an --out. Raises ConfigError for an unknown suffix."""
    from bssan_lib.viz.style import FORMATS

    suffix = Path(out).suffix.lower().removeprefix(".")
    if suffix and suffix not in FORMATS:
        raise ConfigError(f"--out {out}: expected .pdf, .svg, .png, or no suffix for all three, got .{suffix}")
    return (suffix,) if suffix else FORMATS


def output_stem(out: str) -> Path:
    """An --out without its suffix. Raises ConfigError if no file can be written there."""
    from bssan_lib.files import check_target

    path = Path(out)
    if not path.name or path.is_dir() and not path.is_symlink():
        raise ConfigError(f"--out {out}: expected a file, got a folder; give for example {path / 'figure.pdf'}")
    nearest = next(folder for folder in path.absolute().parents if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ConfigError(f"--out {out}: {nearest} is not a folder that can be written to; choose another folder")
    stem = path.with_suffix("") if path.suffix else path
    for ending in ("txt", *formats_of(out)):
        check_target(stem.with_name(f"{stem.name}.{ending}"))
    return stem


def width_of(text: str) -> float:
    """The width in inches of "one", "two" or a number."""
    from bssan_lib.viz.style import column_width

    try:
        return column_width(float(text))
    except ValueError:
        return column_width(text)


def warn_if_busy() -> None:
    """Says in one line, before long work starts, that other programs keep this machine busy.

    Two threads of one product wait for each other: beside other work, one thread was measured to be twice as fast.
    """
    import psutil

    load, cores = psutil.getloadavg()[0], os.cpu_count() or 1
    if load >= 0.7 * cores and not {"OMP_NUM_THREADS", "LOCAL_RANK"} & set(os.environ):
        print(
            f"note: this machine is busy (load {load:.1f} on {cores} cores), so training takes much longer. Beside other "
            "programs it is faster with OMP_NUM_THREADS=1.",
            file=sys.stderr,
        )
