"""The view's data, galleries, neighbours, uploads and the explorer, without a browser. Sizes are primes."""

import base64
import html.parser
import io
import json
import os
import re
import sys
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch
from nbformat import v4
from PIL import Image

from bssan_lib.config import ModelConfig
from bssan_lib.data import Vocabulary
from bssan_lib.data.images import UPLOAD_BYTES
from bssan_lib.errors import CheckpointError, DataError
from bssan_lib.evaluation.photograph import FeatureExtractor, Photograph, load_pretrained
from bssan_lib.evaluation.scoring import Attention
from bssan_lib.explorer import (
    Explorer,
    Gallery,
    free_photographs,
    nearest_captions,
    nearest_pictures,
    open_explorer,
    show_attention,
    view_data,
)
from bssan_lib.explorer.app import MOST_UPLOADS, MOST_WORDS
from bssan_lib.explorer.view import SCRIPT, STYLE, are_tiles, cell_boxes, data_uri, first_word, grid_of
from bssan_lib.models.bssan import BSSAN
from bssan_lib.models.checkpoint import Checkpoint, save_checkpoint
from bssan_lib.series.outputs import VIEW_TYPE, WIDGET, clean_notebook, remove_widgets
from bssan_lib.series.report import write_report

HOSTILE = "<img src=x onerror=alert(1)> a dog </script>"
D, K, M = 5, 7, 3
OBJECT_BOXES = np.array([[0, 0, 0.6, 0.6], [0.4, 0.4, 1, 1], [0, 0, 1, 1]])


@pytest.fixture(scope="module")
def checkpoint():
    """An untrained model for features of size 5."""
    torch.manual_seed(3)
    vocabulary = Vocabulary(["<pad>", "<unk>", "a", "dog", "runs"])
    return Checkpoint(
        BSSAN(ModelConfig(joint_size=11, word_size=3), len(vocabulary), D, True).eval(), vocabulary, None, {}
    )


def photograph_of(checkpoint, seed=0, picture=True):
    random = np.random.default_rng(seed)
    shown = Image.fromarray(random.integers(0, 255, (13, 29, 3), np.uint8)) if picture else None
    return Photograph(
        checkpoint, shown, random.normal(size=(K, D)), random.normal(size=(M, D)), cell_boxes(K), OBJECT_BOXES
    )


def gallery_of(checkpoint, captions):
    made = [photograph_of(checkpoint, seed) for seed in range(len(captions))]
    return Gallery(
        "made",
        checkpoint,
        [f"picture {n}" for n in range(len(made))],
        captions,
        lambda row: made[row].picture,
        lambda row: (made[row].regions, made[row].objects, made[row].boxes, made[row].object_boxes),
    )


def png(width, height, seed=1):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_the_view_shows_the_weights_that_scored(checkpoint):
    photograph = photograph_of(checkpoint)
    attention = photograph.attend("a horse runs")
    data = json.loads(json.dumps(view_data(photograph, "a horse runs", "dog.jpg")))
    np.testing.assert_allclose(data["regions"]["weights"], attention.w2r, atol=1e-5)
    np.testing.assert_allclose(data["objects"]["weights"], attention.o2w, atol=1e-5)
    np.testing.assert_allclose(data["regions"]["boxes"], photograph.boxes, atol=1e-4)
    assert (data["words"], data["unknown"]) == (["a", "horse", "runs"], [1])
    assert (data["regions"]["tiles"], data["objects"]["tiles"]) == (True, False)
    assert data["scores"]["joint"] == round(attention.score, 4)
    assert (data["picture"]["width"], data["picture"]["height"], data["picture"]["known"]) == (29, 13, True)


def test_features_without_pictures_are_laid_out_and_say_so(checkpoint):
    photograph = photograph_of(checkpoint, picture=False)
    photograph.boxes = photograph.object_boxes = photograph.objects = None
    data = view_data(photograph, "a dog", "row 0")
    assert not data["placed"] and not data["picture"]["known"] and "no picture" in data["picture"]["alt"]
    assert np.shape(data["regions"]["boxes"]) == (K, 4) == np.shape(data["objects"]["boxes"])
    assert show_attention(photograph, "a dog", "row 0").picture.startswith(b"\x89PNG")


