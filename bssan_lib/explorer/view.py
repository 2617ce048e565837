"""One picture, one caption, and the attention between them: as data, as a still figure, as a view to point at.

The view's drawing is attention_view.js with attention_view.css. They need no kernel once they have their data, so the
same two files serve a notebook, a web page and the report page.

Letters: K regions, M objects, T words. Boxes are x1 y1 x2 y2 as fractions of the picture's width and height.
"""

import base64
import io
from collections.abc import Callable, Collection
from pathlib import Path

import anywidget
import numpy as np
import traitlets
from matplotlib.colors import to_hex
from PIL import Image

from bssan_lib import viz
from bssan_lib.data.images import UPLOAD_BYTES, upload_name
from bssan_lib.errors import DataError
from bssan_lib.evaluation.grounding import content_words
from bssan_lib.evaluation.photograph import Photograph, unknown_words
from bssan_lib.evaluation.scoring import Attention
from bssan_lib.series.outputs import VIEW_TYPE
from bssan_lib.viz.style import attention_colours, plain

HERE = Path(__file__).parent
SCRIPT, STYLE = HERE / "attention_view.js", HERE / "attention_view.css"
LARGEST_SIDE = 448  # pixels of a picture in a view
STEPS = 32  # of the colour map


def view_data(photograph: Photograph, caption: str, label: str = "picture", attention: Attention | None = None) -> dict:
    """All that the view needs, ready for JSON.

    label: what the picture is called; any text. attention: where it is known already; else it is computed.
    Keys: caption, words [T], unknown (positions of words that are not in the vocabulary), first (position of the word
    that is drawn first), picture {uri, width, height, alt, known}, regions {boxes [K, 4], weights [T, K], tiles}, objects {boxes [M, 4], weights [M, T], tiles}, scores,
    colours. Regions without boxes are laid out as cells of a grid, which `placed` false admits.
    """
    attention = photograph.attend(caption) if attention is None else attention
    assert attention.w2r is not None and attention.o2w is not None  # the explorer opens models of both directions alone
    unknown = set(unknown_words(caption, photograph.checkpoint.vocabulary))
    boxes, object_boxes = (
        np.asarray(cell_boxes(count) if stored is None else stored, np.float64)
        for stored, count in ((photograph.boxes, attention.w2r.shape[1]), (photograph.object_boxes, len(attention.o2w)))
    )
    picture = photograph.picture
    alt = f"The picture {plain(label)}" if picture else f"{plain(label)}: no picture, only features of its regions"
    shown = picture or Image.new("RGB", (LARGEST_SIDE, LARGEST_SIDE), "#9a9a9a")
    return {
        "label": plain(label),
        "caption": plain(caption),
        "words": attention.words,
        "unknown": [t for t, word in enumerate(attention.words) if word in unknown],
        "first": first_word(attention, unknown),
        "picture": {
            "uri": data_uri(shown),
            "width": shown.width,
            "height": shown.height,
            "alt": alt,
            "known": picture is not None,
        },
        "placed": photograph.boxes is not None,
        "regions": {"boxes": _rounded(boxes), "weights": _rounded(attention.w2r, 5), "tiles": are_tiles(boxes)},
        "objects": {
            "boxes": _rounded(object_boxes),
            "weights": _rounded(attention.o2w, 5),
            "tiles": are_tiles(object_boxes),
        },
        "scores": {
            "joint": round(attention.score, 4),
            "w2r": round(attention.score_w2r or 0.0, 4),
            "o2w": round(attention.score_o2w or 0.0, 4),
            "gate": round(attention.gate or 0.0, 4),
        },
        "colours": colour_steps(),
    }


def first_word(attention: Attention, unknown: Collection[str] = ()) -> int:
    """The word whose attention is drawn first: the content word of the vocabulary with the heaviest region.

    Function words and unknown words come in question where there is no other.
    """
    assert attention.w2r is not None
    known = [t for t, word in enumerate(attention.words) if word not in unknown]
    candidates = content_words(known or range(len(attention.words)), attention.words)
    return int(max(candidates, key=attention.w2r.max(axis=1).__getitem__))


def cell_boxes(count: int) -> np.ndarray:
    """Boxes [count, 4] of cells in reading order, for regions whose places are not known."""
    columns = int(np.ceil(np.sqrt(count)))
    rows = int(np.ceil(count / columns))
    y, x = np.divmod(np.arange(count), columns)
    return np.stack([x / columns, y / rows, (x + 1) / columns, (y + 1) / rows], axis=1)


def are_tiles(boxes: np.ndarray) -> bool:
    """Whether boxes [K, 4] touch but never overlap, so that they can be filled with colour."""
    x1, y1, x2, y2 = np.asarray(boxes, np.float64).T
    wide = np.minimum(x2[:, None], x2) - np.maximum(x1[:, None], x1)
    tall = np.minimum(y2[:, None], y2) - np.maximum(y1[:, None], y1)
    shared = (wide > 1e-4) & (tall > 1e-4)
    return not (shared & ~np.eye(len(x1), dtype=bool)).any()


