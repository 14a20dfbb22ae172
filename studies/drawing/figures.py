"""Curves and points with intervals. Each function draws one figure to a PNG; all numbers come in.

They have the style of `probes.style`: a colour comes with its own dash and marker. Dashes without markers are baselines
and levels to compare with; warm grey is chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from studies.drawing.canvas import BASELINE, BLUE, CHANCE, FAINT, WIDE, figure, legends, marked, marks, sigma_axis


@dataclass(frozen=True)
class Line:
    """One quantity by step.

    Attributes:
        name: for the legend.
        values: [step].
        low, high: its interval [step], or None for none.
        colour: of line and band.
        dashed: for baselines.
    """

    name: str
    values: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    colour: str = BLUE
    dashed: bool = False


@dataclass(frozen=True)
class Series:
    """One quantity at some places: places, values and interval [place] each."""

    name: str
    colour: str
    at: Sequence[float]
    values: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]

    @classmethod
    def of(cls, name: str, colour: str, rows: pl.DataFrame, at: str | Sequence[float], value: str = "value") -> Series:
        """From a table with columns value, low and high, or NAME, NAME_low and NAME_high; one row a place, in order.

        Args:
            name: for the legend.
            colour: of line and marker.
            rows: of the table.
            at: the column of the places, or the places.
            value: "value", or another NAME.
        """
        places = rows[at].to_list() if isinstance(at, str) else at
        columns = ("value", "low", "high") if value == "value" else (value, f"{value}_low", f"{value}_high")
        return cls(name, colour, places, *(rows[column].to_list() for column in columns))


def lines(
    path: Path,
    panels: Sequence[tuple[str, Sequence[Line]]],
    sigmas: Sequence[float],
    *,
    ylabel: str,
    ylim: tuple[float, float] = (0.0, 1.0),
    chance: tuple[Sequence[float], Sequence[float]] | None = None,
) -> None:
    """Quantities by step, one panel beside another, with sigma along the top.

    Args:
        path: PNG to write.
        panels: title and lines of each.
        sigmas: [step].
        ylabel: what is drawn.
        ylim: limits of it.
        chance: chance level and its upper bound, [step] each, drawn as a band.
    """
    steps = np.arange(len(sigmas))
    aside = len(panels) == 1  # there is room for the legend beside a single panel
    width = WIDE - 2.2 if aside else WIDE
    with figure(path, (min(4.7 * len(panels) + 0.4, width) + 2.2 * aside, 3.6), 1, len(panels), sharey=True) as axes:
        for number, (axis, (title, drawn)) in enumerate(zip(axes[0], panels, strict=True)):
            if chance is not None:
                middle, upper = (np.asarray(values) for values in chance)
                axis.fill_between(steps, 2 * middle - upper, upper, color=CHANCE, alpha=0.4, lw=0)
                axis.plot(steps, middle, color=CHANCE, lw=1.2, label="chance")
            for line in drawn:
                baseline = {"color": line.colour, "ls": BASELINE, "lw": 1.4}
                drawn_as = baseline if line.dashed else {**marks(line.colour), "lw": 1.8, "ms": 3}
                axis.plot(steps, line.values, label=line.name, **drawn_as)
                if line.low is not None and line.high is not None:
                    axis.fill_between(steps, line.low, line.high, color=line.colour, alpha=0.16, lw=0)
            axis.set(xlabel="step", ylim=ylim, xlim=(-0.4, len(sigmas) - 0.6))
            axis.set_xticks(marked(len(sigmas)))
            axis.set_title(title, pad=26)
            if number == 0:
                axis.set_ylabel(ylabel)
            sigma_axis(axis, sigmas)
        legends(axes[0], "right" if aside else "below")


def points(
    path: Path,
    panels: Sequence[tuple[str, Sequence[Series]]],
    *,
    xlabel: str | Sequence[str],
    ylabel: str,
    ylim: tuple[float, float] | None = (0.0, 1.0),
    level: float | None = None,
    ticks: Mapping[int, Sequence[str]] | None = None,
    apart: float = 0.12,
) -> None:
    """Quantities with intervals at places of any kind, up to three panels a row.

    Args:
        path: PNG to write.
        panels: title and series of each.
        xlabel: of all panels, or of each.
        ylabel: of all panels.
        ylim: limits; those of the data if None.
        level: a dashed line to compare with.
        ticks: names of the places 0, 1, ... of some panels, by the panel's number.
        apart: how far series at one place are drawn from one another.
    """
    from matplotlib.ticker import MaxNLocator

    cols = 2 if len(panels) == 4 else min(len(panels), 3)
    rows = -(-len(panels) // cols)
    aside = len(panels) == 1 and len(panels[0][1]) > 1  # there is room for the legend beside a single panel
    size = (min(4.3 * cols + 0.4, WIDE) + 1.8 * aside, 3.2 * rows + 0.2)
    with figure(path, size, rows, cols, sharey=True) as axes:
        shown = list(axes.flat)[: len(panels)]
        for place, (axis, (title, series)) in enumerate(zip(shown, panels, strict=True)):
            unjoined = {"ls": "none"} if place in (ticks or {}) else {}  # places with names have no order
            for number, one in enumerate(series):
                at = np.asarray(one.at, dtype=float) + apart * (number - (len(series) - 1) / 2)
                values = np.asarray(one.values)
                bars = np.clip([values - np.asarray(one.low), np.asarray(one.high) - values], 0, None)
                drawn_as = {**marks(one.colour), **unjoined, "lw": 1.2, "ms": 4}
                axis.errorbar(at, values, bars, label=one.name, elinewidth=1.1, **drawn_as)
            if level is not None:
                axis.axhline(level, color=FAINT, ls=BASELINE, lw=1.2)
            if ylim is not None:
                axis.set_ylim(ylim[0] - 0.03, ylim[1] + 0.03)
            axis.set_title(title)
            axis.set_xlabel(xlabel if isinstance(xlabel, str) else xlabel[place])
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        for number, names in (ticks or {}).items():
            turned = {"rotation": 30, "ha": "right"} if sum(map(len, names)) > 30 else {}
            axes.flat[number].set_xticks(range(len(names)), names, fontsize=8, **turned)
            axes.flat[number].set_xlim(-0.5, len(names) - 0.5)
        for axis in axes[:, 0]:
            axis.set_ylabel(ylabel)
        for axis in axes.flat[len(panels) :]:
            axis.axis("off")
        legends(shown, "right" if aside else "below")
