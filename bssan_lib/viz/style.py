"""One look for every figure: widths of a journal's columns, sizes, colours, texts that always render, saving.

Letters: K regions, M objects, T words. Widths are inches, sizes of texts are points.

Functions in this package draw what they are given and never compute a score. Each returns (figure, axes,
mappable); the mappable is None where no colour stands for a number. None of them shows a window.
"""

import io
import re
import unicodedata
import warnings
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import ListedColormap
from matplotlib.rcsetup import cycler
from matplotlib.textpath import text_to_path
from PIL import Image

from bssan_lib.errors import ConfigError, DataError, RunError
from bssan_lib.files import atomic_write
from bssan_lib.viz.fonts import families, warn_of_missing

COLUMNS = {"one": 3.25, "two": 6.75}
SEQUENTIAL = "cividis"  # brightness rises evenly, so it survives greyscale printing and colour blindness
RIGHT, WRONG = "#0072B2", "#D55E00"  # Okabe and Ito's blue and vermilion: distinct to colour-blind readers too
SERIES = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
TICK, CROSS = "\u2713", "\u2717"
FORMATS = ("pdf", "svg", "png")
NOTE_KEYS = ("image", "caption", "checkpoint", "direction", "temperature", "seed")
SMALL, NORMAL = 6.0, 7.0  # nothing is smaller than what a journal prints readably
MARGIN, LINE = 0.05, 0.13  # inches: around a figure; of a line of its heading
SCREEN_DPI = 110  # dots an inch in a notebook


def _settings() -> dict:
    return {
        "font.family": families(),
        "font.size": NORMAL,
        "axes.titlesize": NORMAL,
        "axes.labelsize": NORMAL,
        "xtick.labelsize": SMALL,
        "ytick.labelsize": SMALL,
        "legend.fontsize": SMALL,
        "axes.linewidth": 0.6,
        "lines.linewidth": 1.1,
        "patch.linewidth": 0.6,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
        "axes.titlepad": 3.0,
        "axes.labelpad": 2.0,
        "xtick.major.pad": 2.0,
        "ytick.major.pad": 2.0,
        "legend.frameon": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "image.cmap": SEQUENTIAL,
        "axes.prop_cycle": cycler(color=SERIES),
        "figure.facecolor": "white",
        "figure.dpi": SCREEN_DPI,
        "savefig.dpi": 300,
        "savefig.bbox": None,
        "savefig.facecolor": "white",
        "text.usetex": False,
        # Type 42 is TrueType, embedded and editable. SVG gets outlines: it carries no fonts along.
        "pdf.fonttype": 42,
        "ps.fonttype": 42,
        "svg.fonttype": "path",
        "svg.hashsalt": "bssan",
    }


@contextmanager
def paper_style():
    """The settings all figures share, as a context: `with paper_style(): ...`. rcParams come back after."""
    with mpl.rc_context(_settings()):
        yield


def column_width(width: str | float) -> float:
    """Inches of "one" (3.25) or "two" (6.75) columns, or of a number. ConfigError for anything else."""
    if isinstance(width, str):
        if width in COLUMNS:
            return COLUMNS[width]
    elif not isinstance(width, bool) and np.isfinite(width) and 1.0 <= width <= 40.0:
        return float(width)
    raise ConfigError(f'width: expected "one" (3.25), "two" (6.75) or 1 to 40 inches, got {width!r}')


def plain(text: object) -> str:
    """Any text on one line without what cannot be drawn: control characters and lone surrogates go."""
    text = str(text).encode("utf-8", "replace").decode("utf-8")
    text = "".join(" " if unicodedata.category(c)[0] in "CZ" and c not in "\u200c\u200d" else c for c in text)
    return re.sub(" +", " ", text).strip()


def text_width(text: str, size: float = NORMAL) -> float:
    """Inches that a text takes in the figures' font at a size in points, on paper or on a screen."""
    return _text_width(text, size, tuple(families()))


@lru_cache(maxsize=4096)
def _text_width(text: str, size: float, names: tuple[str, ...]) -> float:
    font = font_manager.FontProperties(family=list(names), size=size)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        paper = text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] / 72
        # A screen rounds each letter to pixels, which makes small text up to a tenth wider.
        screen = _screen().get_text_width_height_descent(text, font, ismath=False)[0] / SCREEN_DPI
    return max(paper, screen)