def test_the_first_word_is_the_content_word_with_the_heaviest_region():
    weights = np.array([[0.9, 0.1], [0.3, 0.7], [0.2, 0.8], [0.6, 0.4]])
    found = Attention(weights, None, ["the", "dog", "zyzzyva", "runs"], 0.0, None, None, None)
    assert first_word(found) == 2 and first_word(found, {"zyzzyva"}) == 1
    assert first_word(Attention(weights[:2], None, ["the", "a"], 0.0, None, None, None)) == 0  # no content word
    assert first_word(found, {"the", "dog", "zyzzyva", "runs"}) == 2  # all unknown


def test_the_figure_has_the_chosen_direction(explorer):
    assert len(explorer.figure().axes) > 10  # a panel a word, with a bar
    explorer.direction.value = "o2w"
    assert len(explorer.figure().axes) == 4  # four objects


def test_cells_of_regions_without_places():
    boxes = cell_boxes(5)  # three columns, two rows, the last cell empty
    third, half = 1 / 3, 1 / 2
    np.testing.assert_allclose(boxes[[0, 4]], [[0, 0, third, half], [third, half, 2 * third, 1]])
    assert grid_of(boxes) is None and grid_of(cell_boxes(6)) == (2, 3)
    assert grid_of(cell_boxes(6)[::-1]) is None and grid_of(OBJECT_BOXES) is None
    assert are_tiles(boxes) and not are_tiles(np.vstack([boxes, [0.3, 0.4, 0.5, 0.6]])) and are_tiles(cell_boxes(1))


def test_what_was_beside_the_pixels_of_a_file_is_left_out():
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    file = io.BytesIO()
    Image.new("RGB", (1301, 7)).save(file, "JPEG", exif=exif)
    uri = data_uri(Image.open(file), side=101)
    content = base64.b64decode(uri.partition(",")[2])
    assert b"taken at home" not in content and max(Image.open(io.BytesIO(content)).size) == 101


def test_neighbours_are_those_of_a_loop_over_all_pairs(checkpoint):
    captions = [["a dog", "runs runs runs dog"], ["dog"], ["a a dog runs", "a dog"], ["runs a"], ["horse"]]
    gallery = gallery_of(checkpoint, captions)
    photograph = gallery.photograph(2)
    pairs = [(row, caption) for row, own in enumerate(captions) for caption in own]
    expected = sorted(((row, text, photograph.attend(text).score) for row, text in pairs), key=lambda one: -one[2])[:3]
    found = nearest_captions(gallery, photograph, 3)
    assert [one[:2] for one in found] == [one[:2] for one in expected]
    np.testing.assert_allclose([one[2] for one in found], [one[2] for one in expected], atol=1e-5)
    scores = [gallery.photograph(row).attend("a dog runs").score for row in range(5)]
    near = nearest_pictures(gallery, "a dog runs", 3)
    assert [row for row, _, _ in near] == list(np.argsort(-np.array(scores))[:3])
    for row, score, weights in near:
        attention = gallery.photograph(row).attend("a dog runs")
        np.testing.assert_allclose(weights, attention.w2r.mean(0), atol=1e-5)
        assert score == pytest.approx(attention.score, abs=1e-5)


def test_choosing_and_typing_lead_the_view(checkpoint):
    explorer = Explorer([gallery_of(checkpoint, [["a dog"], ["dog runs", HOSTILE]])])
    explorer.picture.value = 1
    assert explorer.view.data["label"] == "picture 1" and explorer.typed.value == "dog runs"
    explorer.given.value = HOSTILE
    assert explorer.view.data["caption"] == HOSTILE and explorer.view.data["words"][0] == "img"
    explorer.typed.value = "a a a dog"
    assert explorer.view.data["words"] == ["a", "a", "a", "dog"] and explorer.given.value == ""
    assert explorer.attention.score == explorer.galleries[0].photograph(1).attend("a a a dog").score
    explorer.typed.value = ""
    assert "Type a caption" in explorer.view.message
    explorer.typed.value = "dog " * 1000
    assert len(explorer.view.data["words"]) == MOST_WORDS and explorer.view.message == ""


