"""The layouts of pictures beside lists of captions that others publish, and your own. `data.layout` names one.

    flickr30k               results_20130124.token                          as distributed: NAME#0<TAB>caption
    flickr30k-kaggle        results.csv                                     image_name| comment_number| comment
    flickr30k-huggingface   flickr_annotations_30k.csv                      raw (a JSON list), split, filename
    coco                    annotations/captions_{train,val}{2014,2017}.json    Karpathy's split by image id
    blip                    *_{train,val,test}.json                         [{"image": NAME, "caption": text or list}]
    clip                    *_{train,val,test}_karpathy.txt                 CSV with the header image,caption
    imagefolder             metadata.csv, metadata.jsonl                    perhaps in train/, validation/, test/
    own                     captions.csv, .tsv, .jsonl, .txt                image, caption and perhaps split

`published` and `rows` hold the readers.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bssan_lib.data.published import find_coco, lists, named, read_bars, read_blip, read_clip, read_coco, read_token
from bssan_lib.data.rows import CAPTION_COLUMNS, IMAGE_COLUMNS, SPLIT_OF, Row, read_table
from bssan_lib.errors import DataError
from bssan_lib.reading import read_start

OWN = ("captions.csv", "captions.tsv", "captions.jsonl", "captions.txt")
METADATA = ("metadata.csv", "metadata.jsonl")
TABLES = (".csv", ".tsv", ".jsonl")


class Layout(NamedTuple):
    """A form of lists of images and captions. key: its name in data.layout. name: as check-data shows it.

    find: folder -> its files, [] if it is not this layout. read: (file, folder) -> rows.
    """

    key: str
    name: str
    find: Callable[[Path], list[Path]]
    read: Callable[[Path, Path], list[Row]]
    split: str = "as the files give it"


class Fit(NamedTuple):
    """A layout that fits a folder, and its files. problem: why its files cannot be told, or None."""

    layout: Layout
    files: list[Path]
    problem: DataError | None = None


def find_layouts(folder: Path, alone: bool = True) -> list[Fit]:
    """Every layout that fits a folder. Files that an earlier layout uses do not count for a later one.

    A table that is not called captions counts only where no other layout fits. alone: none of another source fits.
    """
    fits: list[Fit] = []
    for layout in LAYOUTS:
        if layout.key == "own" and (fits or not alone) and not any((folder / name).is_file() for name in OWN):
            continue
        try:
            fit = Fit(layout, layout.find(folder))
        except DataError as problem:
            fit = Fit(layout, [], problem)
        used = {path for earlier in fits for path in earlier.files}
        if fit.problem or set(fit.files) - used:
            fits.append(fit)
    return fits


def find_layout(folder: Path, key: str | None = None) -> tuple[Layout, list[Path]] | None:
    """The layout `key` of a folder, or the only one that fits it, with its files; None if none fits.

    DataError: the layout `key` does not fit, several fit, or its files cannot be told.
    """
    chosen = next((layout for layout in LAYOUTS if layout.key == key), None)
    if chosen:
        files = chosen.find(folder)
        if not files:
            raise DataError(f"{folder}: no files of the layout {key} ({chosen.name}); docs/datasets.md names them")
        return chosen, files
    fits = find_layouts(folder)
    if len(fits) > 1:
        raise several_fit(folder, {fit.layout.key: shown(fit) for fit in fits})
    if fits and fits[0].problem:
        raise fits[0].problem
    return (fits[0].layout, fits[0].files) if fits else None


def shown(fit: Fit) -> str:
    """A fit for messages: the layout's name and its files."""
    return f"{fit.layout.name}: {', '.join(path.name for path in fit.files[:3])}" if fit.files else fit.layout.name


def several_fit(folder: Path, fits: dict[str, str]) -> DataError:
    """The error of a folder that fits several layouts. fits: name in data.layout -> what it is."""
    listed = "\n".join(f"  {key:22s}{said}" for key, said in fits.items())
    return DataError(
        f"{folder}: several layouts fit:\n{listed}\nChoose one with --layout NAME or -p data.layout=NAME, such as "
        f"-p data.layout={list(fits)[-1]}"
    )


def near_layout(folder: Path) -> str:
    """What a folder of no known layout comes nearest to, as the end of a message; "" for none."""
    names = sorted(path.name for path in folder.iterdir())
    tables = [name for name in names if name.endswith(TABLES)]
    if tables:
        first = read_start(folder / tables[0]).partition("\n")[0].strip()[:80]
        return (
            f". Nearest: {tables[0]}, which begins {first!r}; name one column of it {', '.join(IMAGE_COLUMNS[:2])} and "
            "one caption"
        )
    if pictures := [name for name in names if name.lower().endswith((".jpg", ".jpeg", ".png"))]:
        return f". Nearest: pictures such as {pictures[0]} without captions; add captions.csv"
    return ""


def _find_imagefolder(folder: Path) -> list[Path]:
    inner = [folder / name / file for name in SPLIT_OF for file in METADATA if (folder / name / file).is_file()]
    return inner or _one(folder, [folder / file for file in METADATA if (folder / file).is_file()])


def _find_own(folder: Path) -> list[Path]:
    if found := [folder / name for name in OWN if (folder / name).is_file()]:
        return _one(folder, found)
    others = (path for path in sorted(folder.iterdir()) if path.suffix in TABLES and path.is_file())
    return _one(folder, [path for path in others if _has_columns(path)])


def _has_columns(path: Path) -> bool:
    """Whether the first line names a column of images and one of captions."""
    words = set(re.findall(r"\w+", read_start(path).partition("\n")[0].lower()))
    return bool(words & set(IMAGE_COLUMNS)) and bool(words & set(CAPTION_COLUMNS))


def _one(folder: Path, found: list[Path]) -> list[Path]:
    if len(found) > 1:
        raise DataError(
            f"{folder}: {', '.join(path.name for path in found[:9])} may each hold the captions; keep one of them, "
            "or call it captions.csv, captions.tsv or captions.jsonl"
        )
    return found


LAYOUTS = (
    Layout("flickr30k", "Flickr30K as distributed", named("results_20130124.token"), read_token),
    Layout("flickr30k-kaggle", "Kaggle Flickr30K", named("results.csv"), read_bars),
    Layout("flickr30k-huggingface", "Hugging Face Flickr30K", named("flickr_annotations_30k.csv"), read_table),
    Layout("coco", "MSCOCO as distributed", find_coco, read_coco, "Karpathy's, by image id; restval is part of train"),
    Layout("blip", "lists of BLIP or ALBEF", lists(".json"), read_blip),
    Layout("clip", "lists of CLIP_benchmark", lists("_karpathy.txt"), read_clip),
    Layout("imagefolder", "Hugging Face imagefolder", _find_imagefolder, read_table),
    Layout("own", "your own table", _find_own, read_table),
)
