"""Training as it went: loss, recalls, temperatures and gate by epoch. Recalls are percentages, 0 to 100."""

import io
from collections.abc import Callable, Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn
from matplotlib.ticker import MaxNLocator

from bssan_lib.errors import DataError
from bssan_lib.viz.style import SERIES, column_width, finish, new_figure, paper_style

_STYLES = ["-", "--", ":", "-."]  # so that lines differ where colours are not printed


def training_curves(histories, *, width: str | float = "two"):
    """Loss, dev recalls, dev rsum, and the learned temperatures with the gate, by epoch.

    histories: one history, or several (seeds): lines are then means and bands reach from least to greatest.
    A history is a list of rows {"epoch", "loss", "dev": {"rsum", "i2t": {"R@1", ...}, "t2i": {...}},
    "temperature_w", "temperature_o", "gate"}; what is missing is left out. Seeds may differ in length.
    Returns (figure, axes [4: loss, recalls, rsum, temperatures with gate], None). DataError without a row.
    """
    histories = [list(one) for one in _several(histories)]
    if not histories or not all(histories):
        raise DataError("training curves: expected at least one row in each history, got none")
    full = column_width(width)
    with paper_style():
        figure = new_figure(full, 1.65 if full > 5 else 3.2, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.03, h_pad=0.05)
        axes = figure.subplots(1, 4) if full > 5 else figure.subplots(2, 2).ravel()
        several = len(histories) > 1
        _curve(axes[0], histories, ["loss"], 0, f"mean of {len(histories)}, with range" if several else None)
        axes[0].set_title("training loss")
        for number, (way, k) in enumerate((way, k) for way in ("i2t", "t2i") for k in ("R@1", "R@10")):
            _curve(axes[1], histories, ["dev", way, k], number // 2, f"{way} {k}", _STYLES[number % 2])
        axes[1].set_title("dev recall (%)")
        _curve(axes[2], histories, ["dev", "rsum"], 0)
        axes[2].set_title("dev rsum (of 600)")
        gate = _with_gate(axes[3], histories)
        for one in axes:
            one.set_xlabel("epoch")
            one.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
            one.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            if one.get_legend_handles_labels()[0]:
                one.legend(
                    loc="upper center",
                    bbox_to_anchor=(0.5, -0.34),
                    ncols=2 if len(one.get_legend_handles_labels()[0]) > 1 else 1,
                    handlelength=1.6,
                    borderpad=0,
                    columnspacing=0.8,
                    labelspacing=0.2,
                    borderaxespad=0,
                )
        finish([*axes, gate])
    return figure, np.array(axes), None


def _with_gate(axes, histories):
    """Inverse temperatures on the left, the gate from 0 to 1 on the right; returns the right-hand axes."""
    axes.set_title("inverse temp., gate")
    _curve(axes, histories, ["temperature_w"], 0, "W2R")
    _curve(axes, histories, ["temperature_o"], 1, "O2W", "--")
    gate = axes.twinx()
    _curve(gate, histories, ["gate"], 2, None, ":")
    axes.plot([], [], color=SERIES[2], linestyle=":", label="gate (right)")
    gate.spines["right"].set_visible(True)
    gate.set(ylim=(0, 1), yticks=[0, 0.5, 1])
    return gate


def _several(histories) -> list:
    """A list of histories, whether one or several came, in a list or by name."""
    if isinstance(histories, Mapping):
        return list(histories.values())
    histories = list(histories)
    return [histories] if histories and isinstance(histories[0], Mapping) else histories


def _series(history: list[dict], path: list[str]) -> dict[float, float]:
    """{epoch: value} of what lies under `path` in the rows that have it."""
    found = {}
    for number, row in enumerate(history, start=1):
        value: Any = row
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            found[float(row.get("epoch", number))] = float(value)
    return found


def _curve(axes, histories, path, colour: int, name: str | None = None, style: str = "-") -> None:
    """One line, the mean over the histories that have the epoch, and a band over several."""
    points = [point for history in histories for point in _series(history, path).items()]
    if not points:
        return
    epochs, values = zip(*points)
    seaborn.lineplot(
        x=epochs,
        y=values,
        errorbar=("pi", 100) if len(histories) > 1 else None,  # all of them: from the least to the greatest
        err_kws={"linewidth": 0},
        linestyle=style,
        color=SERIES[colour],
        label=name,
        legend=False,
        marker="." if len(set(epochs)) < 3 else None,
        markeredgewidth=0,
        ax=axes,
    )


def live_curve(width: str | float = "two") -> Callable[[list[dict]], None]:
    """A function that draws training_curves of the history so far in place; for `on_epoch` in a notebook.

    Outside a notebook it does nothing, and needs no IPython.
    """
    try:
        from IPython import get_ipython
        from IPython.display import Image, display
    except ImportError:
        return lambda history: None
    if get_ipython() is None:
        return lambda history: None
    handle: Any = None

    def draw(history: list[dict]) -> None:
        nonlocal handle
        figure, _, _ = training_curves(history, width=width)
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=figure.dpi)  # bytes are shown whatever the drawing backend is
        plt.close(figure)  # else the notebook would show it once more at the end of the cell
        shown = Image(png.getvalue(), alt=f"training curves up to epoch {len(history)}")
        if handle is None:
            handle = display(shown, display_id=True)
        else:
            handle.update(shown)

    return draw