@lru_cache(maxsize=1)
def _screen() -> RendererAgg:
    return RendererAgg(8, 8, SCREEN_DPI)


def fit(text: object, inches: float, size: float = NORMAL) -> str:
    """The text, cut with an ellipsis where it is longer than `inches`."""
    text = plain(text)
    if text_width(text, size) <= inches:
        return text
    low, high = 0, len(text)  # the longest beginning that fits
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if text_width(text[:middle] + "…", size) <= inches else (low, middle - 1)
    return text[:low].rstrip() + "…"


def wrap(text: object, inches: float, size: float = NORMAL, lines: int = 4) -> str:
    """The text broken into at most `lines` lines of `inches`; scripts without spaces break anywhere."""
    words, line = plain(text).split(" "), ""
    done: list[str] = []
    while words:
        word = words.pop(0)
        longer = f"{line} {word}" if line else word
        if text_width(longer, size) <= inches:
            line = longer
        elif len(done) == lines - 1:
            line = fit(" ".join([longer, *words]), inches, size)
            break
        elif line:
            done.append(line)
            line, words = "", [word, *words]
        else:
            head = fit(word, inches, size).rstrip("…") or word[0]
            done.append(head)
            words = [word[len(head) :], *words] if len(word) > len(head) else words
    return "\n".join([*done, line])


def label(axes, x: float, y: float, text: str, **settings):
    """`axes.text` in which `$`, `_` and `^` are plain characters."""
    return axes.text(x, y, text, parse_math=False, **settings)


def attention_colours() -> ListedColormap:
    """To lie over a dimmed grey picture: from nothing through orange to bright yellow, more opaque with the value.

    A map of opaque colours would hide the picture, and its middle greys could not be told from it. Opacity grows
    fastest from zero, so that a word with many weak regions shows them beside one with a single strong region.
    """
    share = np.linspace(0, 1, 256)[:, None]
    low, high = np.array([[1.0, 0.55, 0.1]]), np.array([[1.0, 0.95, 0.5]])
    return ListedColormap(np.hstack([low + share * (high - low), 0.92 * share**0.75]), name="bssan_attention")


def fading(colour: tuple[float, float, float]) -> ListedColormap:
    """One colour with opacity from none to full: for lines, on white."""
    return ListedColormap([(*colour, share) for share in np.linspace(0, 1, 256)], name="bssan_fading")


def check_weights(weights, rows: int | None, columns: int | None, what: str) -> np.ndarray:
    """Weights as float64 [rows, columns]. DataError where shape, sign or a NaN makes them no weights."""
    array = np.asarray(weights.detach().cpu() if hasattr(weights, "detach") else weights, dtype=np.float64)
    wanted = f"[{'any' if rows is None else rows}, {'any' if columns is None else columns}]"
    if (
        array.ndim != 2
        or 0 in array.shape
        or rows not in (None, array.shape[0])
        or columns not in (None, array.shape[1])
    ):
        raise DataError(f"{what}: expected numbers of shape {wanted}, got {list(array.shape)}")
    if not np.isfinite(array).all() or array.min() < 0:
        raise DataError(f"{what}: expected finite numbers from 0 up, got {array.min()} to {array.max()}")
    return array


def finish(axes) -> None:
    """Sizes of ticks are set on the axes, since ticks made later would take the sizes of that moment."""
    for one in np.ravel(axes):
        one.tick_params(labelsize=SMALL, width=0.6, length=2.5, pad=2.0)


def new_figure(width: str | float, height: float, **settings):
    """An empty figure of a column's width and a height in inches."""
    return plt.figure(figsize=(column_width(width), height), **settings)


def heading(text: str, width: float) -> tuple[str, float]:
    """A text broken to a figure's width in inches, and the inches of height that it takes above what is drawn."""
    text = wrap(text, width - 2 * MARGIN) if text else ""
    return text, 0.03 + (LINE * (text.count("\n") + 1) if text else 0.0)


