"""bssan index, search, search-curve: build an index of a large gallery, search it, measure the loss by a shortlist.

The commands import slow libraries only when they need them.
"""

import argparse
import os
import sys
from pathlib import Path

from bssan_lib.commands.options import add_reading, output_stem, visible
from bssan_lib.errors import ConfigError, DataError


def add_commands(commands) -> None:
    """Adds the three commands to the parser of `bssan`."""
    index = commands.add_parser("index", help="build a search index of a gallery of images")
    _add_data(index)
    index.add_argument("--split", help="train, dev, test, ... (default: the only split)")
    index.add_argument("--out", required=True, metavar="INDEX", help="the new folder")
    index.set_defaults(command=_index)

    search = commands.add_parser("search", help="find images for a text, or captions for a photograph, in an index")
    search.add_argument("index", metavar="INDEX", help="a folder written by `bssan index`")
    search.add_argument("query", metavar="QUERY", help="a text, or the path of a photograph")
    search.add_argument("--top", type=int, default=10, help="number of results (default: 10)")
    search.add_argument("--shortlist", type=int, default=200, help="number of candidates to score (default: 200)")
    search.add_argument("--checkpoint", metavar="DIR", help="the checkpoint of the index, if it was moved")
    search.set_defaults(command=_search)

    curve = commands.add_parser(
        "search-curve", help="measure recalls for shortlists of all sizes: numbers and a figure"
    )
    _add_data(curve)
    curve.add_argument("--split", required=True, help="dev, test, ...")
    curve.add_argument("--memory", default="1GiB", help="budget for scoring (default: 1GiB)")
    curve.add_argument("--out", required=True, metavar="FILE.json", help="the numbers; the figure is written beside it")
    curve.set_defaults(command=_curve)


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a checkpoint or a run folder")
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="features, images with captions, or a folder of images"
    )
    parser.add_argument("--prepared", metavar="DIR", help="where the extracted features are stored")
    add_reading(parser)


def _index(options: argparse.Namespace) -> None:
    from bssan_lib.search.index import build_index, global_model
    from bssan_lib.search.searcher import import_faiss
    from bssan_lib.search.source import picture_gallery, picture_names, split_gallery

    import_faiss()
    out = Path(options.out)
    if os.path.lexists(out):
        raise DataError(f"--out {out}: expected a new folder, but it exists; delete it or give another one")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out}: the folder {out.absolute().parent} does not exist; create it first")
    checkpoint = _checkpoint(options.checkpoint)
    global_model(checkpoint)
    source = _source(options.data, options.layout)
    if source == "pictures":
        if options.split:
            raise ConfigError(f"--split {options.split}: {options.data} is a folder of images without splits")
        if not picture_names(Path(options.data)):
            raise DataError(
                f"{options.data}: expected features, captions with split files, or images; found none of them"
            )
        gallery = picture_gallery(checkpoint, options.data)
    else:
        gallery = split_gallery(checkpoint, _open_split(checkpoint, options, source))
    build_index(out, checkpoint, gallery)
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{len(gallery.names)} images, {len(gallery.captions)} captions, {size / 2**20:.1f} MiB: {out}")
    if not gallery.captions:
        print("this index has no captions, so only texts can be searched for")


def _source(folder: str, layout: str | None) -> str:
    """The source found by detect_source, or "pictures" for any other folder."""
    from bssan_lib.data import detect_source, fitting_layouts

    if layout or not Path(folder).is_dir() or any(Path(folder).glob("*_ims.npy*")):
        return detect_source(folder, layout)  # raises its errors
    try:
        return detect_source(folder)
    except DataError:
        if len(fitting_layouts(Path(folder))) > 1:
            raise
        return "pictures"


def _open_split(checkpoint, options: argparse.Namespace, source: str):
    from bssan_lib.commands.options import data_of_checkpoint
    from bssan_lib.data import RAW_SOURCES, list_splits, open_prepared, prepare, raw_splits, reading_of
    from bssan_lib.models.checkpoint import check_backbone

    folder = Path(options.data)
    if source in RAW_SOURCES:
        data = data_of_checkpoint(checkpoint, options)
        name = options.split or _only(raw_splits(source, folder, reading_of(data, source)), folder)
        folder = prepare(data, [name])
    else:
        name = options.split or _only(list_splits(folder), folder)
    split = open_prepared(folder, name)
    check_backbone(checkpoint, split)
    return split


def _only(splits: list[str], folder: Path) -> str:
    if len(splits) != 1:
        raise ConfigError(f"{folder}: expected one split, found {', '.join(splits) or 'none'}; give one with --split")
    return splits[0]


def _checkpoint(folder: str):
    from bssan_lib.models.checkpoint import find_checkpoint, load_checkpoint

    find_checkpoint(folder)
    import torch

    return load_checkpoint(folder, "cuda" if torch.cuda.is_available() else "cpu")


def _search(options: argparse.Namespace) -> None:
    from bssan_lib.search.searcher import Searcher, check_counts

    check_counts(options.top, options.shortlist)
    is_file = os.path.isfile(options.query)  # works for texts of any length
    if not is_file and _looks_like_a_picture(options.query):
        raise DataError(f"{visible(options.query)}: no such file; a text query must not end like a file name")
    searcher = Searcher(options.index, options.checkpoint)
    if is_file:
        from bssan_lib.evaluation.photograph import FeatureExtractor

        photograph = FeatureExtractor(searcher.checkpoint).extract(options.query)
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
        raise ConfigError(f"--out {out}: expected a name that ends in .json")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out}: the folder {out.absolute().parent} does not exist; create it first")
    check_target(out)
    output_stem(str(out.with_suffix("")))
    checkpoint = _checkpoint(options.checkpoint)
    global_model(checkpoint)
    source = _source(options.data, options.layout)
    if source == "pictures":
        raise DataError(f"{options.data}: recall needs captions, but this folder has none")
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
    print(f"written: {out}, with the figure beside it")
