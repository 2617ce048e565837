import json
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bssan_lib.config import DataConfig
from bssan_lib.data import (
    Phrase,
    RawSplit,
    detect_source,
    list_splits,
    open_prepared,
    prepare,
    tokenize,
    verify_checksums,
    write_split,
)
from bssan_lib.data.writing import same_pictures
from bssan_lib.errors import DataError
from tests.small_backbone import SmallBackbone

N = 13


def raw_split(folder: Path, name="dev") -> RawSplit:
    """13 pictures of one colour each; image i has 1 + i % 3 captions."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for i in range(N):
        path = folder / "pictures" / f"{i}.png"
        Image.new("RGB", (6, 9), (10 * i, 5 * i, 250 - i)).save(path)
        os.utime(path, ns=(0, 0))
    cap2im = np.repeat(np.arange(N), [1 + i % 3 for i in range(N)])
    captions = [f"a picture, number {row}" for row in range(len(cap2im))]
    captions[2] = 'costs $5, "so"\tthey\nsay 🐕 犬'
    phrases = [Phrase(0, (0, 1), "other", ((0.0, 0.25, 0.5, 1.0),)), Phrase(4, (3,), "people", ((0, 0, 1, 1),) * 2)]
    satisfies = np.arange(N)[None] >= cap2im[:, None]
    ids = [f"{i}.png" for i in range(N)]
    notes = {"kinds": ["colour"]}
    return RawSplit(name, ids, folder / "pictures", captions, cap2im, phrases, satisfies, notes)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def start(code: str, folder: Path) -> subprocess.Popen:
    """Python code in a process of its own; it finds `raw`, `folder` and this module's names."""
    before = f"""
    import os, signal, sys
    sys.path[:0] = [{str(Path(__file__).parent.parent.parent)!r}]
    from tests.data.test_prepared import *
    from bssan_lib.data import extraction
    folder = Path({str(folder)!r})
    raw = raw_split(folder)
    """
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(before) + textwrap.dedent(code)], text=True, **pipes)


def run(code: str, folder: Path) -> subprocess.CompletedProcess:
    """The same, waited for."""
    process = start(code, folder)
    out, said = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, said)


def test_everything_comes_back(tmp_path):
    raw = raw_split(tmp_path)
    write_split(tmp_path / "out", raw, SmallBackbone(), progress=False, meta={"source": "made up"})
    split = open_prepared(tmp_path / "out", "dev")
    assert split.sizes == dict(images=N, captions=25, regions=9, objects=5, dimension=3)
    assert isinstance(split.regions, np.memmap) and split.regions.dtype == split.objects.dtype == np.float16
    assert np.array_equal(split.regions[7], np.tile([70, 35, 243], (9, 1)))
    assert np.array_equal(split.objects[7], np.tile([70, 35, 243], (5, 1)))
    assert split.boxes.shape == (N, 9, 4) and split.object_boxes.shape == (N, 5, 4)
    assert np.allclose(split.boxes[11, 5], [2 / 3, 1 / 3, 1, 2 / 3])
    assert split.captions[2] == 'costs $5, "so"\tthey say 🐕 犬' and split.captions[3] == raw.captions[3]
    assert np.array_equal(split.cap2im, raw.cap2im) and split.captions_of(2).tolist() == [3, 4, 5]
    assert split.ids == raw.ids and split.phrases == raw.phrases
    assert np.array_equal(split.satisfies, raw.satisfies)
    assert split.image(7).getpixel((0, 0)) == (70, 35, 243)
    assert split.meta["source"] == "made up" and split.meta["backbone"]["grid"] == [3, 3]
    assert split.meta["splits"]["dev"]["notes"] == {"kinds": ["colour"]}
    assert list_splits(tmp_path / "out") == ["dev"] and detect_source(tmp_path / "out") == "prepared"
    assert verify_checksums(tmp_path / "out") == 9
    assert not list((tmp_path / "out").glob("*.partial*"))


def test_the_files_are_those_that_scan_and_its_descendants_read(tmp_path):
    raw = raw_split(tmp_path)
    write_split(tmp_path / "out", raw, SmallBackbone(), progress=False)
    images = np.load(tmp_path / "out" / "dev_ims.npy")
    with open(tmp_path / "out" / "dev_caps.txt", "rb") as file:
        captions = [line.strip() for line in file]
    assert images.shape == (N, 9, 3) and len(captions) == len(raw.captions)


