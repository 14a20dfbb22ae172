"""Token-energy maps: where on the token grid, and in which channels, the activations of a layer are large.

The L2 norm of a token is a poor proxy for what it carries: a few massive channels (Sun et al. 2024) and a few sink
tokens can make up most of it. So every map comes in three forms, and both kinds of outlier are flagged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch

from probes.errors import ProbeError
from probes.geometry.given import blocks as each
from probes.tensor import tensor

MASSIVE = 50.0
SINK = 4.0
MAPS = ("l2", "robust", "relative")


@dataclass(frozen=True)
class Energy:
    """One cell: means over runs.

    Attributes:
        l2: length of each token [token].
        robust: median over channels of the absolute value (the lower one of two) [token]; massive channels cannot move
            it.
        relative: length over the mean length of the run's tokens [token]; layers compare.
        sink: share of runs in which the token is `SINK` times as long as the median token, or longer [token].
        channel: mean absolute value of each channel, over the median one [channel]; where that is 0, 1 for those that
            are 0 like it and infinite for the others.
        runs: how many.
    """

    l2: np.ndarray
    robust: np.ndarray
    relative: np.ndarray
    sink: np.ndarray
    channel: np.ndarray
    runs: int

    @property
    def sinks(self) -> list[int]:
        """Tokens that are sinks in half of the runs or more."""
        return np.flatnonzero(self.sink >= 0.5).tolist()

    @property
    def massive(self) -> list[int]:
        """Channels `MASSIVE` times as large as the median channel, or larger."""
        return np.flatnonzero(self.channel >= MASSIVE).tolist()

    def map(self, kind: str) -> np.ndarray:
        """One of the maps [token]: "l2", "robust" or "relative"."""
        if kind not in MAPS:
            raise ProbeError(f"kind={kind!r} is not known; use {', '.join(map(repr, MAPS))}.")
        return np.asarray(getattr(self, kind))

    def contrast(self, mask: Any, kind: str = "relative") -> float:
        """Mean energy of the masked tokens over that of the others: foreground against background.

        Args:
            mask: bool [token], or token numbers.
            kind: "l2", "robust" or "relative".
        """
        chosen = np.zeros(len(self.l2), dtype=bool)
        chosen[np.asarray(mask)] = True
        if chosen.all() or not chosen.any():
            raise ProbeError("The mask holds all tokens or none, so there is nothing to contrast them with.")
        values = self.map(kind)
        return float(values[chosen].mean() / values[~chosen].mean())


def energy(blocks: Any) -> Energy:
    """Energy of one cell.

    Args:
        blocks: activations [run, token, feature], or an iterable of such blocks of runs; they are read once.

    Raises:
        ProbeError: shapes that do not fit, NaN or infinity, or a run that is 0 everywhere.
    """
    sums: dict[str, Any] = {}
    runs = 0
    shape: tuple[int, ...] = ()
    for block in each(blocks):
        x = tensor(block).float()
        if x.ndim != 3:
            raise ProbeError(f"Energy is of activations [run, token, feature]; got shape {tuple(x.shape)}.")
        shape = shape or tuple(x.shape[1:])
        if tuple(x.shape[1:]) != shape:
            raise ProbeError(f"Blocks of {shape} tokens and features were given before; now {tuple(x.shape[1:])}.")
        if not torch.isfinite(x).all():
            raise ProbeError(f"Activations hold NaN or infinity (among runs {runs} to {runs + len(x) - 1}).")
        length = x.norm(dim=2)
        empty = (length == 0).all(dim=1).nonzero().flatten()
        if len(empty):
            raise ProbeError(f"Run {runs + int(empty[0])} is 0 everywhere, so its tokens have no relative energy.")
        parts = {
            "l2": length,
            "robust": x.abs().median(dim=2).values,
            "relative": length / length.mean(dim=1, keepdim=True),
            "sink": ((length >= SINK * length.median(dim=1, keepdim=True).values) & (length > 0)).float(),
            "channel": x.abs().mean(dim=1),
        }
        for name, value in parts.items():
            sums[name] = sums.get(name, 0) + value.double().sum(dim=0)
        runs += len(x)
    if not runs:
        raise ProbeError("No activations were given.")
    mean = {name: (value / runs).numpy() for name, value in sums.items()}
    middle = float(np.median(mean["channel"]))
    nothing = np.where(mean["channel"] > 0, np.inf, 1.0)  # over a median channel that is 0 throughout
    mean["channel"] = mean["channel"] / middle if middle > 0 else nothing
    return Energy(**mean, runs=runs)


def energy_table(cells: Mapping[tuple[int, int], Energy], grid: Any) -> pl.DataFrame:
    """Maps of many cells as one table.

    Args:
        cells: by (step, layer).
        grid: the token grid (frames, rows, cols), such as ``store.index(run).grid``.

    Returns:
        One row a cell and token, with step, layer, token, frame, row, col, l2, robust, relative, sink (share of runs).
    """
    frames, rows, cols = grid.frames, grid.rows, grid.cols
    parts = []
    for (step, layer), found in cells.items():
        count = len(found.l2)
        if count != frames * rows * cols:
            raise ProbeError(f"{count} tokens are not a grid of {frames} x {rows} x {cols}.")
        frame, row, col = (v.reshape(-1) for v in np.indices((frames, rows, cols)))
        about = {"step": [step] * count, "layer": [layer] * count, "token": np.arange(count)}
        place = {"frame": frame, "row": row, "col": col}
        values = {name: getattr(found, name) for name in ("l2", "robust", "relative", "sink")}
        parts.append(pl.DataFrame({**about, **place, **values}))
    return pl.concat(parts)


def energies(cells: Mapping[tuple[int, int], Any]) -> Iterable[tuple[tuple[int, int], Energy]]:
    """`energy` of each cell, one after the other; values are as `energy` takes them, or functions that give them."""
    for key, value in cells.items():
        yield key, energy(value() if callable(value) else value)