def grid_of(boxes: np.ndarray) -> tuple[int, int] | None:
    """Rows and columns where boxes [K, 4] are the cells of a grid in reading order, else None."""
    boxes = np.asarray(boxes, np.float64)
    rows, columns = (len(np.unique(boxes[:, side].round(4))) for side in (1, 0))
    if rows * columns != len(boxes):
        return None
    y, x = np.divmod(np.arange(len(boxes)), columns)
    cells = np.stack([x / columns, y / rows, (x + 1) / columns, (y + 1) / rows], axis=1)
    return (rows, columns) if np.allclose(boxes, cells, atol=1e-3) else None


def colour_steps() -> list[str]:
    """The figures' map for attention over a dimmed picture, from nothing to most, as colours with opacity."""
    return [to_hex(colour, keep_alpha=True) for colour in attention_colours()(np.linspace(0, 1, STEPS))]


def data_uri(picture: Image.Image, side: int = LARGEST_SIDE) -> str:
    """The picture as a data: address of at most `side` pixels; what was beside its pixels in the file is left out."""
    small = picture.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def attention_figure(photograph: Photograph, attention: Attention, direction: str = "w2r", caption: str = ""):
    """The figure for a paper: a panel a word (w2r), or the words of four objects (o2w). Returns a figure.

    Without pictures both matrices are drawn instead.
    """
    if photograph.picture is None or photograph.boxes is None:
        return viz.alignment(attention, title=caption)[0]
    if direction == "o2w":
        return viz.object_words(photograph.picture, attention.o2w, photograph.object_boxes, attention.words)[0]
    grid = grid_of(photograph.boxes)
    boxes = None if grid else photograph.boxes
    return viz.word_panels(photograph.picture, attention.w2r, attention.words, grid or (1, 1), boxes, caption=caption)[
        0
    ]


class AttentionView(anywidget.AnyWidget):
    """The view in a notebook or on a web page.

    data: see view_data. neighbours: lists of captions and pictures to choose from. message: a sentence under the view.
    chosen: which neighbour was taken. uploads: whether pictures may be handed in.
    """

    _esm, _css = SCRIPT, STYLE
    data = traitlets.Dict().tag(sync=True)
    neighbours = traitlets.Dict().tag(sync=True)
    message = traitlets.Unicode().tag(sync=True)
    chosen = traitlets.Dict().tag(sync=True)
    uploads = traitlets.Bool(False).tag(sync=True)
    largest_upload = traitlets.Int(UPLOAD_BYTES).tag(sync=True)

    def __init__(self, data: dict, picture: bytes | None = None, on_upload: Callable[[str, bytes], None] | None = None):
        """picture: a PNG, shown where no script runs. on_upload: called with a file's name and its bytes."""
        super().__init__(data=data, uploads=on_upload is not None)
        self.picture, self._on_upload = picture, on_upload
        self._parts: list[bytes] = []
        self.on_msg(self._receive)

    def send_file(self, name: str, kind: str, content: bytes) -> None:
        """Hands the reader a file to keep, through the browser. kind: its media type."""
        self.send({"kind": "file", "name": name, "type": kind}, buffers=[content])

    def _receive(self, _, content: dict, buffers: list) -> None:
        """A part of an upload: servers drop a connection whose messages are large, so files come in parts."""
        if self._on_upload is None or not isinstance(content, dict) or content.get("kind") != "upload":
            return
        name, part, parts = str(content.get("name")), content.get("part"), content.get("parts")
        self._parts = [] if part == 0 else self._parts
        if part != len(self._parts) or not isinstance(parts, int) or len(buffers) != 1:
            self._parts = []
            return
        self._parts.append(bytes(buffers[0]))
        if sum(map(len, self._parts)) > UPLOAD_BYTES:
            self._parts = []
            self.message = f"{upload_name(name)}: a picture may have at most {UPLOAD_BYTES // 10**6} MB"
        elif len(self._parts) == parts:
            whole, self._parts = b"".join(self._parts), []
            try:
                self._on_upload(name, whole)
            except DataError as error:
                self.message = str(error)

    def _repr_mimebundle_(self, **options):
        return with_still(super()._repr_mimebundle_(**options), self)


def with_still(bundle, view: AttentionView) -> dict:
    """A widget's output with what is left of it where no kernel answers: the view's data and a picture."""
    bundle = bundle[0] if isinstance(bundle, tuple) else bundle  # with metadata, or without
    bundle = {
        **bundle,
        "text/plain": view.data["picture"]["alt"] + f", with the caption “{view.data['caption']}”",
        VIEW_TYPE: dict(view.data),
    }
    if view.picture:
        bundle["image/png"] = base64.b64encode(view.picture).decode()
    return bundle


def show_attention(photograph: Photograph, caption: str, label: str = "picture") -> AttentionView:
    """The view of one picture and one caption, with a still figure for places without scripts."""
    attention = photograph.attend(caption)
    figure = attention_figure(photograph, attention, caption=caption)
    return AttentionView(view_data(photograph, caption, label, attention), viz.screen_png(figure))


def _rounded(values, digits: int = 4) -> list:
    return np.round(np.asarray(values, np.float64), digits).tolist()
