import json
import pickle

import numpy as np
import pytest

from bssan_lib.data import detect_source, list_splits, open_prepared, precomp
from bssan_lib.data.precomp import check_cap2im, open_boxes, open_features, precomp_splits, read_captions, read_ids
from bssan_lib.errors import DataError

N, K, D = 7, 3, 11


def features(n=N, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal((n, K, D)).astype(dtype)


def make(folder, split="test", ims=None, captions=5 * N):
    folder.mkdir(exist_ok=True)
    np.save(folder / f"{split}_ims.npy", features() if ims is None else ims)
    (folder / f"{split}_caps.txt").write_text("".join(f"caption number {i}\n" for i in range(captions)))
    return folder


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("each", [1, 2, 5])
def test_captions_in_image_order_are_shared_out(tmp_path, each, dtype):
    folder = make(tmp_path, ims=features(dtype=dtype), captions=each * N)
    split = open_prepared(folder, "test")
    assert isinstance(split.regions, np.memmap) and split.regions.shape == (N, K, D)
    assert split.cap2im.tolist() == [i // each for i in range(each * N)]
    assert split.captions_of(2).tolist() == list(range(2 * each, 3 * each))
    assert split.sizes == dict(images=N, captions=each * N, regions=K, objects=K, dimension=D)
    assert split.ids[3] == "row 3" and split.image(3) is None
    assert split.boxes is split.objects is split.object_boxes is split.phrases is split.satisfies is None
    assert split.meta["backbone"]["grid"] is None


def test_images_repeated_five_times_are_taken_once(tmp_path):
    folder = make(tmp_path, ims=np.repeat(features(), 5, axis=0))
    split = open_prepared(folder, "test")
    assert np.array_equal(split.regions, features()) and split.cap2im.tolist() == [i // 5 for i in range(35)]
    again = open_prepared(folder, "test")  # from what was noted the first time
    assert np.array_equal(again.regions, features())


def test_as_many_captions_as_images_without_repeats(tmp_path):
    split = open_prepared(make(tmp_path, ims=features(10), captions=10), "test")
    assert split.cap2im.tolist() == list(range(10))


def test_repeats_that_stop_half_way_are_named(tmp_path):
    ims = np.repeat(features(), 5, axis=0)
    ims[13] += 1e-3
    with pytest.raises(DataError, match="rows 10 to 14"):
        open_prepared(make(tmp_path, ims=ims), "test")


@pytest.mark.parametrize("captions", [3, 36, 34])
def test_a_wrong_number_of_captions_gives_both_counts(tmp_path, captions):
    with pytest.raises(DataError, match=f"7 images.*{captions} captions"):
        open_prepared(make(tmp_path, captions=captions), "test")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_is_found_in_its_row_every_time(tmp_path, bad):
    ims = features()
    ims[5, 2, 7] = bad
    folder = make(tmp_path, ims=ims)
    for _ in range(2):
        with pytest.raises(DataError, match="test_ims.npy, row 5"):
            open_prepared(folder, "test")


def test_a_file_that_was_changed_is_looked_at_again(tmp_path):
    folder = make(tmp_path)
    open_prepared(folder, "test")
    ims = features(13)
    ims[12, 0, 0] = np.nan
    make(tmp_path, ims=ims, captions=13)
    with pytest.raises(DataError, match="row 12"):
        open_prepared(folder, "test")
    (folder / ".bssan_checked.json").write_text("[damaged")
    with pytest.raises(DataError, match="row 12"):
        open_prepared(folder, "test")


def test_python_objects_are_refused_and_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "sprung"), "w")

    array = np.empty((1, 1, 1), dtype=object)
    array[0, 0, 0] = Trap()
    folder = make(tmp_path)
    np.save(folder / "test_ims.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match="test_ims.npy.*never unpickled"):
        open_prepared(folder, "test")
    (folder / "test_ims.npy").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match="test_ims.npy"):
        open_prepared(folder, "test")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "array, message",
    [
        (np.zeros((N, D), np.float32), r"3 axes.*\[7, 11\]"),
        (np.zeros((2, 2, 2, 2), np.float32), "3 axes"),
        (np.zeros((N, K, D), np.int64), "expected floats, got int64"),
        (np.zeros((N, K, D), complex), "complex"),
        (np.zeros((0, K, D), np.float32), "test_ims.npy"),
        (np.zeros((N, 0, D), np.float32), "test_ims.npy"),
    ],
)
def test_arrays_of_another_kind_are_refused(tmp_path, array, message):
    with pytest.raises(DataError, match=message):
        open_prepared(make(tmp_path, ims=array), "test")