def write_heading(figure, text: str) -> None:
    """What `heading` has broken, at the upper left of the figure."""
    wide, tall = figure.get_size_inches()
    if text:
        figure.text(MARGIN / wide, 1 - 0.03 / tall, text, parse_math=False, va="top", linespacing=1.15, fontsize=NORMAL)


def plain_legend(legend) -> None:
    """The names of a legend, in which `$`, `_` and `^` are plain characters."""
    for text in legend.get_texts():
        text.set_parse_math(False)


def place(figure, left: float, top: float, width: float, height: float):
    """Axes at inches from the figure's left and top edges."""
    full_width, full_height = figure.get_size_inches()
    return figure.add_axes(
        [left / full_width, 1 - (top + height) / full_height, width / full_width, height / full_height]
    )


def note_text(note: dict) -> str:
    """What a paper's caption needs, a line each; of a picture or caption all NOTE_KEYS, "not given" where missing."""
    needed = [key for key in NOTE_KEYS if key in note or "image" in note or "caption" in note]
    keys = [*needed, *(key for key in note if key not in NOTE_KEYS)]
    return "".join(f"{key}: {plain('not given' if note.get(key) is None else note[key])}\n" for key in keys)


def figure_bytes(figure, ending: str, title: str = "") -> bytes:
    """The figure as "pdf", "svg" or "png" of its exact width, in memory. ConfigError for an unknown format."""
    if ending not in FORMATS:
        raise ConfigError(f"figure format: expected one of {', '.join(FORMATS)}, got {ending!r}")
    # No date inside, so that the same figure is the same bytes.
    dates = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}[ending]
    warn_of_missing(figure)
    with io.BytesIO() as file, paper_style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box is drawn instead
        figure.savefig(file, format=ending, metadata={"Title": title, **dates}, bbox_inches=None)
        return file.getvalue()


def screen_png(figure) -> bytes:
    """A figure as a small PNG of 128 colours for the screen; the figure is closed."""
    drawn, small = io.BytesIO(), io.BytesIO()
    warn_of_missing(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(drawn, format="png", dpi=SCREEN_DPI)
    plt.close(figure)
    picture = Image.open(drawn).convert("RGB")
    # k-means: without it a rare colour, such as a small violet shape, becomes grey or blue.
    picture.quantize(128, kmeans=1, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def still(figure, name: str):
    """A figure as a picture that a notebook shows and that keeps it small; the figure is closed. name: read out loud."""
    from IPython.display import Image as Picture

    return Picture(screen_png(figure), alt=name.replace("_", " "))


def save_figure(
    figure, stem: str | Path, formats: str | tuple[str, ...] = FORMATS, note: dict | None = None
) -> list[Path]:
    """Writes STEM.pdf, .svg and .png with the figure's exact width, STEM.txt from `note`; returns the paths.

    stem: where, without an ending; one of the three endings is dropped. The folder is made.
    note: see note_text. ConfigError for an unknown format, RunError where nothing can be written.
    Pages are never cropped to their content, since that changes the width that a journal asked for.
    """
    stem = Path(stem)
    stem = stem.with_suffix("") if stem.suffix.lower().lstrip(".") in FORMATS else stem
    formats = (formats,) if isinstance(formats, str) else tuple(formats)
    if unknown := set(formats) - set(FORMATS):
        raise ConfigError(f"figure format: expected some of {', '.join(FORMATS)}, got {sorted(unknown)}")
    title = plain((note or {}).get("caption") or stem.name)
    contents = {stem.with_name(f"{stem.name}.{ending}"): figure_bytes(figure, ending, title) for ending in formats}
    if note is not None:
        contents[stem.with_name(f"{stem.name}.txt")] = note_text(note).encode("utf-8")
    return _write_all(contents)


def _write_all(contents: dict[Path, bytes]) -> list[Path]:
    """All files or none."""
    try:
        with ExitStack() as together:
            for path, content in reversed(contents.items()):  # so that they are replaced in order
                path.parent.mkdir(parents=True, exist_ok=True)
                together.enter_context(atomic_write(path)).write_bytes(content)
    except OSError as problem:
        raise RunError(
            f"cannot write the figure {problem.filename2 or path}: {problem.strerror or problem}"
        ) from problem
    return list(contents)
