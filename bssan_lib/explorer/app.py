"""The explorer: pictures and captions to choose, a caption to type, a photograph to hand in, figures to keep.

    Explorer(galleries, extractor)         from what is at hand
    open_explorer(checkpoint, data)     what `bssan explore` shows

Whatever was typed or read from a file is shown as text alone. A picture that was handed in lives in memory, as long as
the kernel does, and nowhere else.
"""

from pathlib import Path

import ipywidgets as widgets
from matplotlib import pyplot

from bssan_lib import viz
from bssan_lib.data import tokenize
from bssan_lib.data.images import open_upload, upload_name
from bssan_lib.errors import BssanError, DataError
from bssan_lib.evaluation.photograph import FeatureExtractor, Photograph
from bssan_lib.explorer.galleries import Gallery, features_of, nearest_captions, nearest_pictures, open_galleries
from bssan_lib.explorer.view import (
    AttentionView,
    are_tiles,
    attention_figure,
    cell_boxes,
    data_uri,
    view_data,
    with_still,
)

MOST_LETTERS, MOST_WORDS = 400, 60  # of a caption; more would make anybody wait
MOST_UPLOADS = 20  # the oldest is let go beyond
LARGEST_KEPT = 1600  # pixels of a side of a picture that was handed in, once the model has seen it whole
MEDIA = {"pdf": "application/pdf", "svg": "image/svg+xml", "png": "image/png"}