def test_a_neighbour_can_be_taken(checkpoint):
    explorer = Explorer([gallery_of(checkpoint, [["a dog"], ["dog runs"], ["runs"]])])
    explorer.near.value = True
    best = explorer.view.neighbours["captions"][0]["caption"]
    explorer.view.chosen = {"kind": "caption", "index": 0, "count": 1}
    assert explorer.caption == best
    wanted = explorer.view.neighbours["pictures"][1]["label"]
    explorer.view.chosen = {"kind": "picture", "index": 1, "count": 2}
    assert explorer.view.data["label"] == wanted and explorer.caption == best
    for nonsense in (
        {},
        {"kind": "picture", "index": 99},
        {"kind": "x", "index": 0},
        {"kind": "caption", "index": "0"},
    ):
        explorer.view.chosen = nonsense
    assert explorer.view.data["label"] == wanted
    explorer.near.value = False
    assert explorer.view.neighbours == {}


@pytest.fixture(scope="module")
def extractor():
    return FeatureExtractor(load_pretrained())


@pytest.fixture
def explorer(extractor):
    return Explorer([free_photographs(extractor)], extractor)


def hand_in(explorer, name, content, size=700):
    """As the browser does: in parts."""
    parts = [content[start : start + size] for start in range(0, max(1, len(content)), size)]
    for number, part in enumerate(parts):
        explorer.view._receive(
            None, {"kind": "upload", "name": name, "part": number, "parts": len(parts)}, [memoryview(part)]
        )


WRITTEN = []
WATCHING = SimpleNamespace(on=False)


def watch(event, arguments):
    if WATCHING.on and event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        WRITTEN.append(str(arguments[0]))


def test_an_upload_is_seen_and_never_written(explorer, tmp_path):
    sys.addaudithook(watch)
    WATCHING.on = True
    try:
        (tmp_path / "seen").write_text("the watch works")
        assert WRITTEN == [str(tmp_path / "seen")]
        WRITTEN.clear()
        hand_in(explorer, f"../{HOSTILE}.png", png(37, 23))
    finally:
        WATCHING.on = False
    assert WRITTEN == []
    data = explorer.view.data
    assert (data["picture"]["width"], data["picture"]["height"]) == (37, 23)
    assert data["label"] == "script>.png" and explorer.source.label == "your photographs"  # what follows the last slash
    assert (
        explorer.caption == "a smiling woman in an orange suit stands in front of a flag"
        and explorer.view.message == ""
    )
    explorer.near.value = True  # own photographs have no captions: those of the photographs in the package are compared
    assert len(explorer.view.neighbours["captions"]) == 5
    explorer.source.value = 0
    assert explorer.view.data["label"] == "astronaut"


@pytest.mark.parametrize(
    "content, said", [(b"garbage", "not a picture"), (b"", "empty"), (png(29, 31)[:300], "cut short")]
)
def test_an_upload_that_is_no_picture_leaves_all_as_it_was(explorer, content, said):
    before = explorer.view.data
    hand_in(explorer, "evil.png", content)
    assert said in explorer.view.message and explorer.view.data == before and len(explorer.galleries) == 1