def test_a_file_cut_short_is_refused(tmp_path):
    folder = make(tmp_path)
    data = (folder / "test_ims.npy").read_bytes()
    for size in (0, 5, 100, len(data) - 1):
        (folder / "test_ims.npy").write_bytes(data[:size])
        with pytest.raises(DataError, match="test_ims.npy"):
            open_prepared(folder, "test")


def test_an_empty_caption_and_another_encoding_are_named_by_line(tmp_path):
    folder = make(tmp_path)
    lines = (folder / "test_caps.txt").read_bytes().split(b"\n")
    (folder / "test_caps.txt").write_bytes(b"\n".join([*lines[:3], b"  ", *lines[4:]]))
    with pytest.raises(DataError, match="line 4"):
        open_prepared(folder, "test")
    (folder / "test_caps.txt").write_bytes(b"\n".join([*lines[:3], b"caf\xe9", *lines[4:]]))
    with pytest.raises(DataError, match="line 4: not UTF-8"):
        open_prepared(folder, "test")


def test_files_of_ours_beside_theirs_are_used(tmp_path):
    folder = make(tmp_path, captions=8)
    np.save(folder / "test_cap2im.npy", np.array([0, 1, 1, 2, 3, 4, 5, 6]))
    (folder / "test_ids.txt").write_text("".join(f"{i}.jpg\n" for i in range(N)))
    np.save(folder / "test_boxes.npy", np.tile(np.array([0, 0.5, 1, 1]), (N, K, 1)))
    split = open_prepared(folder, "test")
    assert split.captions_of(1).tolist() == [1, 2] and split.ids[6] == "6.jpg"
    assert split.boxes.shape == (N, K, 4) and split.boxes.dtype == np.float32


def test_ids_and_boxes_repeated_with_the_images_are_taken_once(tmp_path):
    folder = make(tmp_path, ims=np.repeat(features(), 5, axis=0))
    (folder / "test_ids.txt").write_text("".join(f"{i // 5}.jpg\n" for i in range(5 * N)))
    np.save(folder / "test_boxes.npy", np.full((5 * N, K, 4), 0.5, np.float32))
    split = open_prepared(folder, "test")
    assert split.ids == [f"{i}.jpg" for i in range(N)] and split.boxes.shape == (N, K, 4)


@pytest.mark.parametrize(
    "name, array, message",
    [
        ("test_cap2im.npy", np.arange(8), "8 rows for 35 captions"),
        ("test_cap2im.npy", np.full(35, 7), "row 0: image 7 of 7"),
        ("test_cap2im.npy", np.zeros(35, int), "image row 1 has no caption"),
        ("test_cap2im.npy", np.zeros(35), "expected integers"),
        ("test_boxes.npy", np.zeros((N, K + 1, 4)), r"expected the shape \[7, 3, 4\]"),
        ("test_boxes.npy", np.full((N, K, 4), 120.0), "row 0: boxes outside"),
        ("test_boxes.npy", np.full((N, K, 4), np.nan), "row 0: boxes outside"),
    ],
)
def test_wrong_files_beside_are_named(tmp_path, name, array, message):
    folder = make(tmp_path)
    np.save(folder / name, array)
    with pytest.raises(DataError, match=f"{name}.*{message}"):
        open_prepared(folder, "test")


def test_splits_and_source_are_told(tmp_path):
    for split in ("test", "extra", "train"):
        make(tmp_path, split)
    np.save(tmp_path / "dev_ims.npy", features())  # without captions: no split
    assert list_splits(tmp_path) == ["train", "test", "extra"] and detect_source(tmp_path) == "precomp"
    with pytest.raises(DataError, match="'dev'.*train, test, extra"):
        open_prepared(tmp_path, "dev")
    with pytest.raises(DataError, match="nowhere"):
        open_prepared(tmp_path / "nowhere", "test")