class Explorer:
    """Widgets around an AttentionView. `box` holds them all; the object itself can be displayed.

    galleries: at least one. extractor: turns pictures that are handed in into regions; None: none can be handed in.
    """

    def __init__(self, galleries: list[Gallery], extractor: FeatureExtractor | None = None):
        self.galleries, self.extractor = list(galleries), extractor
        self.own: tuple[int, list[tuple[str, Photograph]]] | None = None  # a gallery of uploads, the newest first
        self.place, self._choosing = (0, 0), False
        self._captions_of: Photograph | None = None  # of these the nearest captions are kept
        self._captions: list[tuple[int, str, float]] = []
        self._near: dict[str, list[tuple]] = {}
        plain = {"description_width": "initial"}
        self.source = widgets.Dropdown(
            description="Pictures", style=plain, layout={"width": "19rem", "max_width": "100%"}
        )
        self.picture = widgets.Dropdown(
            description="Picture", style=plain, layout={"width": "15rem", "max_width": "100%"}
        )
        self.given = widgets.Dropdown(
            description="Its captions", style=plain, layout={"flex": "1 1 16rem", "width": "auto", "max_width": "100%"}
        )
        self.typed = widgets.Text(
            description="Caption",
            placeholder="type any caption, then Enter",
            style=plain,
            continuous_update=False,
            layout={"flex": "1 1 22rem", "width": "auto", "max_width": "100%"},
        )
        self.near = widgets.Checkbox(description="show what is nearest", indent=False, layout={"width": "12rem"})
        self.format = widgets.Dropdown(
            options=["PDF", "SVG", "PNG"], description="Figure as", style=plain, layout={"width": "10rem"}
        )
        self.save = widgets.Button(description="Save figure", layout={"width": "8rem"})
        self._show_galleries()
        first = self.galleries[0]
        caption = (first.captions[0] or ["a picture"])[0]
        self.photograph, self.caption = first.photograph(0), caption
        self.attention = self.photograph.attend(caption)
        self.view = AttentionView(
            view_data(self.photograph, caption, first.labels[0], self.attention),
            on_upload=self.take if extractor else None,
        )
        row = {"flex_flow": "row wrap", "width": "100%", "max_width": "60rem", "align_items": "center"}
        self.box = widgets.VBox(
            [
                widgets.HBox([self.source, self.picture, self.given], layout=row),
                widgets.HBox([self.typed], layout=row),
                self.view,
                widgets.HBox([self.near, self.format, self.save], layout=row),
            ]
        )
        self._fill_choices()
        self.source.observe(lambda change: self._changed(change.new, 0), "value")
        self.picture.observe(lambda change: self._changed(self.place[0], change.new), "value")
        self.given.observe(lambda change: self._changed(*self.place, change.new) if change.new else None, "value")
        self.typed.observe(lambda change: self._changed(*self.place, change.new), "value")
        self.near.observe(lambda change: self._guarded(self._show_neighbours), "value")
        self.view.observe(self._neighbour_chosen, "chosen")
        self.save.on_click(lambda _: self._guarded(self.send_figure))

    def choose(self, gallery: int, row: int, caption: str | None = None) -> None:
        """Shows a picture with a caption; by default its first one, or the present one where it has none.

        Raises BssanError where the picture cannot be read; what was shown stays.
        """
        chosen = self.galleries[gallery]
        if (gallery, row) != self.place:
            self.photograph, self.place = chosen.photograph(row), (gallery, row)
        if caption is None:
            caption = (chosen.captions[row] or [self.caption])[0]
        words = tokenize(caption[:MOST_LETTERS])
        if len(words) > MOST_WORDS:
            caption = " ".join(words[:MOST_WORDS])
        self.caption = caption[:MOST_LETTERS]
        self.attention = self.photograph.attend(self.caption)
        self._fill_choices()  # before the view, so that whoever sees the picture finds the lists in line with it
        self.view.data = view_data(self.photograph, self.caption, chosen.labels[row], self.attention)
        self.view.message = "" if caption.strip() else "Type a caption: an empty one is read as one unknown word."
        self._show_neighbours()

    def take(self, name: str, content: bytes) -> None:
        """Shows a picture that was handed in. DataError where it is none; what was shown stays."""
        if self.extractor is None:
            raise DataError("no photographs can be opened here: the model was trained on features of unknown making")
        picture = open_upload(content, name)
        photograph = self.extractor.extract(picture)
        picture.thumbnail((LARGEST_KEPT, LARGEST_KEPT))
        if self.own is None:
            kept: list[tuple[str, Photograph]] = []
            self.own = (len(self.galleries), kept)
            self.galleries.append(
                Gallery(
                    "your photographs",
                    self.extractor.checkpoint,
                    [],
                    [],
                    lambda row: kept[row][1].picture,
                    lambda row: features_of(kept[row][1]),
                )
            )
        number, kept = self.own
        kept.insert(0, (upload_name(name), photograph))
        del kept[MOST_UPLOADS:]
        gallery = self.galleries[number]
        gallery.forget()
        gallery.labels, gallery.captions = [name for name, _ in kept], [[] for _ in kept]
        self.place = (number, -1)  # the rows have moved
        self.choose(number, 0, self.caption)

    def figure(self):
        """The figure for a paper of what is shown, in the direction that the view shows."""
        return attention_figure(self.photograph, self.attention, self.view.direction, self.caption)

    def send_figure(self) -> None:
        """Hands that figure to the browser as a file."""
        ending = self.format.value.lower()
        figure = self.figure()
        content = viz.figure_bytes(figure, ending, self.caption)
        pyplot.close(figure)
        self.view.send_file(f"attention_{self.view.direction}.{ending}", MEDIA[ending], content)

    def _changed(self, gallery: int, row: int, caption: str | None = None) -> None:
        """A reader chose something."""
        if not self._choosing:
            self._guarded(lambda: self.choose(gallery, row, caption))

    def _guarded(self, action) -> None:
        """Does what a reader asked for; a sentence about what cannot be done appears under the words."""
        try:
            action()
        except BssanError as error:
            self.view.message = str(error)
            self._fill_choices()

    def _neighbour_chosen(self, change) -> None:
        kind, index = change.new.get("kind"), change.new.get("index")
        choices = self._near.get(kind, [])
        if isinstance(index, int) and 0 <= index < len(choices):
            self._changed(*choices[index])

    def _show_neighbours(self) -> None:
        """Captions nearest to the picture and pictures nearest to the caption, where they are wanted."""
        self._near = {"caption": [], "picture": []}
        if not self.near.value:
            self.view.neighbours = {}
            return
        here, (number, row) = self.place[0], self.place
        if (
            self.own is not None and self.extractor is not None and here == self.own[0]
        ):  # those have no captions: look in a gallery of the same model
            here = next(
                (i for i, one in enumerate(self.galleries[:-1]) if one.checkpoint is self.extractor.checkpoint), here
            )
        gallery = self.galleries[here]
        if not gallery.is_encoded and gallery.searched > 20:
            self.view.message = f"Looking at {gallery.searched} pictures once …"
            gallery.image_codes()
            self.view.message = ""
        if self._captions_of is not self.photograph:
            self._captions_of, self._captions = self.photograph, nearest_captions(gallery, self.photograph)
        captions = self._captions
        pictures = nearest_pictures(gallery, self.caption)
        self._near = {
            "caption": [(*self.place, caption) for _, caption, _ in captions],
            "picture": [(here, found, self.caption) for found, _, _ in pictures],
        }
        self.view.neighbours = {
            "note": f"Compared with the first {gallery.searched} pictures of “{gallery.title}” and their captions.",
            "captions": [
                {"caption": caption, "score": round(score, 4), "own": (here, found) == (number, row)}
                for found, caption, score in captions
            ],
            "pictures": [
                self._thumbnail(gallery, found, score, weights, (here, found) == (number, row))
                for found, score, weights in pictures
            ],
        }

    def _thumbnail(self, gallery: Gallery, row: int, score: float, weights, own: bool) -> dict:
        picture, boxes = gallery.picture(row), gallery.features(row)[2]
        boxes = cell_boxes(len(weights)) if boxes is None else boxes
        uri = data_uri(picture, 200) if picture else self.view.data["picture"]["uri"]
        return {
            "uri": uri,
            "label": gallery.labels[row],
            "score": round(score, 4),
            "own": own,
            "tiles": are_tiles(boxes),
            "boxes": [[round(float(side), 4) for side in box] for box in boxes],
            "weights": [round(float(weight), 5) for weight in weights],
        }

    def _show_galleries(self) -> None:
        self.source.options = [(gallery.title, number) for number, gallery in enumerate(self.galleries)]

    def _fill_choices(self) -> None:
        """Brings the lists in line with what is shown, without choosing anew."""
        self._choosing = True
        try:
            number, row = self.place
            gallery = self.galleries[number]
            if len(self.source.options) != len(self.galleries):
                self._show_galleries()
            self.source.value = number
            labels = tuple((f"{place + 1}  {label}", place) for place, label in enumerate(gallery.labels))
            if self.picture.options != labels:
                self.picture.options = labels
            self.picture.value = row
            captions = tuple([(caption, caption) for caption in dict.fromkeys(gallery.captions[row])] or [("none", "")])
            if self.caption not in dict(captions):
                captions = (("choose one", ""), *captions) if gallery.captions[row] else captions
            if self.given.options != captions:
                self.given.options = captions
            self.given.value = self.caption if self.caption in dict(captions) else ""
            self.typed.value = self.caption
        finally:
            self._choosing = False

    def _repr_mimebundle_(self, **options):
        self.view.picture = viz.screen_png(self.figure())
        return with_still(self.box._repr_mimebundle_(**options), self.view)


def open_explorer(checkpoint: Path | str | None = None, data: Path | str | None = None) -> Explorer:
    """The explorer of a checkpoint or a run, or of the packaged model.

    data: a folder of prepared features; by default the run's own. Free photographs and uploads are seen by the given
    model where it knows photographs, and by the packaged model otherwise. Raises CheckpointError or DataError.
    """
    return Explorer(*open_galleries(checkpoint, data))
