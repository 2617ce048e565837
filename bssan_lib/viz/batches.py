"""What a batch of pairs scores: matrices with the right pairs framed, and which process computes which rows.

Letters: B pairs, so B images (rows) and B captions (columns).
"""

from collections.abc import Mapping

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Rectangle

from bssan_lib.errors import DataError
from bssan_lib.viz.matrices import matrix_panel
from bssan_lib.viz.style import SERIES, WRONG, finish, new_figure, paper_style


def batch_scores(panels: Mapping[str, object], *, form: str = ".3f"):
    """Score matrices [B, B] beside each other, the right pairs framed; each from its least to its greatest score.

    panels: {title: scores [B, B]}. form: of the numbers in the cells.
    Returns (figure, axes [panels], None). DataError where a matrix is not square.
    """
    values = {title: np.asarray(scores, dtype=float) for title, scores in panels.items()}
    with paper_style():
        figure = new_figure(min(6.75, 1 + 2.1 * len(values)), 2.1, layout="constrained")
        axes = figure.subplots(1, len(values), squeeze=False).ravel()
        for one, (title, scores) in zip(axes, values.items()):
            size = len(scores)
            if scores.shape != (size, size):
                raise DataError(f"batch scores: {title}: expected as many images as captions, got {list(scores.shape)}")
            names = ([f"{what} {i + 1}" for i in range(size)] for what in ("image", "caption"))
            _, _, mappable = matrix_panel(scores, *names, title=title, annotate=form, axes=one)
            mappable.set_clim(scores.min(), max(scores.max(), scores.min() + 1e-6))
            for text, score in zip(one.texts, scores.ravel()):
                text.set_color("white" if mappable.norm(score) < 0.55 else "black")
            for i in range(size):
                one.add_patch(
                    Rectangle((i, i), 1, 1, fill=False, edgecolor=WRONG, linewidth=2, clip_on=False, zorder=5)
                )
    return figure, axes, None


def process_rows(pairs: int, processes: int):
    """Which scores of a batch each process computes: without exchange only its own pairs', with gathered captions whole rows.

    Cells have the colour of their process, or are white where no process scores them; dots are the right pairs.
    Returns (figure, axes [2: alone, gathered], None). DataError where the processes cannot share the pairs evenly.
    """
    if not 1 <= processes <= min(pairs, len(SERIES)) or pairs % processes:
        raise DataError(f"process rows: {processes} processes cannot share {pairs} pairs evenly")
    share = pairs // processes
    process = np.arange(pairs) // share  # of each pair
    own = np.where(process[:, None] == process, process[:, None] + 1, 0)
    rows = np.broadcast_to(process[:, None] + 1, (pairs, pairs))
    colours = ListedColormap(["#FFFFFF", *SERIES[:processes]])
    with paper_style():
        figure = new_figure(4.6, 2.3, layout="constrained")
        axes = figure.subplots(1, 2)
        for one, cells, title in zip(axes, (own, rows), ("each process alone", "captions gathered")):
            one.pcolormesh(cells, cmap=colours, vmin=0, vmax=processes, edgecolor="#CCCCCC", linewidth=0.4, alpha=0.55)
            one.plot(np.arange(pairs) + 0.5, np.arange(pairs) + 0.5, ".", color="black", markersize=4)
            negatives = int((cells[0] > 0).sum()) - 1
            one.set(aspect="equal", ylim=(pairs, 0), xlabel="caption", title=f"{title}: {negatives} negatives")
            one.set(xticks=[], yticks=[])
        middles = [share * (number + 0.5) for number in range(processes)]
        axes[0].set_yticks(middles, [f"images of\nprocess {number + 1}" for number in range(processes)])
        finish(axes)
    return figure, axes, None