def test_the_fields_own_size_is_read_without_being_loaded(tmp_path):
    ims = np.lib.format.open_memmap(tmp_path / "dev_ims.npy", "w+", np.float32, (25, 36, 2048))
    ims[:] = np.repeat(np.random.default_rng(1).random((5, 36, 2048), dtype=np.float32), 5, axis=0)
    ims.flush()
    (tmp_path / "dev_caps.txt").write_text("a caption\n" * 25)
    split = open_prepared(tmp_path, "dev")
    assert split.sizes == dict(images=5, captions=25, regions=36, objects=36, dimension=2048)
    assert json.loads((tmp_path / ".bssan_checked.json").read_text())["dev_ims.npy"]["repeats"] == 5


def test_order_of_splits(tmp_path):
    for name in ("x", "test", "dev", "a", "train"):
        make(tmp_path, name)
    assert precomp_splits(tmp_path) == ["train", "dev", "test", "a", "x"]


def test_missing_files_say_what_was_expected(tmp_path):
    with pytest.raises(DataError, match=r"expected an array \[images, regions, dimension\]"):
        open_features(tmp_path, "test", 5)
    with pytest.raises(DataError, match=r"expected an array \[captions\]"):
        check_cap2im(tmp_path / "c.npy", 5, 2)
    np.save(tmp_path / "b.npy", np.zeros(3, np.float32))
    with pytest.raises(DataError, match=r"3 axes \[images, regions, 4\]"):
        open_boxes(tmp_path / "b.npy", 1, 3)
    (tmp_path / "caps.txt").write_text("")
    with pytest.raises(DataError, match="caps.txt: holds no caption"):
        read_captions(tmp_path / "caps.txt")


def test_cap2im_is_int64_and_a_wrong_row_is_shown(tmp_path):
    path = tmp_path / "c.npy"
    np.save(path, np.array([0, 1, 1], np.int32))
    assert check_cap2im(path, 3, 2).dtype == np.int64
    np.save(path, np.array([0, 5, 1], np.int32))
    with pytest.raises(DataError, match="row 1: image 5 of 2"):
        check_cap2im(path, 3, 2)


def test_ids_of_another_number_or_empty_are_not_used(tmp_path):
    path = tmp_path / "ids.txt"
    for text, expected in (("a\nb\n", ["a", "b"]), ("a\nb\nc\n", None), ("a\n\n", None), ("a\na\nb\nb\n", ["a", "b"])):
        path.write_text(text)
        assert read_ids(path, 2, 2) == expected


@pytest.mark.parametrize(
    "value, allowed", [(-0.01, True), (1.01, True), (-0.02, False), (1.02, False), (np.nan, False)]
)
def test_boxes_lie_in_the_picture_with_a_little_room(tmp_path, value, allowed):
    boxes = np.full((3, 2, 4), 0.5, np.float64)
    boxes[1, 1, 2] = np.float64(value)
    np.save(tmp_path / "b.npy", boxes.astype(np.float64))
    if allowed:
        found = open_boxes(tmp_path / "b.npy", 3, 2)
        assert found.dtype == np.float32 and found.shape == (3, 2, 4)
    else:
        expected = (
            "row 1: boxes outside the picture; expected x1 y1 x2 y2 as fractions of its width and height, from 0 to 1"
        )
        with pytest.raises(DataError, match=expected):
            open_boxes(tmp_path / "b.npy", 3, 2)
    with pytest.raises(DataError, match=r"expected the shape \[1, 2, 4\]"):
        open_boxes(tmp_path / "b.npy", 1, 2, 2)


