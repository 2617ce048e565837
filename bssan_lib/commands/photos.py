"""bssan attend, rank and find: the packaged model on your own photographs and captions, without a download.

The commands import slow libraries only when they need them.
"""

import argparse
import sys
from pathlib import Path

from bssan_lib.commands.figures import add_panels, draw, layout, panels_of, save
from bssan_lib.commands.options import (
    add_checkpoint,
    add_font,
    formats_of,
    open_extractor,
    open_photograph,
    output_stem,
    print_unknown_words,
    use_font,
    visible,
    width_of,
)
from bssan_lib.errors import ConfigError, DataError

MOST_TEXT = 2**24  # characters read from standard input
AT_ONCE = 8  # images whose features are in memory at a time
THIRDS = ("top", "middle", "bottom"), ("left", "centre", "right")


def add_commands(commands) -> None:
    """Adds `attend`, `rank` and `find` to the parser of `bssan`."""
    attend = commands.add_parser(
        "attend", help="show the attention of each word of a caption to the regions of a photograph"
    )
    attend.add_argument("photo", metavar="PHOTO", help="an image file")
    attend.add_argument("caption", metavar="CAPTION", help="any text")
    attend.add_argument(
        "--out",
        metavar="FILE|DIR",
        help="the figure, or a folder for it (default: attention_PHOTO.png in the working directory)",
    )
    add_panels(attend)
    attend.set_defaults(command=_attend)

    rank = commands.add_parser("rank", help="rank captions by how well they fit a photograph")
    rank.add_argument("photo", metavar="PHOTO", help="a picture file")
    rank.add_argument("captions", metavar="CAPTIONS.TXT", help="one caption per line; - for standard input")
    rank.set_defaults(command=_rank)

    find = commands.add_parser("find", help="rank the images of a folder by how well they fit a caption")
    find.add_argument("caption", metavar="CAPTION", help="any text")
    find.add_argument("folder", metavar="FOLDER", help="a folder of images, without its subfolders")
    find.set_defaults(command=_find)

    for command in (attend, rank, find):
        add_checkpoint(command)
        add_font(command)
        command.add_argument(
            "--width", default="two", metavar="one|two|INCHES", help="width of the figure (default: two)"
        )
    for command in (rank, find):
        command.add_argument(
            "--top", type=int, default=10, metavar="N", help="number of results to print (default: 10)"
        )
        command.add_argument("--out", metavar="FILE", help="a figure of the first five results with their attention")


def _attend(options: argparse.Namespace) -> None:
    name = f"attention_{Path(options.photo).stem}"
    out = options.out or f"{name}.png"
    if options.out and Path(options.out).is_dir():
        out = str(Path(options.out) / f"{name}.png")
    stem, formats, width = output_stem(out), formats_of(out), width_of(options.width)
    use_font(options)
    from bssan_lib.data.vocabulary import check_caption

    check_caption(options.caption)
    photograph = open_photograph(options.checkpoint, options.photo)
    attention = photograph.attend(options.caption)
    gate, more = attention.gate, photograph.checkpoint.model.config.global_term
    print(
        f"score {attention.score:.3f}{', with the global vectors; attention alone:' if more else ' ='} {gate:.2f} x "
        f"W2R {attention.score_w2r:.3f} + {1 - gate:.2f} x O2W {attention.score_o2w:.3f}"
    )
    print(f"{'word':16s} {'region':14s} weight  times even")
    for word, weights in zip(attention.words, attention.w2r):
        print(
            f"{word:16s} {position_of(weights, photograph.boxes):14s} {weights.max():6.3f} "
            f"{weights.max() * len(weights):10.1f}"
        )
    figure, direction = draw("attention", photograph, attention, options.caption, width, **panels_of(options))
    save(figure, stem, formats, photograph, attention, options.photo, options.caption, direction)


def position_of(weights, boxes) -> str:
    """The position of the heaviest region in words: "top left" to "bottom right". weights: [K]. boxes: [K, 4]."""
    x1, y1, x2, y2 = boxes[weights.argmax()]
    row, column = (THIRDS[side][min(int(3 * middle), 2)] for side, middle in enumerate(((y1 + y2) / 2, (x1 + x2) / 2)))
    return "centre" if (row, column) == ("middle", "centre") else f"{row} {column}"


def _rank(options: argparse.Namespace) -> None:
    stem, formats, width = _check(options)
    captions = read_captions(options.captions)
    photograph = open_photograph(options.checkpoint, options.photo)
    from bssan_lib.evaluation.photograph import score_photographs

    scores = score_photographs([photograph], captions)
    order = scores["joint"][0].argsort(kind="stable")[::-1][: options.top]
    _print_scores([(captions[c], *(scores[part][0, c] for part in ("joint", "w2r", "o2w"))) for c in order])
    print_unknown_words(photograph.checkpoint, captions)
    if stem:
        from bssan_lib.viz import retrieved_captions

        first = [captions[c] for c in order[:5]]
        looks = [photograph.attend(caption).w2r.mean(axis=0) for caption in first]
        figure, _, _ = retrieved_captions(
            [photograph.picture],
            [first],
            [scores["joint"][0, order[:5]]],
            attention=[looks],
            width=width,
            **layout(photograph),
        )
        _save_found(figure, stem, formats, photograph.checkpoint, Path(options.photo).name, " | ".join(first))


