"""Words joined to regions, and objects to words, by lines as opaque as their attention.

Letters: K regions, M objects, T words. W2R is [T, K], each row sums to one over regions; O2W is [M, T], each
row sums to one over words. Boxes are x1 y1 x2 y2 as fractions of the picture's width and height.
"""

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb

from bssan_lib.viz.boxes import spread_objects
from bssan_lib.viz.pictures import TITLE, bar_room, check_boxes, check_images, colour_bar, shared_norm
from bssan_lib.viz.style import (
    RIGHT,
    SMALL,
    check_weights,
    column_width,
    fading,
    fit,
    heading,
    label,
    new_figure,
    paper_style,
    place,
    plain,
    text_width,
    write_heading,
)


def links(
    attention,
    *,
    image=None,
    boxes=None,
    object_boxes=None,
    most: int = 10,
    title: str = "",
    width: str | float = "two",
    top: float | None = None,
):
    """Two columns joined by lines, opacity by weight: words to regions (W2R), and objects to words (O2W).

    A weight over K regions is far thinner than one over T words, so both are shown on one scale in multiples of
    even attention, 1 / K and 1 / T. Pairs of less than even attention have no line.
    attention: has w2r [T, K], o2w [M, T], words. most: how many regions and objects are shown, as
    `spread_objects` chooses them, in their own order. image with boxes [K, 4] and object_boxes [M, 4]: shows what they hold.
    top: end of the scale, in those multiples. Returns (figure, axes [2], mappable). DataError where shapes disagree.
    """
    words = list(attention.words)
    w2r = check_weights(attention.w2r, len(words), None, "links: W2R")
    o2w = check_weights(attention.o2w, None, len(words), "links: O2W")
    regions, objects = w2r.shape[1], len(o2w)
    w2r, o2w = w2r * regions, o2w * len(words)
    norm = shared_norm(np.concatenate([w2r.ravel(), o2w.ravel()]), top)
    boxes = None if boxes is None or image is None else check_boxes(boxes, regions, "links: regions")
    object_boxes = (
        None if object_boxes is None or image is None else check_boxes(object_boxes, objects, "links: objects")
    )
    if image is not None:
        check_images([image], "links")
    text = (
        f"times even attention: 1/{regions} a region (W2R), 1/{len(words)} a word (O2W); "
        "attention sums to one over all regions, all words"
    )
    with paper_style():
        full = column_width(width)
        title, head = heading(title, full)
        head += TITLE
        shown = min(most, max(regions, objects))
        tall = max(len(words) * 0.125, shown * (0.125 if image is None else 0.24))
        figure = new_figure(full, head + tall + 0.05 + bar_room(text, full))
        write_heading(figure, title)
        half = full / 2
        axes = [place(figure, half * side + 0.05, head, half - 0.1, tall) for side in (0, 1)]
        mappables = [
            _join(axes[0], w2r, words, most, norm, half - 0.1, tall, image, boxes),
            _join(axes[1], o2w.T, words, most, norm, half - 0.1, tall, image, object_boxes),
        ]
        axes[0].set_title(f"W2R: {min(most, regions)} of {regions} regions", parse_math=False)
        axes[1].set_title(f"O2W: {min(most, objects)} of {objects} objects", parse_math=False)
        over = max(w2r.max(), o2w.max()) > norm.vmax
        colour_bar(figure, mappables[0], text, over=over, over_picture=False)
    return figure, np.array(axes), mappables[0]


def _join(axes, weights, words, most, norm, wide, tall, image, boxes):
    """Words on the left, the `most` heaviest others on the right, a line for each pair of at least even attention.

    weights: [T, others], 1 being even attention.
    """
    chosen = np.sort(spread_objects(weights.T, most))
    axes.set(xlim=(0, wide), ylim=(tall, 0))
    axes.set_axis_off()
    left = min(max(text_width(plain(word), SMALL) for word in words), wide * 0.42)
    thumb = 0.3 if image is not None and boxes is not None else 0.0
    number_wide = text_width("0" * len(str(max(chosen))), SMALL)
    right = wide - number_wide - thumb - 0.06
    word_y = (np.arange(len(words)) + 0.5) * tall / len(words)
    other_y = (np.arange(len(chosen)) + 0.5) * tall / len(chosen)
    for y, word in zip(word_y, words):
        label(axes, left, y, fit(word, left + 0.01, SMALL), fontsize=SMALL, ha="right", va="center")
    for y, number in zip(other_y, chosen):
        label(axes, right + 0.04, y, str(number), fontsize=SMALL, ha="left", va="center")
        if thumb:
            _thumbnail(axes, image, boxes[number], wide - thumb / 2, y, thumb, min(0.22, tall / len(chosen) - 0.02))
    pairs = [(t, place, weights[t, number]) for t in range(len(words)) for place, number in enumerate(chosen)]
    pairs = sorted((pair for pair in pairs if pair[2] >= 1), key=lambda pair: pair[2])  # heavy lines over faint ones
    lines = LineCollection(
        [[(left + 0.03, word_y[t]), (right, other_y[place])] for t, place, _ in pairs],
        array=np.array([weight for _, _, weight in pairs]),
        cmap=fading(to_rgb(RIGHT)),
        norm=norm,
        linewidths=0.9,
        capstyle="round",
    )
    axes.add_collection(lines, autolim=False)
    return lines


def _thumbnail(axes, image, box, x: float, y: float, wide: float, tall: float) -> None:
    """What a box holds, at true aspect, within wide x tall inches around (x, y)."""
    crop = image.crop(
        (
            int(box[0] * image.width),
            int(box[1] * image.height),
            max(int(np.ceil(box[2] * image.width)), int(box[0] * image.width) + 1),
            max(int(np.ceil(box[3] * image.height)), int(box[1] * image.height) + 1),
        )
    ).convert("RGB")
    scale = min(wide / crop.width, tall / crop.height)
    half_wide, half_tall = crop.width * scale / 2, crop.height * scale / 2
    crop.thumbnail((120, 120))
    axes.imshow(
        np.asarray(crop),
        extent=(x - half_wide, x + half_wide, y + half_tall, y - half_tall),
        aspect="auto",
        clip_on=False,
    )