def test_pictures_inside_the_folder_move_with_it(tmp_path):
    out = tmp_path / "out"
    write_split(out, raw_split(out), SmallBackbone(), progress=False)
    out.rename(tmp_path / "moved")
    assert open_prepared(tmp_path / "moved", "dev").image(2).getpixel((0, 0)) == (20, 10, 248)
    (tmp_path / "moved" / "pictures" / "2.png").unlink()
    assert open_prepared(tmp_path / "moved", "dev").image(2) is None


def test_a_backbone_without_objects(tmp_path):
    backbone = SmallBackbone()
    backbone.object_boxes = np.zeros((0, 4), np.float32)
    write_split(tmp_path / "out", raw_split(tmp_path), backbone, progress=False)
    split = open_prepared(tmp_path / "out", "dev")
    assert split.objects is None and split.object_boxes is None and split.sizes["objects"] == 9


@pytest.mark.parametrize("batches", [0, 1, 3, 6])
def test_a_kill_at_any_batch_is_made_good_to_the_same_bytes(tmp_path, batches):
    killed = run(
        f"""
    extraction.BATCH, extraction.SAVE_EVERY = 2, 2
    class Killer(SmallBackbone):
        left = {batches}
        def extract(self, images):
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self.left -= 1
            return super().extract(images)
    write_split(folder / "out", raw, Killer(), progress=False)
    """,
        tmp_path,
    )
    assert killed.returncode == -9, killed.stderr
    assert list_splits(tmp_path / "out") == [] and (tmp_path / "out" / "dev_ims.npy.partial").is_file()
    assert not (tmp_path / "out" / "dev_ims.npy").exists()
    with pytest.raises(DataError, match="no split 'dev'.*stopped"):
        open_prepared(tmp_path / "out", "dev")
    done = run(
        """
    extraction.BATCH, extraction.SAVE_EVERY = 2, 2
    class Counter(SmallBackbone):
        seen = 0
        def extract(self, images):
            Counter.seen += len(images)
            return super().extract(images)
    write_split(folder / "out", raw, Counter(), progress=False)
    print(Counter.seen)
    """,
        tmp_path,
    )
    assert int(done.stdout) == N - batches // 2 * 4, done.stderr  # what was saved is not computed again
    write_split(tmp_path / "at once", raw_split(tmp_path), SmallBackbone(), progress=False)
    assert contents(tmp_path / "out") == contents(tmp_path / "at once")


def test_rows_of_other_images_or_another_backbone_are_not_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr("bssan_lib.data.extraction.BATCH", 2)
    monkeypatch.setattr("bssan_lib.data.extraction.SAVE_EVERY", 1)
    raw = raw_split(tmp_path)
    (tmp_path / "pictures" / "9.png").write_bytes(b"")
    with pytest.raises(DataError, match="9.png.*empty"):
        write_split(tmp_path / "out", raw, SmallBackbone(), progress=False)
    raw = raw_split(tmp_path)
    backwards = replace(raw, ids=raw.ids[::-1])
    write_split(tmp_path / "out", backwards, SmallBackbone(), progress=False)
    assert open_prepared(tmp_path / "out", "dev").regions[0, 0].tolist() == [120, 60, 238]


def test_new_captions_keep_the_features(tmp_path):
    class Never(SmallBackbone):
        def extract(self, images):
            raise AssertionError("the features are there")

    raw = raw_split(tmp_path)
    write_split(tmp_path / "out", raw, SmallBackbone(), progress=False)
    captions = ["one caption"] * N
    other = replace(raw, captions=captions, cap2im=np.arange(N), phrases=None, satisfies=None)
    write_split(tmp_path / "out", other, Never(), progress=False)
    split = open_prepared(tmp_path / "out", "dev")
    assert split.captions == captions and split.phrases is None and split.satisfies is None
    assert verify_checksums(tmp_path / "out") == 7


def test_another_backbone_in_the_same_folder_is_refused(tmp_path):
    write_split(tmp_path / "out", raw_split(tmp_path), SmallBackbone(), progress=False)
    with pytest.raises(DataError, match="another backbone.*scale"):
        write_split(tmp_path / "out", raw_split(tmp_path, "test"), SmallBackbone(2.0), progress=False)
    assert list_splits(tmp_path / "out") == ["dev"]


@pytest.mark.parametrize("scale", [1e4, np.nan])
def test_features_beyond_float16_are_named(tmp_path, scale):
    backbone = SmallBackbone(scale)
    backbone.descriptor["scale"] = str(scale)  # meta.json holds no NaN
    with pytest.raises(DataError, match=r"0.png.*float16"):
        write_split(tmp_path / "out", raw_split(tmp_path), backbone, progress=False)
    assert list_splits(tmp_path / "out") == []