def _find(options: argparse.Namespace) -> None:
    stem, formats, width = _check(options)
    from bssan_lib.data.vocabulary import check_caption

    check_caption(options.caption)
    files = list_pictures(options.folder)
    extractor = open_extractor(options.checkpoint)
    found, skipped = _scores_of_files(extractor, files, options.caption)
    for problem in skipped:
        print(f"skipped: {visible(problem)}", file=sys.stderr)
    if not found:
        raise DataError(f"{options.folder}: none of its {len(files)} images can be read")
    found.sort(key=lambda one: -one[1])
    _print_scores([(file.name, *scores) for file, *scores in found[: options.top]])
    print_unknown_words(extractor.checkpoint, [options.caption])
    if stem:
        from bssan_lib.viz import retrieved_images

        first = [extractor.extract(file) for file, *_ in found[:5]]
        looks = [photograph.attend(options.caption).w2r.mean(axis=0) for photograph in first]
        figure, _, _ = retrieved_images(
            [options.caption],
            [[one.picture for one in first]],
            [[one[1] for one in found[:5]]],
            attention=[looks],
            width=width,
            **layout(first[0]),
        )
        names = ", ".join(file.name for file, *_ in found[:5])
        _save_found(figure, stem, formats, extractor.checkpoint, names, options.caption)


def _scores_of_files(extractor, files: list[Path], caption: str) -> tuple[list[tuple], list[str]]:
    """[(file, joint, W2R, O2W)] of readable files, and the errors of the others."""
    from bssan_lib.data.progress import tqdm
    from bssan_lib.evaluation.photograph import score_photographs

    found, skipped, taken = [], [], []
    for number, file in enumerate(tqdm(files, desc="images", unit="image"), start=1):
        try:
            taken.append((file, extractor.extract(file)))
        except DataError as problem:
            skipped.append(str(problem))
        if taken and (len(taken) == AT_ONCE or number == len(files)):
            scores = score_photographs([photograph for _, photograph in taken], [caption])
            rows = zip(*(scores[part][:, 0].tolist() for part in ("joint", "w2r", "o2w")))
            found += [(file, *row) for (file, _), row in zip(taken, rows)]
            taken = []
    return found, skipped


def _check(options: argparse.Namespace):
    """(path of the figure without suffix or None, formats, width). Raises ConfigError for wrong options."""
    if options.top < 1:
        raise ConfigError(f"--top {options.top}: expected 1 or more")
    if not options.out:
        return None, (), width_of(options.width)
    use_font(options)
    return output_stem(options.out), formats_of(options.out), width_of(options.width)


def read_captions(file: str) -> list[str]:
    """The captions of a text file, one per line, without empty lines. Raises DataError for a line without a word."""
    from bssan_lib.data.vocabulary import check_caption
    from bssan_lib.reading import read_lines

    try:
        lines = sys.stdin.read(MOST_TEXT).splitlines() if file == "-" else read_lines(Path(file))
    except UnicodeDecodeError:
        raise DataError(f"{file}: captions cannot be read (not UTF-8); expected UTF-8, one caption per line") from None
    captions = [line.strip() for line in lines if line.strip()]
    for number, line in enumerate(lines, start=1):
        if line.strip():
            check_caption(line.strip(), f"{file}, line {number}")
    if not captions:
        raise DataError(f"{file}: expected one caption per line, got none")
    return captions


def list_pictures(folder: str) -> list[Path]:
    """The image files of a folder, by their suffixes, sorted. Raises DataError if there are none."""
    from bssan_lib.data.images import ENDINGS

    try:
        files = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in ENDINGS and path.is_file())
    except OSError as error:
        raise DataError(f"{folder}: expected a folder that can be read ({error.strerror})") from error
    if not files:
        raise DataError(f"{folder}: no images found; expected files that end in {', '.join(ENDINGS)}")
    return files


def _print_scores(rows: list[tuple]) -> None:
    print("      score    W2R    O2W")
    for rank, (name, joint, w2r, o2w) in enumerate(rows, start=1):
        print(f"{rank:3d}  {joint:6.3f} {w2r:6.3f} {o2w:6.3f}  {visible(name)}")


def _save_found(figure, stem: Path, formats, checkpoint, image: str, caption: str) -> None:
    from bssan_lib.viz import checkpoint_note, save_figure

    note = {
        "image": image,
        "caption": caption,
        "direction": "joint score; W2R, mean over the words",
        **checkpoint_note(checkpoint),
    }
    print("written: " + ", ".join(str(path) for path in save_figure(figure, stem, formats, note)))
