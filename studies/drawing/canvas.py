"""What all figures share: the page's width, colours with their dashes and markers, legends, the axis of steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from probes.style import CATEGORIES, DASHES, MARKERS, blank, save, style
from studies.base.signs import SIGMA

BLUE, ORANGE, GREEN = CATEGORIES[:3]
INK, FAINT, CHANCE = CATEGORIES[6], "#8a94a0", "#b9b2a8"
BASELINE = (0, (4, 2))
WIDE = 10.0
"""Inches of a page's width; a figure that is wider is shown smaller, and its letters with it."""


@contextmanager
def figure(
    path: Path, size: tuple[float, float], rows: int = 1, cols: int = 1, *, tight: bool = False, **kwargs: Any
) -> Iterator[Any]:
    """Axes [rows, cols], saved when the block ends."""
    with style():
        figure = blank(*size)
        if tight:
            figure.set_layout_engine("constrained", w_pad=0.015, h_pad=0.02, wspace=0, hspace=0)
        yield figure.subplots(rows, cols, squeeze=False, **kwargs)
        save(figure, path)


def marks(colour: str) -> dict[str, Any]:
    """The dash and marker that go with a colour."""
    number = CATEGORIES.index(colour) if colour in CATEGORIES else 0
    return {"color": colour, "ls": DASHES[number], "marker": MARKERS[number]}


def legends(axes: Sequence[Any], where: str) -> None:
    """One legend for all panels if they show the same things; else one each, out of the way of what is drawn.

    Args:
        axes: of the panels.
        where: "right" of a single panel, or "below".
    """
    named = [axis.get_legend_handles_labels() for axis in axes]
    figure, labels = axes[0].figure, [labels for _, labels in named]
    if all(of == labels[0] for of in labels):
        handles, names = named[0]
        if len(names) > 1 and where == "right":
            figure.legend(handles, names, fontsize=8, loc="outside right center")
        elif len(names) > 1:
            figure.legend(handles, names, fontsize=8, loc="outside lower center", ncols=min(len(names), 6))
        return
    for axis, (handles, names) in zip(axes, named, strict=True):
        if len(names) > 1:
            axis.legend(handles, names, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)


def marked(steps: int) -> list[int]:
    """Steps that have a number on their axis: ten at most."""
    every = max(1, -(-steps // 10))
    return list(range(0, steps, every))


def sigma_axis(axis: Any, sigmas: Sequence[float]) -> None:
    """Noise level along the top, at the ticks of the steps."""
    top = axis.secondary_xaxis("top")
    ticks = marked(len(sigmas))
    top.set_xticks(ticks, [f"{sigmas[t]:.2f}".lstrip("0") for t in ticks], fontsize=7)
    top.set_xlabel(SIGMA, fontsize=8, labelpad=2)
    top.spines[:].set_visible(False)
    top.tick_params(length=0, pad=1, colors=FAINT)
