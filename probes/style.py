"""How figures look: one style for all, readable at page width, in greyscale and without colour vision.

Sequential colours are cividis; categories are the Okabe-Ito colours, each with its own dash and marker, so that no line
is told by colour alone. Figures are made without pyplot: plotting in a script or a thread leaves no global state.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

STYLE: dict[Any, Any] = {
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "figure.dpi": 150,
}
PAGE = 7.4
"""Inches: the width of a page."""
SEQUENTIAL = "cividis"
DIVERGING = "RdBu_r"
"""For differences: white is none."""
LETTER = 0.085
"""Inches that a letter of a tick takes."""
CATEGORIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (4, 1, 1, 1)), (0, (8, 2)), (0, (2, 2)), "-")
MARKERS = "osD^v*P"


def style() -> AbstractContextManager[None]:
    """The style, for as long as a ``with`` block lasts."""
    import matplotlib

    context: AbstractContextManager[None] = matplotlib.rc_context(STYLE)
    return context


def blank(width: float = PAGE, height: float = 3.2) -> Any:
    """An empty figure; inches. Make it and draw on it within `style`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def ticks(axis: Any, names: Sequence[Any], most: int = 14) -> None:
    """Name the places 0, 1, ... of an axis (``axes.xaxis``), leaving names out where there are too many; names too long
    to stand side by side are slanted."""
    every = max(1, int(np.ceil(len(names) / most)))
    shown = [str(name) for name in names[::every]]
    axis.set_ticks(range(0, len(names), every), shown)
    room = 0.75 * axis.get_figure().get_figwidth() * every / max(len(names), 1)
    if axis.axis_name == "x" and max(map(len, shown), default=0) * LETTER > room:
        axis.set_tick_params(labelrotation=35)
        for label in axis.get_ticklabels():
            label.set(horizontalalignment="right", rotation_mode="anchor")


def save(figure: Any, path: str | Path | None) -> Any:
    """Write a figure, if a path is given; hand it on."""
    if path is not None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target)
    return figure
