"""Reading attention with a pointer or a keyboard, in a notebook, on a web page, or without a kernel. Notebook 06.

    show_attention(photograph, "a dog runs on the beach")      one picture and one caption
    open_explorer()                                            everything: pictures, captions, uploads, neighbours

What is drawn is what `attend` returned, the weights that scored.
"""

from bssan_lib.explorer.app import Explorer, open_explorer
from bssan_lib.explorer.galleries import (
    Gallery,
    drawn_scenes,
    free_photographs,
    nearest_captions,
    nearest_pictures,
    prepared_gallery,
)
from bssan_lib.explorer.view import AttentionView, attention_figure, grid_of, show_attention, view_data

__all__ = [
    "AttentionView",
    "Explorer",
    "Gallery",
    "attention_figure",
    "drawn_scenes",
    "free_photographs",
    "grid_of",
    "nearest_captions",
    "nearest_pictures",
    "open_explorer",
    "prepared_gallery",
    "show_attention",
    "view_data",
]
