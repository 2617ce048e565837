"""What a data folder holds: prepared features, features of the field, or pictures with captions in a layout."""

from pathlib import Path

from bssan_lib.data.flickr8k import CAPTION_FILES, SPLITS, has_official_split, split_name, text_file
from bssan_lib.data.karpathy import FILES, karpathy_files
from bssan_lib.data.layouts import LAYOUTS, find_layout, find_layouts, near_layout, several_fit, shown
from bssan_lib.data.precomp import precomp_splits
from bssan_lib.errors import DataError

KINDS = ("features", "flickr8k", "karpathy")  # names in data.layout besides those of `layouts`


def detect_source(folder: Path | str, layout: str | None = None, source: str | None = None) -> str:
    """What a folder holds: "prepared", "precomp", "flickr8k", "karpathy" or "table".

    layout: forces it, see `data.layout`. source: decides where several fit, if it is one of them. DataError if the
    folder is missing, if nothing or several things fit, or if the layout does not.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected pictures with captions, or prepared features")
    if has_features(folder) and layout in (None, "features"):
        return "prepared" if (folder / "meta.json").is_file() else "precomp"
    fits = fitting_layouts(folder)
    if layout:
        return _forced(folder, layout, fits)
    kinds = {_kind(key) for key in fits}
    if source in kinds:
        return source
    if len(fits) > 1:
        raise several_fit(folder, fits)
    if only := next(iter(fits), None):
        if _kind(only) == "table":
            find_layout(folder, only)  # raises where its files cannot be told
        return _kind(only)
    if any(text_file(folder, name) for name in CAPTION_FILES):
        return "flickr8k"
    raise _nothing(folder)


def has_features(folder: Path) -> bool:
    """Whether there are features, prepared or in the field's format."""
    return bool(precomp_splits(folder)) or (folder / "meta.json").is_file() and any(folder.glob("*_ims.npy*"))


def _kind(key: str) -> str:
    return key if key in KINDS else "table"


def fitting_layouts(folder: Path) -> dict[str, str]:
    """Name in data.layout -> what it is, of all layouts of pictures with captions that fit."""
    fits, used = {}, set(karpathy_files(folder))
    if any(text_file(folder, split_name(split)) for split in SPLITS) or has_official_split(folder):
        files = [path for name in CAPTION_FILES if (path := text_file(folder, name))]
        fits["flickr8k"] = f"Flickr8k: {', '.join(path.name for path in files)}"
        used |= set(files)
    if found := karpathy_files(folder):
        fits["karpathy"] = f"Karpathy's JSON: {', '.join(path.name for path in found)}"
    others = (fit for fit in find_layouts(folder, not fits) if not fit.files or set(fit.files) - used)
    return fits | {fit.layout.key: shown(fit) for fit in others}


def _forced(folder: Path, layout: str, fits: dict[str, str]) -> str:
    named = [*KINDS, *(one.key for one in LAYOUTS)]
    if layout not in named:
        raise DataError(f"layout {layout!r}: expected one of {', '.join(named)}")
    if _kind(layout) == "table":
        find_layout(folder, layout)  # raises where it does not fit
        return "table"
    if layout in fits or layout == "flickr8k" and any(text_file(folder, name) for name in CAPTION_FILES):
        return layout
    raise DataError(
        f"{folder}: no files of the layout {layout}; found: {', '.join(fits) or 'none'}. docs/datasets.md names the "
        "files of each layout"
    )


def _nothing(folder: Path) -> DataError:
    if any(folder.glob("*_ims.npy*")):
        return DataError(
            f"{folder}: features without captions ({{split}}_caps.txt), or a preparation that "
            "was stopped; give its command again"
        )
    return DataError(
        f"{folder}: neither prepared features ({{split}}_ims.npy, {{split}}_caps.txt) nor a "
        f"Flickr8k folder ({' or '.join(CAPTION_FILES)}, Flickr_8k.{{train,dev,test}}Images.txt) nor "
        f"Karpathy's file beside pictures ({' or '.join(FILES)}) nor a list of images and captions "
        "(captions.csv with the header image,caption; docs/datasets.md has them all)" + near_layout(folder)
    )
