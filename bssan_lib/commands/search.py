"""bssan index, search, search-curve: a large gallery made ready, searched, and what its shortlist loses.

Libraries that take seconds to import are imported by the commands that need them.
"""

import argparse
import os
import sys
from pathlib import Path

from bssan_lib.commands.options import output_stem, visible
from bssan_lib.errors import ConfigError, DataError


def add_commands(commands) -> None:
    """Adds the three commands to the parser of `bssan`."""
    index = commands.add_parser("index", help="make a gallery of pictures searchable")
    _add_data(index)
    index.add_argument("--split", help="train, dev, test, ... (default: the only one there)")
    index.add_argument("--out", required=True, metavar="INDEX", help="the folder to write; it must not exist yet")
    index.set_defaults(command=_index)

    search = commands.add_parser(
        "search", help="find images by a text, or captions by a photograph, in what `bssan index` made"
    )
    search.add_argument("index", metavar="INDEX", help="a folder that `bssan index` made")
    search.add_argument("query", metavar="QUERY", help="a text, or the file of a photograph")
    search.add_argument("--top", type=int, default=10, help="results (default: 10)")
    search.add_argument("--shortlist", type=int, default=200, help="candidates that attention scores (default: 200)")
    search.add_argument("--checkpoint", metavar="DIR", help="where the index's checkpoint lies now, if it was moved")
    search.set_defaults(command=_search)

    curve = commands.add_parser("search-curve", help="recall against the size of the shortlist: numbers and figure")
    _add_data(curve)
    curve.add_argument("--split", required=True, help="dev, test, ...")
    curve.add_argument("--memory", default="1GiB", help="budget for scoring (default: 1GiB)")
    curve.add_argument(
        "--out", required=True, metavar="FILE.json", help="the numbers; the figure is written beside them"
    )
    curve.set_defaults(command=_curve)


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a checkpoint or a run folder")
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="features, pictures and captions, or pictures alone"
    )
    parser.add_argument("--prepared", metavar="DIR", help="where features of raw data are kept")


def _index(options: argparse.Namespace) -> None:
    from bssan_lib.search.index import build_index, global_model
    from bssan_lib.search.searcher import import_faiss
    from bssan_lib.search.source import picture_gallery, picture_names, split_gallery

    import_faiss()
    out = Path(options.out)
    if os.path.lexists(out):
        raise DataError(f"--out {out}: exists already; delete it or give another folder for the index")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out}: no folder {out.absolute().parent}")
    checkpoint = _checkpoint(options.checkpoint)
    global_model(checkpoint)
    source = _source(options.data)
    if source == "pictures":
        if options.split:
            raise ConfigError(f"--split {options.split}: {options.data} is a folder of pictures and has no splits")
        if not picture_names(Path(options.data)):
            raise DataError(f"{options.data}: neither features, nor captions with split files, nor any picture")
        gallery = picture_gallery(checkpoint, options.data)
    else:
        gallery = split_gallery(checkpoint, _open_split(checkpoint, options, source))
    build_index(out, checkpoint, gallery)
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{len(gallery.names)} images, {len(gallery.captions)} captions, {size / 2**20:.1f} MiB: {out}")
    if not gallery.captions:
        print("without captions there: a text finds its pictures, a photograph finds nothing in it")


def _source(folder: str) -> str:
    """What detect_source says, or "pictures" for a folder of nothing it knows."""
    from bssan_lib.data import detect_source

    if not Path(folder).is_dir() or any(Path(folder).glob("*_ims.npy*")):
        return detect_source(folder)  # raises where it should
    try:
        return detect_source(folder)
    except DataError:
        return "pictures"


def _open_split(checkpoint, options: argparse.Namespace, source: str):
    from bssan_lib.commands.options import data_of_checkpoint
    from bssan_lib.data import RAW_SOURCES, list_splits, open_prepared, prepare, raw_splits
    from bssan_lib.models.checkpoint import check_backbone

    folder = Path(options.data)
    name = options.split or _only(raw_splits(source, folder) if source in RAW_SOURCES else list_splits(folder), folder)
    if source in RAW_SOURCES:
        folder = prepare(data_of_checkpoint(checkpoint, options), [name])
    split = open_prepared(folder, name)
    check_backbone(checkpoint, split)
    return split


def _only(splits: list[str], folder: Path) -> str:
    if len(splits) != 1:
        raise ConfigError(f"{folder}: holds the splits {', '.join(splits) or 'none'}; name one with --split")
    return splits[0]


def _checkpoint(folder: str):
    from bssan_lib.models.checkpoint import find_checkpoint, load_checkpoint

    find_checkpoint(folder)
    import torch

    return load_checkpoint(folder, "cuda" if torch.cuda.is_available() else "cpu")


def _search(options: argparse.Namespace) -> None:
    from bssan_lib.search.searcher import Searcher, check_counts

    check_counts(options.top, options.shortlist)
    is_file = os.path.isfile(options.query)  # of any text, however long or odd, this is true or false
    if not is_file and _looks_like_a_picture(options.query):
        raise DataError(
            f"{visible(options.query)}: no such picture; a text is searched for where it does not end like a file's name"
        )
    searcher = Searcher(options.index, options.checkpoint)
    if is_file:
        from bssan_lib.evaluation.photograph import Camera

        photograph = Camera(searcher.checkpoint).take(options.query)
        found = searcher.find_captions(searcher.encode_photograph(photograph), options.top, options.shortlist)
    else:
        from bssan_lib.evaluation.photograph import unknown_words

        found = searcher.find_images(options.query, options.top, options.shortlist)
        if unknown := unknown_words(options.query, searcher.checkpoint.vocabulary):
            print(f"not in the vocabulary, treated as <unk>: {visible(', '.join(unknown))}", file=sys.stderr)
    for rank, one in enumerate(found, start=1):
        print(f"{rank:3d}  {one.score:.4f}  {visible(one.text)}")


def _looks_like_a_picture(query: str) -> bool:
    from bssan_lib.data.images import ENDINGS

    return len(query.split()) == 1 and os.path.splitext(query.strip())[1].lower() in ENDINGS


def _curve(options: argparse.Namespace) -> None:

    import matplotlib

    matplotlib.use("Agg")
    from bssan_lib.commands.options import print_table
    from bssan_lib.files import check_target, write_json
    from bssan_lib.search.index import global_model
    from bssan_lib.search.searcher import measure_curve
    from bssan_lib.viz import save_figure, shortlist_curves

    out = Path(options.out)
    if out.suffix.lower() != ".json":
        raise ConfigError(f"--out {out}: expected a name that ends in .json; the figure is written beside it")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out}: no folder {out.absolute().parent}")
    check_target(out)
    output_stem(str(out.with_suffix("")))
    checkpoint = _checkpoint(options.checkpoint)
    global_model(checkpoint)
    source = _source(options.data)
    if source == "pictures":
        raise DataError(f"{options.data}: recall needs captions, and none are there")
    split = _open_split(checkpoint, options, source)
    curve = measure_curve(checkpoint, split, options.memory)
    write_json(out, curve)
    save_figure(shortlist_curves(curve)[0], out.with_suffix(""))
    for way, title in (("t2i", "text to image"), ("i2t", "image to text")):
        at, exact = curve[way]["one_in_twenty"], curve[way]["exact"]
        print_table(
            [
                (
                    title,
                    f"R@1 {at['R@1']:.2f} with {at['shortlist']} of {curve[way]['gallery']} scored, "
                    f"{exact['R@1']:.2f} with all: {at['below_exact']:+.2f} lost",
                )
            ]
        )
    print(f"written to {out}, the figure beside it")
