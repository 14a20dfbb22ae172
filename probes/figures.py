"""Figures of tables: heatmaps, curves with bands, trajectories, confusion and other matrices, energy maps.

Each takes what the other parts give (a polars table, a matrix), writes a file if told to, and returns a matplotlib
Figure. Grids of probes have figures of their own: `GridResult.plot`, `TransferResult.plot`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from interp.errors import suggest
from probes.errors import ProbeError
from probes.geometry.energy import Energy
from probes.geometry.paths import Paths
from probes.style import CATEGORIES, DASHES, DIVERGING, MARKERS, PAGE, SEQUENTIAL, blank, save, style, ticks


def heatmap(
    table: pl.DataFrame,
    path: str | Path | None = None,
    *,
    x: str = "step",
    y: str = "layer",
    value: str = "mean",
    limits: tuple[float, float] | None = None,
    centre: float | None = None,
    label: str | None = None,
    title: str | None = None,
) -> Any:
    """A column over two others; the numbers are written in the cells where they fit.

    Args:
        table: one row a cell. A null in ``y`` (the model's own output in lens tables) is the topmost row, "model".
        path: file to write.
        x, y, value: columns.
        limits: of the colours; those of the data if None.
        centre: colours diverge from this value: 0 for a difference. Limits then lie as far on either side.
        label: of the colours; the name of ``value`` if None.
        title: above the figure.
    """
    _need(table, x, y, value)
    if table.select(x, y).is_duplicated().any():
        raise ProbeError(f"Several rows share one {x} and {y}; keep one branch (or other column) of the table.")
    columns = sorted(table[x].unique().to_list())
    known = sorted(v for v in table[y].unique().to_list() if v is not None)
    rows = [*known, *([None] if table[y].null_count() else [])]
    cells = np.full((len(rows), len(columns)), np.nan)
    _numbers(table, value)
    for i, j, number in table.select(x, y, value).iter_rows():
        cells[rows.index(j), columns.index(i)] = np.nan if number is None else number
    with style():
        figure = blank(PAGE, 1.3 + 0.26 * min(len(rows), 24))
        axes = figure.add_subplot()
        low, high = limits or (float(np.nanmin(cells)), float(np.nanmax(cells)))
        _cells(axes, cells, low, high, label or value, centre)
        ticks(axes.xaxis, columns)
        ticks(axes.yaxis, ["model" if row is None else row for row in rows], 24)
        axes.set(xlabel=x, ylabel=y)
        axes.set_title(title or "", loc="left")
        return save(figure, path)


def curves(
    table: pl.DataFrame,
    path: str | Path | None = None,
    *,
    x: str = "step",
    y: str = "mean",
    by: str | None = None,
    limits: tuple[float, float] | None = None,
    label: str | None = None,
    title: str | None = None,
) -> Any:
    """Lines with bands between the columns ``low`` and ``high``, where there are such.

    Args:
        table: one row a point.
        path, limits, label, title: see `heatmap`.
        x, y: columns.
        by: column that tells lines apart; at most 7 of them.
    """
    _need(table, x, y, *([by] if by else []))
    _numbers(table, y)
    names = [None] if by is None else table[by].unique(maintain_order=True).to_list()
    if len(names) > len(CATEGORIES):
        raise ProbeError(f"{len(names)} lines cannot be told apart; choose at most {len(CATEGORIES)} of {by}.")
    with style():
        figure = blank(PAGE, 3.0)
        axes = figure.add_subplot()
        for k, name in enumerate(names):
            part = (table if by is None else table.filter(pl.col(by).eq_missing(name))).sort(x)
            at, line = part[x].to_numpy(), part[y].cast(pl.Float64).to_numpy()
            if "low" in part.columns and "high" in part.columns:
                low, high = (part[c].cast(pl.Float64).to_numpy() for c in ("low", "high"))
                axes.fill_between(at, low, high, color=CATEGORIES[k], alpha=0.16, lw=0)
            shown = None if by is None else "model" if name is None else str(name)
            axes.plot(at, line, color=CATEGORIES[k], ls=DASHES[k], marker=MARKERS[k], ms=3.6, lw=1.7, label=shown)
        axes.set(xlabel=x, ylabel=label or y, **({"ylim": limits} if limits else {}))
        if table[x].dtype.is_integer():  # there is no step 0.5
            axes.locator_params(axis="x", integer=True)
        axes.grid(axis="y", color="0.92", lw=0.8)
        axes.set_axisbelow(True)
        axes.set_title(title or "", loc="left")
        if by is not None:
            axes.legend(title=by, loc="center left", bbox_to_anchor=(1.01, 0.5), handlelength=2.8)
        return save(figure, path)


def trajectories(
    paths: Paths, path: str | Path | None = None, *, by: str | None = None, most: int = 60, title: str | None = None
) -> Any:
    """Rows moving over steps in the first two dimensions: small where they begin, large where they end.

    Args:
        paths: of `probes.geometry.pca_paths` or `umap_paths`.
        path, title: see `heatmap`.
        by: column that colours rows; at most 7 values.
        most: rows drawn; evenly chosen beyond.
    """
    table = paths.table
    if len(paths.axes) < 2:
        raise ProbeError("A trajectory is drawn in two dimensions; project onto two components or more.")
    _need(table, *([by] if by else []))
    names = [None] if by is None else sorted(table[by].unique().to_list(), key=str)
    if len(names) > len(CATEGORIES):
        raise ProbeError(f"{len(names)} values of {by} cannot be told apart; give at most {len(CATEGORIES)}.")
    first, second = paths.axes[:2]
    rows = table["row"].unique().sort().to_numpy()
    chosen = set(rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int))].tolist())
    with style():
        figure = blank(5.4, 4.2)
        axes = figure.add_subplot()
        for (row,), part in table.sort("row", "step").group_by("row", maintain_order=True):
            if row not in chosen:
                continue
            k = 0 if by is None else names.index(part[by][0])
            xs, ys = part[first].to_numpy(), part[second].to_numpy()
            axes.plot(xs, ys, color=CATEGORIES[k], lw=0.8, alpha=0.45)
            sizes = np.linspace(3, 26, len(xs))
            axes.scatter(xs, ys, s=sizes, color=CATEGORIES[k], marker=MARKERS[k], alpha=0.75, linewidths=0)
        for k, name in enumerate(names if by is not None else []):
            axes.scatter([], [], s=26, color=CATEGORIES[k], marker=MARKERS[k], label=str(name))
        share = paths.components.share if paths.components is not None else None
        for set_label, name, k in ((axes.set_xlabel, first, 0), (axes.set_ylabel, second, 1)):
            set_label(name if share is None else f"{name} ({share[k]:.0%} of variance)")
        if by is not None:
            axes.legend(title=by)
        axes.set_title(title or "", loc="left")
        return save(figure, path)


def confusion(
    true: Any, predicted: Any, path: str | Path | None = None, *, names: Sequence[str] | None = None,
    title: str | None = None,
) -> Any:  # fmt: skip
    """Shares of each true class (rows sum to 1) that were called each class.

    Args:
        true, predicted: classes [row].
        path, title: see `heatmap`.
        names: of the classes, in sorted order of their values.
    """
    from sklearn.metrics import confusion_matrix

    if len(true) != len(predicted):
        raise ProbeError(
            f"{len(true)} true classes and {len(predicted)} predicted ones were given; need one a row each."
        )
    classes = np.unique(np.concatenate([np.asarray(true), np.asarray(predicted)]))
    shown = [str(c) for c in classes] if names is None else list(names)
    if len(shown) != len(classes):
        raise ProbeError(f"{len(shown)} names were given for {len(classes)} classes.")
    counts = confusion_matrix(true, predicted, labels=classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return matrix(shares, shown, path, limits=(0, 1), label="share of the true class", x="predicted", y="true",
                  title=title)  # fmt: skip


def matrix(
    values: Any,
    names: Sequence[Any],
    path: str | Path | None = None,
    *,
    limits: tuple[float, float] | None = None,
    label: str = "",
    x: str = "",
    y: str = "",
    title: str | None = None,
) -> Any:
    """A square matrix: likeness of sites, generalisation between steps, confusion.

    Args:
        values: [name, name].
        names: of rows and columns.
        path, limits, label, title: see `heatmap`.
        x, y: what columns and rows are.
    """
    cells = np.asarray(values, dtype=float)
    if cells.shape != (len(names), len(names)):
        raise ProbeError(f"A matrix of shape {cells.shape} does not fit {len(names)} names.")
    with style():
        side = 2.2 + 0.34 * min(len(names), 9)
        figure = blank(side + 1.0, side)
        axes = figure.add_subplot()
        low, high = limits or (float(np.nanmin(cells)), float(np.nanmax(cells)))
        _cells(axes, cells, low, high, label)
        ticks(axes.xaxis, names, 12)
        ticks(axes.yaxis, names, 12)
        axes.set(xlabel=x, ylabel=y)
        axes.set_title(title or "", loc="left")
        return save(figure, path)


def energy_map(
    found: Energy, grid: Any, path: str | Path | None = None, *, kind: str = "relative", title: str | None = None
) -> Any:
    """Energy on the token grid, one picture a latent frame; sink tokens are crossed out.

    Args:
        found: of `probes.geometry.energy`.
        grid: the token grid (frames, rows, cols).
        path, title: see `heatmap`.
        kind: "l2", "robust" or "relative". Colours end at the 99th percentile of tokens that are no sinks.
    """
    values = found.map(kind).reshape(grid.frames, grid.rows, grid.cols)
    sinks = np.zeros(values.size, dtype=bool)
    sinks[found.sinks] = True
    calm = values.reshape(-1)[~sinks]
    low, high = float(calm.min()), float(np.percentile(calm, 99))
    with style():
        figure = blank(PAGE, 0.9 + PAGE / max(grid.frames, 3) * grid.rows / grid.cols)
        spaces = figure.subplots(1, grid.frames, squeeze=False)[0]
        for frame, axes in enumerate(spaces):
            image = axes.imshow(values[frame], cmap=SEQUENTIAL, vmin=low, vmax=max(high, low + 1e-9))
            for row, col in np.argwhere(sinks.reshape(values.shape)[frame]):
                axes.plot(col, row, marker="x", color="#D55E00", ms=6, mew=1.6)
            axes.set_title(f"frame {frame}", fontsize=8.5)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
        scale = figure.colorbar(image, ax=list(spaces), shrink=0.8, pad=0.015)
        scale.set_label(f"{kind} energy")
        scale.outline.set_visible(False)
        figure.suptitle(title or "", x=0.01, ha="left", fontsize=10.5)
        return save(figure, path)


def _cells(axes: Any, cells: np.ndarray, low: float, high: float, label: str, centre: float | None = None) -> None:
    """Draw a matrix, its numbers if they fit, and its colour scale."""
    if centre is not None:
        reach = max(abs(low - centre), abs(high - centre), 1e-9)
        low, high = centre - reach, centre + reach
    high = max(high, low + 1e-9)
    colours = SEQUENTIAL if centre is None else DIVERGING
    image = axes.imshow(
        cells, aspect="auto", origin="lower", cmap=colours, vmin=low, vmax=high, interpolation="nearest"
    )
    if cells.size <= 260 and cells.shape[1] <= 20:
        for (row, col), value in np.ndenumerate(cells):
            if np.isfinite(value):
                along = (value - low) / (high - low)
                dark = along < 0.55 if centre is None else abs(along - 0.5) > 0.3
                text = f"{round(value, 2) + 0.0:.2f}".replace("0.", ".", 1) if abs(value) < 0.995 else f"{value:.3g}"
                axes.text(col, row, text, ha="center", va="center", fontsize=6.5, color="white" if dark else "black")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    scale = axes.figure.colorbar(image, ax=axes, pad=0.02)
    scale.set_label(label)
    scale.outline.set_visible(False)


def _need(table: pl.DataFrame, *names: str) -> None:
    for name in names:
        if name not in table.columns:
            raise ProbeError(f"The table has no column {name!r}{suggest(name, table.columns)}.")
    if not table.height:
        raise ProbeError("The table is empty, so there is nothing to draw.")


def _numbers(table: pl.DataFrame, name: str) -> None:
    kind = table[name].dtype
    if not (kind.is_numeric() or kind == pl.Boolean):
        raise ProbeError(f"Column {name!r} holds {kind} and cannot be drawn; choose a flag or a number.")
    if table[name].cast(pl.Float64).fill_nan(None).null_count() == table.height:
        raise ProbeError(f"Column {name!r} holds no number, so there is nothing to draw.")
