"""Pictures of a study. Each function draws one figure to a PNG; all numbers come in, none is computed here.

They have the style of `probes.style`: a colour comes with its own dash and marker. Dashes without markers are baselines
and levels to compare with; warm grey is chance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from probes.style import CATEGORIES, DASHES, MARKERS, SEQUENTIAL, blank, save, style
from studies.base.signs import SIGMA

BLUE, ORANGE, GREEN = CATEGORIES[:3]
INK, FAINT, CHANCE = CATEGORIES[6], "#8a94a0", "#b9b2a8"
BASELINE = (0, (4, 2))
WIDE = 10.0
"""Inches of a page's width; a figure that is wider is shown smaller, and its letters with it."""


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


@dataclass(frozen=True)
class StripRow:
    """One run in a strip: pictures [row, col, rgb] in 0..1, all of one size, and a name beside them."""

    name: str
    given: np.ndarray
    estimates: Sequence[np.ndarray]
    truth: np.ndarray
    answer: str = ""


@dataclass(frozen=True)
class Heat:
    """One map of shares: values [layer, step], rows below it for baselines, and where it beats chance.

    Attributes:
        title: above the map.
        values: [layer, step].
        above: bool [layer, step], True where the interval lies above the chance level.
        baselines: name to values [step]; may be empty.
    """

    title: str
    values: np.ndarray
    above: np.ndarray
    baselines: dict[str, np.ndarray]


@contextmanager
def _figure(
    path: Path, size: tuple[float, float], rows: int = 1, cols: int = 1, *, tight: bool = False, **kwargs: Any
) -> Iterator[Any]:
    """Axes [rows, cols], saved when the block ends."""
    with style():
        figure = blank(*size)
        if tight:
            figure.set_layout_engine("constrained", w_pad=0.015, h_pad=0.02, wspace=0, hspace=0)
        yield figure.subplots(rows, cols, squeeze=False, **kwargs)
        save(figure, path)


def _marks(colour: str) -> dict[str, Any]:
    """The dash and marker that go with a colour."""
    number = CATEGORIES.index(colour) if colour in CATEGORIES else 0
    return {"color": colour, "ls": DASHES[number], "marker": MARKERS[number]}


def strips(path: Path, rows: Sequence[StripRow], steps: Sequence[int], sigmas: Sequence[float]) -> None:
    """Runs as rows; first frame, x0_hat at the chosen steps and the right answer as columns.

    Args:
        path: PNG to write.
        rows: one a run, with one estimate a step.
        steps, sigmas: of the estimates; the last is the result.
    """
    columns = len(steps) + 2
    head = [
        "first frame",
        *(f"step {s}\n{SIGMA} {v:.2f}" for s, v in zip(steps, sigmas, strict=True)),
        "shortest\nroute",
    ]
    with _figure(path, (0.82 * columns + 0.6, 0.86 * len(rows) + 0.45), len(rows), columns, tight=True) as axes:
        for row, line in zip(rows, axes, strict=True):
            for axis, picture in zip(line, [row.given, *row.estimates, row.truth], strict=True):
                axis.imshow(np.clip(picture, 0, 1), interpolation="nearest")
                axis.set_xticks([])
                axis.set_yticks([])
                axis.grid(False)
                axis.spines[:].set(visible=True, color="#9aa3ad", linewidth=0.6)
            line[0].set_ylabel(row.name, fontsize=7.5, rotation=0, ha="right", va="center", labelpad=6)
            if row.answer:
                line[-2].set_xlabel(row.answer, fontsize=6.5, labelpad=2, color=FAINT)
        for axis, text in zip(axes[0], head, strict=True):
            axis.set_title(text, fontsize=7.5, loc="center", fontweight="normal", pad=4)
        axes[0, -2].set_title(f"result\n{SIGMA} {sigmas[-1]:.2f}", fontsize=7.5, loc="center", fontweight="bold", pad=4)


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
    with _figure(path, (min(4.7 * len(panels) + 0.4, width) + 2.2 * aside, 3.6), 1, len(panels), sharey=True) as axes:
        for number, (axis, (title, drawn)) in enumerate(zip(axes[0], panels, strict=True)):
            if chance is not None:
                middle, upper = (np.asarray(values) for values in chance)
                axis.fill_between(steps, 2 * middle - upper, upper, color=CHANCE, alpha=0.4, lw=0)
                axis.plot(steps, middle, color=CHANCE, lw=1.2, label="chance")
            for line in drawn:
                baseline = {"color": line.colour, "ls": BASELINE, "lw": 1.4}
                drawn_as = baseline if line.dashed else {**_marks(line.colour), "lw": 1.8, "ms": 3}
                axis.plot(steps, line.values, label=line.name, **drawn_as)
                if line.low is not None and line.high is not None:
                    axis.fill_between(steps, line.low, line.high, color=line.colour, alpha=0.16, lw=0)
            axis.set(xlabel="step", ylim=ylim, xlim=(-0.4, len(sigmas) - 0.6))
            axis.set_xticks(_ticks(len(sigmas)))
            axis.set_title(title, pad=26)
            if number == 0:
                axis.set_ylabel(ylabel)
            _sigma_axis(axis, sigmas)
        _legends(axes[0], "right" if aside else "below")


