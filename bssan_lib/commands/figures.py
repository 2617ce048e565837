"""bssan figure: figures for a paper, of a photograph with a caption or of measured recalls.

The commands check their options first and then import slow libraries.
"""

import argparse
from pathlib import Path

from bssan_lib.commands.options import (
    add_checkpoint,
    add_font,
    formats_of,
    open_photograph,
    output_stem,
    print_unknown_words,
    use_font,
    width_of,
)
from bssan_lib.errors import ConfigError, DataError

KINDS = {
    "attention": "one panel for each word, with its attention to the regions",
    "alignment": "both matrices: words by regions, objects by words",
    "boxes": "the regions with the highest attention of a phrase",
    "objects": "objects with the words they attend to most",
    "links": "words joined to regions and objects by lines",
}


def add_commands(commands) -> None:
    """Adds `figure` to the parser of `bssan`."""
    figure = commands.add_parser(
        "figure", help="draw a figure for a paper: PDF, SVG or PNG with the exact width of a column"
    )
    kinds = figure.add_subparsers(required=True, metavar="KIND")
    for name, shows in KINDS.items():
        kind = kinds.add_parser(name, help=shows)
        kind.add_argument("--image", required=True, metavar="FILE", help="a photograph")
        kind.add_argument("--caption", required=True, metavar="TEXT", help="the text")
        add_checkpoint(kind)
        _add_out(kind)
        if name == "attention":
            add_panels(kind)
        if name == "boxes":
            kind.add_argument(
                "--words",
                action="append",
                metavar="PHRASE",
                help="words of the caption, one panel for each --words (default: the whole caption)",
            )
        if name != "alignment" and name != "attention":
            kind.add_argument(
                "-k",
                type=int,
                metavar="N",
                help="how many regions (default: 5), words per object (3) or linked regions and objects (10)",
            )
        kind.set_defaults(command=_figure, kind=name)
    recalls = kinds.add_parser("recalls", help="recalls with intervals, from metrics files")
    recalls.add_argument("metrics", nargs="+", metavar="[NAME=]FILE", help="written by bssan evaluate --out")
    recalls.add_argument("--title", default="", metavar="TEXT", help="title of the figure")
    _add_out(recalls)
    recalls.set_defaults(command=_recalls)


def add_panels(parser: argparse.ArgumentParser) -> None:
    """--style and --words of figures with a panel for each word."""
    parser.add_argument(
        "--style",
        choices=["heat", "spotlight"],
        default="heat",
        help="heat: colour over the dimmed picture (default); spotlight: attended regions keep the picture's colours",
    )
    parser.add_argument(
        "--words",
        choices=["all", "content"],
        default="all",
        help="content: no panels for function words (default: all)",
    )


def panels_of(options: argparse.Namespace) -> dict:
    """The values of `add_panels`, for `draw`."""
    return {"style": options.style, "content": options.words == "content"}


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help=".pdf, .svg or .png; without a suffix all three; a text file is written beside them",
    )
    parser.add_argument(
        "--width", default="two", metavar="one|two|INCHES", help="3.25 or 6.75 inches, or any number (default: two)"
    )
    add_font(parser)


def _figure(options: argparse.Namespace) -> None:
    stem, formats, width = output_stem(options.out), formats_of(options.out), width_of(options.width)
    use_font(options)
    from bssan_lib.data.vocabulary import check_caption

    check_caption(options.caption)
    if getattr(options, "k", None) is not None and options.k < 1:
        raise ConfigError(f"-k {options.k}: expected 1 or more")
    given = options.words if options.kind == "boxes" else None
    phrases = [find_phrase(options.caption, words) for words in given or []]
    panels = panels_of(options) if options.kind == "attention" else {}
    photograph = open_photograph(options.checkpoint, options.image)
    attention = photograph.attend(options.caption)
    figure, direction = draw(
        options.kind, photograph, attention, options.caption, width, phrases, getattr(options, "k", None), **panels
    )
    save(figure, stem, formats, photograph, attention, options.image, options.caption, direction)


def save(figure, stem: Path, formats, photograph, attention, image: str, caption: str, direction: str) -> None:
    """Writes a figure of a photograph with its note, and prints the paths and the unknown words."""
    from bssan_lib.viz import attention_note, save_figure

    print_unknown_words(photograph.checkpoint, [caption])
    note = attention_note(photograph.checkpoint, attention, Path(image).name, caption, direction)
    written = save_figure(figure, stem, formats, note)
    print("written: " + ", ".join(str(path) for path in written))


