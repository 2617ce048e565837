"""Reads a picture file, or the bytes of one, as an upright RGB picture, or raises one error that names the file."""

import io
import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from bssan_lib.errors import DataError
from bssan_lib.reading import check_file

MOST_PIXELS = 89_478_485  # the number at which Pillow warns of a decompression bomb
UPLOAD_BYTES = 20 * 10**6
UPLOAD_PIXELS = 40 * 10**6  # half of the number at which Pillow warns of a decompression bomb
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # all decoded by Pillow itself, none by a program
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
LONGEST_SHAPE = 20  # how often the shorter side may fit into the longer one

_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error)


def open_image(path: Path | str) -> Image.Image:
    """The picture as RGB, rotated according to its EXIF; transparent parts become white.

    Grayscale, palette, CMYK, 16-bit and animated pictures (the first frame) work. DataError naming the file
    if it is missing, empty, cut short, no picture, or of so many pixels that it looks like an attack.
    """
    path = Path(path)
    try:
        check_file(path)
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty (0 bytes); put the picture there again")
        return _read(path, path, MOST_PIXELS)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such picture") from None
    except OSError as error:
        raise DataError(f"{path}: the picture cannot be read ({error})") from None


def open_upload(content: bytes, name: str) -> Image.Image:
    """An uploaded picture, as `open_image` returns it; it is only kept in memory.

    content: the file's bytes, at most UPLOAD_BYTES. name: of the file as it was uploaded, only used in messages.
    DataError with this name for everything that is no picture in one of FORMATS of at most UPLOAD_PIXELS.
    """
    shown = upload_name(name)
    if not content:
        raise DataError(f"{shown}: the file is empty (0 bytes); choose a picture")
    if len(content) > UPLOAD_BYTES:
        raise DataError(f"{shown}: {len(content) / 1e6:.1f} MB; a picture may have at most {UPLOAD_BYTES // 10**6} MB")
    return _read(io.BytesIO(content), shown, UPLOAD_PIXELS)


def upload_name(name: str) -> str:
    """The name of an uploaded file as it may be shown: its last part, on one line, cut at 60 letters."""
    last = str(name).encode("utf-8", "replace").decode("utf-8").replace("\\", "/").rpartition("/")[2]
    line = "".join(letter for letter in last if letter.isprintable()).strip()
    return (line if len(line) <= 60 else line[:59] + "…") or "picture"


def _read(source, shown, most_pixels: int) -> Image.Image:
    """source: a path or a file object. shown: its name in errors."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused below, by our own limit
            with Image.open(source, formats=FORMATS) as picture:
                if picture.width * picture.height > most_pixels:
                    raise Image.DecompressionBombError
                if max(picture.size) > LONGEST_SHAPE * min(picture.size):
                    raise DataError(
                        f"{shown}: {picture.width} x {picture.height} pixels; the longer side may be at most "
                        f"{LONGEST_SHAPE} times the shorter one: cut the picture"
                    )
                picture.load()
                return _to_rgb(ImageOps.exif_transpose(picture))
    except (FileNotFoundError, IsADirectoryError):
        raise
    except Image.DecompressionBombError:
        raise DataError(f"{shown}: more than {most_pixels:,} pixels; make the picture smaller") from None
    except UnidentifiedImageError:
        raise DataError(f"{shown}: not a picture in one of {', '.join(FORMATS)}") from None
    except _BROKEN as error:
        raise DataError(f"{shown}: the picture cannot be read, it may be cut short ({error})") from None


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        # 16 bits a pixel: Pillow's own conversion would clip everything above 255 to white.
        values = np.asarray(picture).astype(np.float64)
        gray = np.clip(values / (257 if values.max() > 255 else 1), 0, 255)
        return Image.fromarray(gray.round().astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")
