"""Figures for notebooks and papers: functions of results that return (figure, axes, mappable or None)."""

from bssan_lib.viz.bars import grounding_bars, pair_bars, recall_bars
from bssan_lib.viz.boxes import object_words, phrase_boxes
from bssan_lib.viz.curves import live_curve, training_curves
from bssan_lib.viz.heatmaps import region_grid, word_panels
from bssan_lib.viz.links import links
from bssan_lib.viz.matrices import alignment, matrix_panel
from bssan_lib.viz.retrieval import retrieved_captions, retrieved_images
from bssan_lib.viz.style import column_width, note_text, paper_style, save_figure

__all__ = [
    "alignment",
    "column_width",
    "grounding_bars",
    "links",
    "live_curve",
    "matrix_panel",
    "note_text",
    "object_words",
    "pair_bars",
    "paper_style",
    "phrase_boxes",
    "recall_bars",
    "region_grid",
    "retrieved_captions",
    "retrieved_images",
    "save_figure",
    "training_curves",
    "word_panels",
]