def test_a_full_disk_is_said_with_the_bytes_needed_and_leaves_no_split(tmp_path):
    # The system itself refuses to let a file grow beyond 500 bytes, as it would on a full disk.
    full = run(
        """
    import resource
    from bssan_lib.errors import DataError
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
    try:
        write_split(folder / "out", raw, SmallBackbone(), progress=False)
    except DataError as error:
        print(error)
    """,
        tmp_path,
    )
    assert "disk is full" in full.stdout and "1,348 bytes are needed" in full.stdout, full.stderr
    assert not (tmp_path / "out" / "dev_ims.npy").exists()
    write_split(tmp_path / "out", raw_split(tmp_path), SmallBackbone(), progress=False)
    assert open_prepared(tmp_path / "out", "dev").sizes["images"] == N


def test_too_small_a_disk_is_said_before_anything_is_computed(tmp_path):
    class Never(SmallBackbone):
        def extract(self, images):
            raise AssertionError("should not begin")

    backbone = Never()
    backbone.descriptor["dimension"] = 10**15
    with pytest.raises(DataError, match="more bytes are needed there, but the disk has"):
        write_split(tmp_path / "out", raw_split(tmp_path), backbone, progress=False)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataError, match="file.*cannot be written"):
            write_split(place, raw_split(tmp_path), SmallBackbone(), progress=False)


def test_two_processes_at_once_end_with_one_whole_split(tmp_path):
    first = start(
        """
    class Held(SmallBackbone):
        def extract(self, images):
            print("begun", flush=True)
            sys.stdin.readline()  # holds the folder until the test says so
            return super().extract(images)
    write_split(folder / "out", raw, Held(), progress=False)
    """,
        tmp_path,
    )
    assert first.stdout.readline() == "begun\n"
    second = start(
        """
    class Never(SmallBackbone):
        def extract(self, images):
            raise AssertionError("the first process has done it")
    write_split(folder / "out", raw, Never(), progress=False)
    """,
        tmp_path,
    )
    assert "waiting" in second.stderr.readline()
    first.communicate("go on\n", timeout=120)
    assert first.returncode == 0 and second.communicate(timeout=120)[1] == "" and second.returncode == 0
    assert verify_checksums(tmp_path / "out") == 9


def test_changed_and_missing_files_are_found(tmp_path):
    out = tmp_path / "out"
    write_split(out, raw_split(tmp_path), SmallBackbone(), progress=False)
    data = bytearray((out / "dev_ims.npy").read_bytes())
    data[-1] ^= 1
    (out / "dev_ims.npy").write_bytes(data)
    open_prepared(out, "dev")
    with pytest.raises(DataError, match="dev_ims.npy.*checksum"):
        verify_checksums(out)
    (out / "dev_ims.npy").write_bytes(data[:-1])
    with pytest.raises(DataError, match="dev_ims.npy has .* bytes"):
        open_prepared(out, "dev")
    (out / "dev_ims.npy").unlink()
    with pytest.raises(DataError, match="dev_ims.npy is missing"):
        open_prepared(out, "dev")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 1}', '{"format": "other", "splits": {}, "features": {}, "backbone": {}}']
)
def test_a_damaged_meta_is_named(tmp_path, text):
    write_split(tmp_path / "out", raw_split(tmp_path), SmallBackbone(), progress=False)
    (tmp_path / "out" / "meta.json").write_text(text)
    with pytest.raises(DataError, match="meta.json"):
        open_prepared(tmp_path / "out", "dev")


