"""Figures for notebooks and papers: functions of results that return (figure, axes, mappable or None)."""

from bssan_lib.viz.bars import grounding_bars, pair_bars, recall_bars
from bssan_lib.viz.batches import batch_scores, process_rows
from bssan_lib.viz.boxes import object_words, phrase_boxes
from bssan_lib.viz.comparison import comparison_dots, growth_curve, holm_dots
from bssan_lib.viz.curves import live_curve, training_curves
from bssan_lib.viz.data import box_places, named_boxes, picture_sheet, scatter_panels, word_statistics
from bssan_lib.viz.diagram import model_diagram
from bssan_lib.viz.grounding import coverage_curves, deletion_lines, pointing_dots, word_dots
from bssan_lib.viz.heatmaps import grid_sizes, region_grid, word_panels
from bssan_lib.viz.lessons import dots_by_word, line_panels, matrices, source, word_attention
from bssan_lib.viz.links import links
from bssan_lib.viz.matrices import alignment, matrix_panel
from bssan_lib.viz.measures import attention_on_grid, group_shares, resampled_histogram, score_matrix
from bssan_lib.viz.notes import attention_note, checkpoint_note
from bssan_lib.viz.retrieval import retrieved_captions, retrieved_images
from bssan_lib.viz.runs import run_dots
from bssan_lib.viz.search import gallery_growth, shortlist_curves
from bssan_lib.viz.style import column_width, figure_bytes, note_text, paper_style, save_figure, screen_png, still

__all__ = [
    "alignment",
    "attention_note",
    "attention_on_grid",
    "batch_scores",
    "box_places",
    "checkpoint_note",
    "column_width",
    "comparison_dots",
    "coverage_curves",
    "deletion_lines",
    "dots_by_word",
    "figure_bytes",
    "gallery_growth",
    "grid_sizes",
    "grounding_bars",
    "group_shares",
    "growth_curve",
    "holm_dots",
    "line_panels",
    "links",
    "live_curve",
    "matrices",
    "matrix_panel",
    "model_diagram",
    "named_boxes",
    "note_text",
    "object_words",
    "pair_bars",
    "paper_style",
    "phrase_boxes",
    "picture_sheet",
    "pointing_dots",
    "process_rows",
    "recall_bars",
    "region_grid",
    "resampled_histogram",
    "retrieved_captions",
    "retrieved_images",
    "run_dots",
    "save_figure",
    "score_matrix",
    "scatter_panels",
    "screen_png",
    "shortlist_curves",
    "source",
    "still",
    "training_curves",
    "word_attention",
    "word_dots",
    "word_panels",
    "word_statistics",
]