def test_parts_of_an_upload_must_fit_together_and_stay_small(explorer):
    before, whole = explorer.view.data, png(37, 23)
    send = explorer.view._receive
    send(None, {"kind": "upload", "name": "a", "part": 1, "parts": 2}, [whole])  # the first part never came
    send(None, {"kind": "upload", "name": "a", "part": 0, "parts": "2"}, [whole])
    send(None, {"kind": "upload", "name": "a", "part": 0, "parts": 1}, [])
    send(None, "upload", [whole])
    assert explorer.view.data == before and explorer.view._parts == []
    for part in range(3):
        send(None, {"kind": "upload", "name": "a", "part": part, "parts": 3}, [bytes(UPLOAD_BYTES // 3 + 1)])
    assert "at most 20 MB" in explorer.view.message and explorer.view._parts == []


def test_old_uploads_are_let_go(explorer):
    for number in range(MOST_UPLOADS + 2):
        hand_in(explorer, f"{number}.png", png(5, 7, seed=number))
    assert explorer.galleries[1].labels == [f"{number}.png" for number in range(MOST_UPLOADS + 1, 1, -1)]


def test_without_an_extractor_nothing_can_be_uploaded(checkpoint):
    explorer = Explorer([gallery_of(checkpoint, [["a dog"]])])
    hand_in(explorer, "a.png", png(5, 7))
    assert not explorer.view.uploads and len(explorer.galleries) == 1


def test_a_run_is_explored_with_its_own_features(tmp_path, checkpoint):
    folder = tmp_path / "run" / "checkpoints" / "best"
    save_checkpoint(folder, checkpoint.model, checkpoint.vocabulary, None, {})
    data = tmp_path / "f30k_precomp"
    data.mkdir()
    np.save(data / "dev_ims.npy", np.random.default_rng(2).normal(size=(3, K, D)).astype(np.float32))
    (data / "dev_caps.txt").write_text("a dog runs\n" * 14 + f"{HOSTILE}\n")
    (tmp_path / "run" / "config.yaml").write_text(f"data:\n  source: precomp\n  folder: {data}\n")
    explorer = open_explorer(tmp_path / "run")
    assert [gallery.title for gallery in explorer.galleries] == ["f30k_precomp, dev", "photographs in the package"]
    explorer.choose(0, 2, HOSTILE)
    assert explorer.view.data["label"] == "row 2" and not explorer.view.data["placed"]
    explorer.source.value = 1
    assert explorer.view.data["placed"]
    with pytest.raises(CheckpointError, match="5 numbers per region.*192"):
        open_explorer(None, data)
    (tmp_path / "captions.txt").write_text("image,caption\n")
    with pytest.raises(DataError, match="prepare them first"):
        open_explorer(None, tmp_path)


def executed(view):
    """A notebook with one view among its outputs, as a kernel leaves it."""
    cell = v4.new_code_cell("show", outputs=[v4.new_output("display_data", data=view._repr_mimebundle_())])
    return v4.new_notebook(cells=[v4.new_markdown_cell("# View"), cell], metadata={"widgets": {"state": 1}})


class Page(html.parser.HTMLParser):
    """Scripts' texts by type, and the names of all tags."""

    def __init__(self, text):
        super().__init__()
        self.scripts, self.tags, self._inside = {}, [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "script":
            self._inside = self.scripts.setdefault(dict(attributes)["type"], [])
            self._inside.append("")

    def handle_data(self, data):
        if self._inside is not None:
            self._inside[-1] += data

    def handle_endtag(self, tag):
        self._inside = None if tag == "script" else self._inside


def test_the_report_carries_the_view_and_no_caption_can_break_out(tmp_path, checkpoint):
    view = show_attention(photograph_of(checkpoint), HOSTILE, HOSTILE)
    nbformat.write(executed(view), tmp_path / "06_x.ipynb")
    run = SimpleNamespace(
        config=SimpleNamespace(name="x"), report_path=tmp_path / "report.html", metrics_path=tmp_path / "none"
    )
    page = Page(write_report(run, [tmp_path / "06_x.ipynb"]).read_text())
    (data,) = page.scripts["application/json"]
    assert json.loads(data) == json.loads(json.dumps(view.data)) and json.loads(data)["caption"] == HOSTILE
    (script,) = page.scripts["module"]
    assert SCRIPT.read_text() in script
    assert not [attributes for tag, attributes in page.tags if "onerror" in attributes or attributes.get("src") == "x"]
    still = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(still) == 1 and HOSTILE in still[0]["alt"] and still[0]["src"].startswith("data:image/png;base64,")


def test_a_notebook_keeps_a_still_picture_of_a_view(checkpoint):
    notebook = executed(show_attention(photograph_of(checkpoint), "a dog"))
    remove_widgets(notebook)  # in a run folder, where the report reads the data
    assert set(notebook.cells[1].outputs[0].data) == {"text/plain", "image/png", VIEW_TYPE} and not notebook.metadata
    notebook = executed(show_attention(photograph_of(checkpoint), "a dog"))
    notebook.cells[1].outputs.append(
        v4.new_output("display_data", data={WIDGET: {"model_id": "bar"}, "text/plain": "0%"})
    )
    clean_notebook(notebook)  # for committing
    assert [set(output.data) for output in notebook.cells[1].outputs] == [{"text/plain", "image/png"}]


def test_the_script_asks_nobody_for_anything_and_sets_no_html():
    script, style = SCRIPT.read_text(), STYLE.read_text()
    assert re.findall(r"https?://[^\"'\s]+", script + style) == ["http://www.w3.org/2000/svg"]
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|fetch\(|import\(|</script", script
    )