@pytest.mark.parametrize(
    "line",
    [
        "{",
        '{"caption": 0, "words": [99], "type": "a", "boxes": [[0, 0, 1, 1]]}',
        '{"caption": 99, "words": [0], "type": "a", "boxes": [[0, 0, 1, 1]]}',
        '{"caption": 0, "words": [0], "type": "a", "boxes": [[0, 1, 1]]}',
    ],
)
def test_a_damaged_phrase_is_named_by_line(tmp_path, line):
    out = tmp_path / "out"
    write_split(out, raw_split(tmp_path), SmallBackbone(), progress=False)
    with open(out / "dev_phrases.jsonl", "a") as file:
        file.write(line + "\n")
    meta = json.loads((out / "meta.json").read_text())
    meta["splits"]["dev"]["files"]["dev_phrases.jsonl"]["bytes"] = (out / "dev_phrases.jsonl").stat().st_size
    (out / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(DataError, match="phrases.jsonl, line 3"):
        open_prepared(out, "dev")


@pytest.mark.parametrize(
    "change",
    [dict(captions=["a"]), dict(cap2im=np.zeros(25, int)), dict(satisfies=np.zeros((3, 5), bool)), dict(ids=[])],
)
def test_a_source_that_contradicts_itself_is_refused(tmp_path, change):
    with pytest.raises(DataError, match="split dev"):
        write_split(tmp_path / "out", replace(raw_split(tmp_path), **change), SmallBackbone(), progress=False)


# --- prepare()


def test_prepare_scenes_and_return_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = DataConfig(source="scenes", images=20)
    place = prepare(data, ["test", "pairs"], progress=False)
    assert place.parent == Path("prepared") and place.name.startswith("scenes-")
    assert sorted(list_splits(place)) == ["pairs", "test"]
    split = open_prepared(place, "test")
    assert split.sizes["regions"] == 49 and split.sizes["dimension"] == 1280
    assert split.image(0).size == (224, 224)
    lengths = [len(tokenize(caption)) for caption in split.captions]
    assert split.phrases and all(max(phrase.words) < lengths[phrase.caption] for phrase in split.phrases)
    before = {path: path.stat().st_mtime_ns for path in place.iterdir()}
    assert prepare(data, ["test"], progress=False) == place
    assert {path: path.stat().st_mtime_ns for path in place.iterdir()} == before
    assert prepare(DataConfig(source="flickr8k", folder=str(place)), ["test"]) == place  # used as it is
    with pytest.raises(DataError, match="no split 'dev'"):
        prepare(DataConfig(source="precomp", folder=str(place)), ["dev"])
    with pytest.raises(DataError, match="prepared from other data.*seed 1, now 2"):
        prepare(DataConfig(source="scenes", images=20, seed=2, prepared=str(place)))
    with pytest.raises(DataError, match="no split 'val'"):
        prepare(data, ["val"])


def test_prepare_says_what_is_wrong_with_a_folder(tmp_path):
    with pytest.raises(DataError, match="needs its folder"):
        prepare(DataConfig(source="flickr8k"))
    with pytest.raises(DataError, match="nowhere"):
        prepare(DataConfig(source="flickr8k", folder=str(tmp_path / "nowhere")))
    with pytest.raises(DataError, match="neither prepared features"):
        prepare(DataConfig(source="precomp", folder=str(tmp_path)))
    (tmp_path / "captions.txt").write_text("image,caption\n")
    assert detect_source(tmp_path) == "table"
    with pytest.raises(DataError, match="set data.source to table"):
        prepare(DataConfig(source="precomp", folder=str(tmp_path)))


def test_real_photographs_from_folder_to_features(tmp_path, monkeypatch, flickr8k):
    real, view = flickr8k.resolve(), tmp_path / "view"
    view.mkdir()
    for path in real.iterdir():
        if path.name != "Flickr8k_text":
            (view / path.name).symlink_to(path)
    name = "Flickr_8k.devImages.txt"
    ids = (real / "Flickr8k_text" / name).read_text().split()[:7]
    (view / "Flickr_8k.testImages.txt").write_text("\n".join(ids))
    (view / "Flickr8k.token.txt").symlink_to(real / "Flickr8k_text" / "Flickr8k.token.txt")
    monkeypatch.chdir(tmp_path)
    place = prepare(DataConfig(source="flickr8k", folder=str(view)), progress=False)
    split = open_prepared(place, "test")
    assert split.sizes == dict(images=7, captions=35, regions=49, objects=13, dimension=1280)
    assert split.ids == ids and split.image(6).mode == "RGB"
    assert verify_checksums(place) == (7 if split.phrases is None else 8)
    assert np.ptp(split.regions[3].astype(np.float32), axis=0).max() > 0.1  # regions of a photograph differ
    # A caption mended in the source is taken over, and the features are kept.
    before = (place / "test_ims.npy").stat().st_mtime_ns
    (view / "Flickr8k.token.txt").unlink()
    lines = [f"{name}#0\tmade up {row}\n" for row, name in enumerate(ids)]
    (view / "Flickr8k.token.txt").write_text("".join(lines))
    prepare(DataConfig(source="flickr8k", folder=str(view)), progress=False)
    assert open_prepared(place, "test").captions == [f"made up {row}" for row in range(7)]
    assert (place / "test_ims.npy").stat().st_mtime_ns == before


def test_a_picture_replaced_under_its_name_is_extracted_again_and_nothing_else(tmp_path):
    class Counting(SmallBackbone):
        seen = 0

        def extract(self, images):
            Counting.seen += len(images)
            return super().extract(images)

    raw, out, backbone = raw_split(tmp_path), tmp_path / "out", Counting()
    write_split(out, raw, backbone, progress=False)
    before = contents(out)
    for path in raw.image_folder.iterdir():  # the same pictures with other times
        os.utime(path, (7, 7))
    write_split(out, raw, backbone, progress=False)
    assert Counting.seen == N and contents(out).keys() == before.keys()
    assert contents(out)["dev_ims.npy"] == before["dev_ims.npy"]
    size = (raw.image_folder / "3.png").stat().st_size
    Image.new("RGB", (6, 9), (3, 200, 7)).save(raw.image_folder / "3.png")
    assert (raw.image_folder / "3.png").stat().st_size == size
    write_split(out, raw, backbone, progress=False)
    split = open_prepared(out, "dev")
    assert Counting.seen == 2 * N and split.regions[3, 0].tolist() == [3, 200, 7]
    assert split.regions[4, 0].tolist() == [40, 20, 246]


def test_a_prepared_folder_of_before_pictures_were_noted_is_kept(tmp_path):
    raw, out = raw_split(tmp_path), tmp_path / "out"
    write_split(out, raw, SmallBackbone(), progress=False)
    meta = json.loads((out / "meta.json").read_text())
    assert len(meta["features"]["dev"].pop("pictures")) == 2
    (out / "meta.json").write_text(json.dumps(meta))
    assert same_pictures(out, meta, "dev")
    write_split(out, raw, SmallBackbone(scale=1.0), progress=False)
    again = json.loads((out / "meta.json").read_text())
    assert again["features"]["dev"]["pictures"]["sha256"] and same_pictures(out, again, "dev")
    (raw.image_folder / "3.png").write_bytes((raw.image_folder / "4.png").read_bytes())
    assert not same_pictures(out, again, "dev")
    (raw.image_folder / "4.png").unlink()  # pictures may go once their features are made
    assert same_pictures(out, again, "dev")


def test_prepare_notices_a_replaced_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photographs"
    (folder / "Images").mkdir(parents=True)
    for row in range(3):
        Image.new("RGB", (32, 32), (90 * row, 5, 250)).save(folder / "Images" / f"{row}.jpg")
    (folder / "Flickr8k.token.txt").write_text("".join(f"{row}.jpg#0\ta picture\n" for row in range(3)))
    (folder / "Flickr_8k.testImages.txt").write_text("0.jpg\n1.jpg\n2.jpg\n")
    data = DataConfig(source="flickr8k", folder=str(folder), image_size=64, windows=[1])
    place = prepare(data, progress=False)
    before = np.array(open_prepared(place, "test").regions)
    Image.new("RGB", (32, 32), (9, 240, 60)).save(folder / "Images" / "1.jpg")
    assert prepare(data, progress=False) == place
    after = open_prepared(place, "test").regions
    assert [np.array_equal(before[row], after[row]) for row in range(3)] == [True, False, True]


def test_a_kill_between_the_files_of_a_changed_split_leaves_no_split(tmp_path):
    """New captions beside the old cap2im are no split, even though every file is there."""
    write_split(tmp_path / "out", raw_split(tmp_path), SmallBackbone(), progress=False)
    assert list_splits(tmp_path / "out") == ["dev"]
    change = """
    raw = replace(raw, captions=[f"another picture, number {row}" for row in range(len(raw.captions))])
    def kill(event, arguments):
        if event == "os.rename" and str(arguments[1]).endswith("dev_cap2im.npy"):
            os.kill(os.getpid(), signal.SIGKILL)
    if STOP: sys.addaudithook(kill)
    write_split(folder / "out", raw, SmallBackbone(), progress=False)
    """
    killed = run(change.replace("STOP", "True"), tmp_path)
    assert killed.returncode == -9, killed.stderr
    assert (tmp_path / "out" / "dev_caps.txt").read_text(encoding="utf-8").startswith("another picture, number 0\n")
    assert list_splits(tmp_path / "out") == []
    assert run(change.replace("STOP", "False"), tmp_path).returncode == 0
    assert open_prepared(tmp_path / "out", "dev").captions[3] == "another picture, number 3"
