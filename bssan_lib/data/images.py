"""A picture file to an upright RGB picture, or one clear error that names the file."""

import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from bssan_lib.errors import DataError

_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error)


def open_image(path: Path | str) -> Image.Image:
    """The picture as RGB, turned as its EXIF says; transparent parts lie over white.

    Grayscale, palette, CMYK, 16-bit and animated pictures (the first frame) work. DataError naming the file
    if it is missing, empty, cut short, no picture, or of so many pixels that it looks like an attack.
    """
    path = Path(path)
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty (0 bytes); put the picture there again")
        with Image.open(path) as picture:
            if picture.width * picture.height > Image.MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError
            picture.load()
            return _to_rgb(ImageOps.exif_transpose(picture))
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such picture") from None
    except Image.DecompressionBombError:
        raise DataError(f"{path}: more than {Image.MAX_IMAGE_PIXELS:,} pixels; make the picture "
                        "smaller") from None
    except UnidentifiedImageError:
        raise DataError(f"{path}: not a picture in a format that Pillow reads") from None
    except _BROKEN as error:
        raise DataError(f"{path}: the picture cannot be read, it may be cut short ({error})") from None


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
