import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from bssan_lib.data.images import UPLOAD_BYTES, UPLOAD_PIXELS, open_image, open_upload, upload_name
from bssan_lib.errors import DataError

LEFT, RIGHT = (200, 40, 40), (40, 40, 200)


def two_halves(width=14, height=6):
    """Red on the left, blue on the right."""
    picture = Image.new("RGB", (width, height), LEFT)
    picture.paste(RIGHT, (width // 2, 0, width, height))
    return picture


def close(pixel, expected, by=12):
    return all(abs(a - b) <= by for a, b in zip(pixel, expected))


def test_rgb_is_left_as_it_is(tmp_path):
    two_halves().save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.png")), np.asarray(two_halves()))


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter clockwise
    two_halves().save(tmp_path / "a.jpg", exif=exif, quality=95)
    picture = open_image(tmp_path / "a.jpg")
    assert picture.size == (6, 14)
    assert close(picture.getpixel((3, 1)), LEFT, 30) and close(picture.getpixel((3, 12)), RIGHT, 30)


@pytest.mark.parametrize(
    "mode, suffix",
    [
        ("L", "png"),
        ("1", "png"),
        ("CMYK", "jpg"),
        ("P", "gif"),
        ("L", "jpg"),
        ("YCbCr", "jpg"),
        ("CMYK", "tif"),
        ("LAB", "tif"),
    ],
)
def test_other_colour_spaces_work(tmp_path, mode, suffix):
    source = Image.new("LAB", (14, 6)) if mode == "LAB" else two_halves().convert(mode)
    source.save(tmp_path / f"a.{suffix}")
    picture = open_image(tmp_path / f"a.{suffix}")
    assert picture.mode == "RGB" and picture.size == (14, 6)
    if mode in ("CMYK", "P", "YCbCr"):
        assert close(picture.getpixel((1, 3)), LEFT, 40) and close(picture.getpixel((12, 3)), RIGHT, 40)


def test_transparent_parts_lie_over_white(tmp_path):
    rgba = two_halves().convert("RGBA")
    rgba.putalpha(Image.new("L", rgba.size, 0))
    rgba.save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png").getpixel((0, 0)) == (255, 255, 255)
    Image.new("LA", (3, 5), (0, 128)).save(tmp_path / "b.png")
    assert close(open_image(tmp_path / "b.png").getpixel((0, 0)), (127, 127, 127), 2)
    palette = Image.new("P", (3, 5), 0)
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 1), 1)
    palette.save(tmp_path / "c.png", transparency=0)
    assert open_image(tmp_path / "c.png").getpixel((0, 0)) == (255, 255, 255)
    assert open_image(tmp_path / "c.png").getpixel((1, 1)) == (200, 100, 50)


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    values = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.asarray(open_image(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 100, 255]


def test_broken_files_are_named(tmp_path):
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 80).convert("RGB").save(buffer, "jpeg")
    whole = buffer.getvalue()
    broken = {
        "cut.jpg": whole[: len(whole) // 2],
        "empty.jpg": b"",
        "text.jpg": b"not a picture at all",
        "head.jpg": whole[:30],
        "cut.png": b"\x89PNG\r\n\x1a\n" + b"\0" * 7,
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            open_image(tmp_path / name)
    with pytest.raises(DataError, match="gone.jpg"):
        open_image(tmp_path / "gone.jpg")
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(DataError, match="folder.jpg"):
        open_image(tmp_path / "folder.jpg")


def bomb(side):
    """A PNG of a few bytes that says it has side x side pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [11_000, 60_000])
def test_a_picture_of_too_many_pixels_is_refused(tmp_path, side):
    (tmp_path / "bomb.png").write_bytes(bomb(side))
    with pytest.raises(DataError, match="bomb.png.*pixels"):
        open_image(tmp_path / "bomb.png")


def saved(picture, kind):
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "TIFF", "WEBP", "JPEG"])
def test_uploads_are_read_from_memory(kind):
    picture = open_upload(saved(two_halves(), kind), f"a.{kind}")
    assert picture.mode == "RGB" and picture.size == (14, 6)
    assert close(picture.getpixel((1, 3)), LEFT, 40) and close(picture.getpixel((12, 3)), RIGHT, 40)


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "empty"),
        (b"garbage" * 9, "not a picture in one of JPEG"),
        (saved(two_halves(), "PNG")[:60], "cut short"),
        (bomb(int(UPLOAD_PIXELS**0.5) + 1), "40,000,000 pixels"),
        (b"x" * (UPLOAD_BYTES + 1), "at most 20 MB"),
        (saved(two_halves(), "EPS"), "not a picture"),  # decoding it would run another program
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "not a picture"),
    ],
)
def test_uploads_that_are_no_pictures_are_refused_by_name(content, said):
    with pytest.raises(DataError, match=f"evil.png: .*{said}"):
        open_upload(content, "../../evil.png")


@pytest.mark.parametrize(
    "name, shown",
    [
        ("dog.jpg", "dog.jpg"),
        ("../../etc/passwd", "passwd"),
        ("C:\\pictures\\dog.jpg", "dog.jpg"),
        ("", "picture"),
        ("a\nb\x00\u202ec.png", "abc.png"),
        ("x" * 61, "x" * 59 + "…"),
        ("../", "picture"),
        ("\ud800.png", "?.png"),
        ("<img src=x onerror=alert(1)>.png", "<img src=x onerror=alert(1)>.png"),
    ],
)
def test_a_strangers_file_name_is_only_shown(name, shown):
    assert upload_name(name) == shown