def test_what_was_found_is_noted_for_all_files_and_a_damaged_note_is_replaced(tmp_path):
    make(tmp_path, "dev", np.repeat(features(), 5, axis=0))
    make(tmp_path, "test")
    note = tmp_path / ".bssan_checked.json"
    for split in ("dev", "test"):
        open_prepared(tmp_path, split)
    known = json.loads(note.read_text())
    assert {name: entry["repeats"] for name, entry in known.items()} == {"dev_ims.npy": 5, "test_ims.npy": 1}
    assert all(len(entry["stamp"]) == 3 for entry in known.values())
    # What is noted is used: a note of no repeats makes 35 images of the 35 rows.
    known["dev_ims.npy"]["repeats"] = 1
    note.write_text(json.dumps(known))
    assert len(open_features(tmp_path, "dev", 35)[0]) == 35
    for damaged in ("[]", "{", json.dumps(known | {"dev_ims.npy": {"repeats": 7}})):
        note.write_text(damaged)
        assert len(open_features(tmp_path, "dev", 35)[0]) == N
        assert json.loads(note.read_text())["dev_ims.npy"]["repeats"] == 5


@pytest.mark.parametrize("chunk", [1, 10**3])
def test_repeats_are_found_in_pieces_of_any_size(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(precomp, "_CHUNK", chunk)
    assert open_features(make(tmp_path, ims=np.repeat(features(), 5, axis=0)), "test", 35)[2] == 5
    other = features(10)
    other[1] = other[0]  # the first two rows are equal, five are not
    assert open_features(make(tmp_path / "other", ims=other, captions=10), "test", 10)[2] == 1
    ims = np.repeat(features(), 5, axis=0)
    ims[6] += 1
    expected = (
        "rows 5 to 9: as many rows as captions, and the first five are one image five times, but these are not; "
        "expected either throughout"
    )
    with pytest.raises(DataError, match=expected):
        open_features(make(tmp_path / "wrong", ims=ims), "test", 35)


SIZES = np.array([[500, 375], [333, 500], [500, 333]])  # width and height of three pictures
PIXELS = np.array([[[0, 75, 250, 375]], [[111, 50, 333, 500]], [[125, 0, 500, 333]]], np.float32)


def pixel_boxes(folder, boxes=PIXELS, sizes=SIZES):
    np.save(folder / "dev_boxes.npy", boxes)
    np.save(folder / "dev_img_sizes.npy", sizes)
    return folder / "dev_boxes.npy"


@pytest.mark.parametrize("repeats", [1, 5])
@pytest.mark.parametrize("kind", [np.float32, np.int64])
def test_boxes_in_pixels_become_fractions(tmp_path, repeats, kind):
    path = pixel_boxes(tmp_path, PIXELS.astype(kind).repeat(repeats, axis=0), SIZES.repeat(repeats, axis=0))
    found = open_boxes(path, 3, 1, repeats)
    assert np.allclose(found[:, 0], [[0, 0.2, 0.5, 1], [1 / 3, 0.1, 1, 1], [0.25, 0, 1, 1]])
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    "boxes, sizes, message",
    [
        (
            PIXELS,
            SIZES[:, ::-1],
            "row 1: boxes outside a picture of width 500 and height 333, but inside one of width 333",
        ),
        (PIXELS[..., [1, 0, 3, 2]], SIZES, "row 1: .* Expected width before height .* and x before y"),
        (PIXELS * 2, SIZES, r"row 0: boxes outside the picture; .*, or in pixels with dev_img_sizes.npy \[images, 2\]"),
        (
            PIXELS[..., [2, 1, 0, 3]],
            SIZES,
            "row 0: the box 250 75 0 375; .* If it is x, y, width and height, add x and y",
        ),
        (PIXELS, SIZES[:2], r"dev_img_sizes.npy: expected width and height in pixels of 3 images, got \[2, 2\]"),
        (PIXELS, SIZES * 0, r"dev_img_sizes.npy: .* of 3 images, got \[3, 2\] with 0"),
    ],
)
def test_boxes_and_sizes_in_another_order_are_refused(tmp_path, boxes, sizes, message):
    with pytest.raises(DataError, match=message):
        open_boxes(pixel_boxes(tmp_path, boxes, sizes), 3, 1)


def test_fractions_stay_fractions_beside_sizes_of_pictures(tmp_path):
    found = open_boxes(pixel_boxes(tmp_path, np.full((3, 2, 4), 0.25)), 3, 2)
    assert (found == 0.25).all()