def draw(
    kind: str, photograph, attention, caption: str, width: float, phrases=(), most=None, style="heat", content=False
):
    """(figure, direction) of one of KINDS. phrases: [(title, rows of the words)], for boxes. most: how many are shown.

    style, content: of the panels of words; content leaves out function words.
    """
    from bssan_lib import viz
    from bssan_lib.evaluation.grounding import content_words
    from bssan_lib.viz.style import plain

    picture, words, title = photograph.picture, attention.words, plain(caption)
    if kind == "attention":
        only = content_words(range(len(words)), words) if content else None
        panels = {**layout(photograph), "only": only, "style": style}
        return viz.word_panels(picture, attention.w2r, words, caption=title, width=width, **panels)[0], "W2R"
    if kind == "alignment":
        return viz.alignment(attention, title=title, width=width)[0], "W2R and O2W"
    if kind == "boxes":
        phrases = phrases or [("mean of all words", range(len(words)))]
        weights = [attention.w2r[list(rows)].mean(axis=0) for _, rows in phrases]
        names = [name for name, _ in phrases]
        return viz.phrase_boxes(picture, weights, photograph.boxes, names, most=most or 5, caption=title, width=width)[
            0
        ], "W2R, mean over the words of a phrase"
    if kind == "objects":
        return viz.object_words(
            picture, attention.o2w, photograph.object_boxes, words, most=most or 3, caption=title, width=width
        )[0], "O2W"
    return viz.links(
        attention,
        image=picture,
        boxes=photograph.boxes,
        object_boxes=photograph.object_boxes,
        most=most or 10,
        title=title,
        width=width,
    )[0], "W2R and O2W"


def layout(photograph) -> dict:
    """The regions of a photograph, for figures: {"grid": (rows, columns)} or {"boxes": boxes}."""
    grid = photograph.checkpoint.backbone.get("grid")
    return {"grid": tuple(grid)} if grid else {"boxes": photograph.boxes}


def find_phrase(caption: str, phrase: str) -> tuple[str, list[int]]:
    """(the phrase, the rows of its words in a caption). Raises ConfigError if the caption does not contain it."""
    from bssan_lib.data.vocabulary import words_of

    words, wanted = words_of(caption), words_of(phrase)
    starts = [t for t in range(len(words)) if wanted and words[t : t + len(wanted)] == wanted]
    if not starts:
        raise ConfigError(
            f"--words {phrase!r}: expected consecutive words of the caption, which are: {' '.join(words)}"
        )
    return " ".join(wanted), list(range(starts[0], starts[0] + len(wanted)))


def _recalls(options: argparse.Namespace) -> None:
    stem, formats, width = output_stem(options.out), formats_of(options.out), width_of(options.width)
    use_font(options)
    rows, sources = {}, {}
    for given in options.metrics:
        name, equals, file = given.rpartition("=")
        metrics = _read_metrics(file)
        name = name if equals else f"{metrics['dataset']} {metrics['split']}"
        parts = (
            {name: metrics}
            if len(options.metrics) > 1
            else {
                "joint": metrics,
                **{f"{key.upper()} part": part for key, part in metrics.get("directions", {}).items()},
            }
        )
        for title, part in parts.items():
            rows[title] = {
                f"{way} {k}": _recall(part, key, k)
                for key, way in (("i2t", "image to text"), ("t2i", "text to image"))
                for k in ("R@1", "R@5", "R@10")
            }
        sources[name] = (
            f"{metrics['dataset']} {metrics['split']}, protocol {metrics['protocol']}, "
            f"{metrics['n_images']} images, {metrics['n_captions']} captions"
        )
    from bssan_lib.viz import comparison_dots, save_figure

    figure, _, _ = comparison_dots(rows, xlabel="recall (%)", title=options.title, width=width)
    note = {**sources, "intervals": "95% bootstrap intervals over images, shown as lines"}
    print("written: " + ", ".join(str(path) for path in save_figure(figure, stem, formats, note)))


def _read_metrics(file: str) -> dict:
    from bssan_lib.evaluation.records import read_metrics

    try:
        metrics = read_metrics(Path(file))
        for way in ("i2t", "t2i"):
            metrics[way]["R@1"]
        return metrics
    except OSError as error:
        raise DataError(f"{file}: the metrics cannot be read ({error.strerror})") from error
    except (ValueError, KeyError) as error:
        raise DataError(f"{file}: expected a metrics file of bssan evaluate ({error})") from error


def _recall(metrics: dict, way: str, k: str):
    span = metrics.get("ci95", {}).get(way, {}).get(k)
    return (metrics[way][k], *span) if span else metrics[way].get(k)
