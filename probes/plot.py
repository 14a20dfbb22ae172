"""Figures of a grid: a heatmap over steps and layers, and curves over steps with chance and baselines.

Their style is that of all figures, `probes.style`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from probes.score import METRICS
from probes.style import CATEGORIES, DASHES, PAGE, SEQUENTIAL, blank, save, style, ticks

if TYPE_CHECKING:
    from probes.result import GridResult
    from probes.transfer import TransferResult

BASELINES = tuple(zip(CATEGORIES[1:], (*DASHES[1:6], (0, (3, 1.5))), strict=True))
MOST_CURVES = 6
ACROSS = {1: 1, 2: 2, 4: 2}
"""Heatmaps side by side, of so many; else three."""


def plot_grid(grid: GridResult, path: str | Path | None = None, *, title: str | None = None) -> Any:
    """The figure of `GridResult.plot`; returns a matplotlib Figure."""
    with style():
        steps, layers = grid.steps, grid.layers
        height = 2.1 + 0.16 * min(len(layers), 24)
        figure = blank(PAGE, height + 3.4)
        spaces = figure.add_gridspec(2, 2, height_ratios=[height, 3.4], width_ratios=[1, 0.022])
        upper, lower = figure.add_subplot(spaces[0, 0]), figure.add_subplot(spaces[1, 0])
        image = _heatmap(grid, upper, *_limits(grid))
        _scale(grid, figure, image, cax=figure.add_subplot(spaces[0, 1]))
        _curves(grid, lower)
        upper.set_title(title or _title(grid), loc="left")
        for axes in (upper, lower):
            axes.set_xlim(-0.5, len(steps) - 0.5)
        return save(figure, path)


def _title(grid: GridResult) -> str:
    about = grid.spec.get("target") or "target"
    row = grid.table.row(0, named=True)
    return f"{about}: {grid.spec['model']} probe, {row['n']} rows in {row['groups']} groups"


def _matrix(grid: GridResult, column: str) -> np.ndarray:
    """A column as [layer, step], NaN where the grid has no cell."""
    steps = {s: i for i, s in enumerate(grid.steps)}
    layers = {layer: i for i, layer in enumerate(grid.layers)}
    out = np.full((len(layers), len(steps)), np.nan)
    for step, layer, value in grid.table.select("step", "layer", column).iter_rows():
        out[layers[layer], steps[step]] = np.nan if value is None else value
    return out


def _limits(grid: GridResult) -> tuple[float, float]:
    """From chance, or else the lowest score, to the highest."""
    score, chance = _matrix(grid, "score"), _matrix(grid, "chance")
    bottom = float(np.nanmin(chance)) if np.isfinite(chance).any() else float(np.nanmin(score))
    return bottom, max(float(np.nanmax(score)), bottom + 1e-3)


def _heatmap(grid: GridResult, axes: Any, bottom: float, top: float) -> Any:
    score, low, bar = (_matrix(grid, c) for c in ("score", "low", "chance_high"))
    image = axes.imshow(
        score, aspect="auto", origin="lower", cmap=SEQUENTIAL, vmin=bottom, vmax=top, interpolation="nearest"
    )
    # A dot where the interval clears chance; drawn light on dark cells and dark on light ones.
    clears = np.argwhere(np.nan_to_num(low, nan=-np.inf) > np.nan_to_num(bar, nan=np.inf))
    if len(clears):
        light = (score[clears[:, 0], clears[:, 1]] - bottom) / (top - bottom) < 0.6
        size = float(np.clip(180 / max(len(grid.steps), 2 * len(grid.layers)), 1.5, 9))
        axes.scatter(clears[:, 1], clears[:, 0], s=size, c=np.where(light, "white", "black"), linewidths=0)
    ticks(axes.xaxis, grid.steps)
    ticks(axes.yaxis, grid.layers, 16)
    axes.set_ylabel("layer")
    return image


def _scale(grid: GridResult, figure: Any, image: Any, **where: Any) -> None:
    scale = figure.colorbar(image, **where)
    scale.set_label(METRICS[grid.spec["score"]].label)
    scale.outline.set_visible(False)


def _curves(grid: GridResult, axes: Any) -> None:
    from matplotlib import colormaps

    at = np.arange(len(grid.steps), dtype=float)
    names = [c.removeprefix("baseline_") for c in grid.table.columns if c.startswith("baseline_")]
    columns = [_matrix(grid, c) for c in ("score", "low", "high", "chance", "chance_high")]
    read = [_matrix(grid, f"baseline_{name}") for name in names]
    if len(at) == 1:  # one step is a short stretch, or bands would have no width
        at = np.array([-0.4, 0.4])
        columns, read = ([np.repeat(m, 2, axis=1) for m in group] for group in (columns, read))
    score, low, high, chance, bar = columns
    if np.isfinite(chance).any():
        axes.fill_between(
            at, np.nanmin(chance, axis=0), np.nanmax(bar, axis=0), color="0.85", lw=0, label="chance", zorder=0
        )
        axes.plot(at, np.nanmean(chance, axis=0), color="0.55", lw=1, zorder=1)
    shown = np.unique(np.linspace(0, len(grid.layers) - 1, min(MOST_CURVES, len(grid.layers))).round().astype(int))
    colours = colormaps[SEQUENTIAL](np.linspace(0.0, 0.92, len(shown)))
    markers = "osD^v*"
    for i, colour, marker in zip(shown, colours, markers, strict=False):
        axes.fill_between(at, low[i], high[i], color=colour, alpha=0.16, lw=0)
        axes.plot(at, score[i], color=colour, lw=1.6, marker=marker, ms=3.2, label=f"layer {grid.layers[i]}")
    for k, name in enumerate(names):
        colour, dash = BASELINES[k % len(BASELINES)]
        axes.plot(
            at,
            np.nanmean(read[k], axis=0),
            color=colour,
            ls=dash,
            lw=1.6,
            label=name.replace("_", " "),
        )
    ticks(axes.xaxis, grid.steps)
    axes.set_xlabel("sampling step")
    axes.set_ylabel(METRICS[grid.spec["score"]].label)
    axes.grid(axis="y", color="0.92", lw=0.8)
    axes.set_axisbelow(True)
    axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=5, handlelength=2.4)
    sigmas = {s: v for s, v in grid.table.select("step", "sigma").unique().iter_rows() if v is not None}
    if len(sigmas) == len(grid.steps):
        second = axes.secondary_xaxis("top")
        every = max(1, int(np.ceil(len(grid.steps) / 10)))
        second.set_xticks(range(0, len(grid.steps), every), [f"{sigmas[s]:.2f}" for s in grid.steps[::every]])
        second.set_xlabel(r"noise level $\sigma$")


def plot_regions(grids: Mapping[str, GridResult], path: str | Path | None = None, *, title: str | None = None) -> Any:
    """The figure of `RegionGrids.plot`; returns a matplotlib Figure."""
    first = next(iter(grids.values()))
    across = ACROSS.get(len(grids), 3)
    down = -(-len(grids) // across)
    limits = [_limits(grid) for grid in grids.values()]
    bottom, top = min(low for low, _ in limits), max(high for _, high in limits)
    with style():
        figure = blank(PAGE, 0.6 + down * (1.5 + 0.12 * min(len(first.layers), 24)))
        spaces = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
        for (name, grid), axes in zip(grids.items(), spaces.flat, strict=False):
            image = _heatmap(grid, axes, bottom, top)
            axes.set_title(name, loc="left")
        for number, axes in enumerate(spaces.flat):
            axes.set_visible(number < len(grids))
            axes.label_outer()
            if number + across >= len(grids):
                axes.set_xlabel("sampling step")
                axes.tick_params(labelbottom=True)
        _scale(first, figure, image, ax=list(spaces.flat), pad=0.02, shrink=0.9)
        figure.suptitle(title or f"{first.spec.get('target') or 'target'} by region", x=0.01, ha="left", fontsize=10.5)
        return save(figure, path)


def plot_transfer(
    result: TransferResult,
    path: str | Path | None = None,
    *,
    layer: int | None = None,
    step: int | None = None,
    title: str | None = None,
) -> Any:
    """The figure of `TransferResult.plot`; returns a matplotlib Figure."""
    values, places = result.matrix(layer=layer, step=step)
    axis, at = ("step", f"layer {layer}") if layer is not None else ("layer", f"step {step}")
    with style():
        figure = blank(5.2, 4.4)
        axes = figure.add_subplot()
        image = axes.imshow(values, origin="lower", cmap=SEQUENTIAL, interpolation="nearest")
        ticks(axes.xaxis, places, 12)
        ticks(axes.yaxis, places, 12)
        axes.set_xlabel(f"tested at {axis}")
        axes.set_ylabel(f"trained at {axis}")
        axes.set_title(title or f"{result.spec.get('target') or 'target'}, {at}", loc="left")
        scale = figure.colorbar(image, ax=axes, pad=0.02)
        scale.set_label(METRICS[result.spec["score"]].label)
        scale.outline.set_visible(False)
        return save(figure, path)