def _legends(axes: Sequence[Any], where: str) -> None:
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
    with _figure(path, size, rows, cols, sharey=True) as axes:
        shown = list(axes.flat)[: len(panels)]
        for place, (axis, (title, series)) in enumerate(zip(shown, panels, strict=True)):
            unjoined = {"ls": "none"} if place in (ticks or {}) else {}  # places with names have no order
            for number, one in enumerate(series):
                at = np.asarray(one.at, dtype=float) + apart * (number - (len(series) - 1) / 2)
                values = np.asarray(one.values)
                bars = np.clip([values - np.asarray(one.low), np.asarray(one.high) - values], 0, None)
                marks = {**_marks(one.colour), **unjoined, "lw": 1.2, "ms": 4}
                axis.errorbar(at, values, bars, label=one.name, elinewidth=1.1, **marks)
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
        _legends(shown, "right" if aside else "below")


def heatmaps(
    path: Path,
    heats: Sequence[Heat],
    sigmas: Sequence[float],
    *,
    low: float,
    high: float,
    label: str,
    steps: Sequence[int] | None = None,
    layers: Sequence[int] | None = None,
) -> None:
    """Shares over layer and step, one map beside another, with baselines as rows below.

    Cells whose interval does not clear the chance level are hatched over.

    Args:
        path: PNG to write.
        heats: the maps; all with the same layers and steps.
        sigmas: [step].
        low, high: ends of the colour scale.
        label: what the colours mean.
        steps, layers: of the columns and rows, where they are not all there are.
    """
    depth, count = heats[0].values.shape
    numbers = list(range(count)) if steps is None else list(steps)
    extra = max(len(heat.baselines) for heat in heats)
    ratios = [depth, max(extra, 1)] if extra else [depth]
    size = (min(4.7 * len(heats) + 0.9, WIDE), 0.26 * (depth + extra) + 1.7)
    with _figure(path, size, len(ratios), len(heats), height_ratios=ratios) as axes:
        for column, heat in enumerate(heats):
            top = axes[0, column]
            image = _map(top, heat.values, heat.above, low, high)
            top.set_yticks(range(depth), [str(k) for k in (layers or range(depth))])
            top.set_ylabel("layer" if column == 0 else "")
            top.set_title(heat.title, pad=26)
            _sigma_axis(top, sigmas)
            last = top
            if extra and not heat.baselines:
                axes[1, column].axis("off")
                top.xaxis.set_in_layout(False)  # its labels may stand in the empty place below
            elif extra:
                last = axes[1, column]
                top.set_xticks([])
                _map(last, np.stack(list(heat.baselines.values())), None, low, high)
                last.set_yticks(range(extra), list(heat.baselines) if column == 0 else [""] * extra)
            last.set_xticks(_ticks(count), [str(numbers[k]) for k in _ticks(count)])
            last.set_xlabel("step")
        bar = axes[0, 0].figure.colorbar(image, ax=axes, shrink=0.8, pad=0.015)
        bar.outline.set_visible(False)
        bar.set_label(label, fontsize=8)


def _map(axis: Any, values: np.ndarray, above: np.ndarray | None, low: float, high: float) -> Any:
    image = axis.imshow(
        values, origin="lower" if above is not None else "upper", aspect="auto", cmap=SEQUENTIAL, vmin=low, vmax=high
    )
    axis.grid(False)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    if above is not None:
        from matplotlib.patches import Rectangle

        for layer, step in np.argwhere(~above):
            axis.add_patch(
                Rectangle(
                    (step - 0.5, layer - 0.5), 1, 1, fill=False, hatch="////", edgecolor="white", lw=0, alpha=0.28
                )
            )
    for (row, col), value in np.ndenumerate(values):
        if np.isfinite(value):
            light = (value - low) / (high - low) > 0.62
            axis.text(
                col, row, f"{value:.2f}"[1:] if value < 0.995 else "1", ha="center", va="center", fontsize=5.6,
                color="#1d2733" if light else "white",
            )  # fmt: skip
    return image


def _ticks(steps: int) -> list[int]:
    every = max(1, -(-steps // 10))
    return list(range(0, steps, every))


def _sigma_axis(axis: Any, sigmas: Sequence[float]) -> None:
    """Noise level along the top, at the ticks of the steps."""
    top = axis.secondary_xaxis("top")
    ticks = _ticks(len(sigmas))
    top.set_xticks(ticks, [f"{sigmas[t]:.2f}".lstrip("0") for t in ticks], fontsize=7)
    top.set_xlabel(SIGMA, fontsize=8, labelpad=2)
    top.spines[:].set_visible(False)
    top.tick_params(length=0, pad=1, colors=FAINT)
