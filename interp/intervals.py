"""Intervals of shares, and of means over rows that come in groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from interp.errors import InterpError, suggest

Z95 = 1.959963984540054

COLUMNS = {
    "sigma": "noise level, where a cell has one",
    "mean": "over the rows of the cell where the column is not null, in its own unit; a flag's share, 0 to 1",
    "low": "lower end of its 95 % interval, from a bootstrap of whole groups",
    "high": "upper end",
    "n": "rows",
    "groups": "groups of rows that were drawn whole, such as the seeds of one problem",
}
"""Of `mean_by`, after the columns that name a cell."""


@dataclass(frozen=True)
class Proportion:
    """A share with its 95 % Wilson interval: ``hits`` of ``n``."""

    hits: int
    n: int
    share: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.share:.3f} ({self.low:.3f}\u2013{self.high:.3f}, n = {self.n})"


def wilson(hits: int, n: int) -> Proportion:
    """Wilson's score interval at 95 %; NaN for n = 0.

    >>> result = wilson(9, 10)
    >>> round(result.low, 3), round(result.high, 3)
    (0.596, 0.982)
    """
    if n == 0:
        return Proportion(0, 0, math.nan, math.nan, math.nan)
    p, z2 = hits / n, Z95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return Proportion(hits, n, p, max(0.0, centre - half), min(1.0, centre + half))


def cluster_mean(
    values: np.ndarray,
    groups: np.ndarray,
    *,
    ends: tuple[float, float] | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over rows with a 95 % percentile bootstrap that draws whole groups.

    Args:
        values: [row, column]; rows with NaN do not count in that column.
        groups: [row], what is drawn together.
        ends: of the scale, for values that are bounded. The interval (not the mean) is then that of the groups and two
            imaginary ones, one at each end (after Agresti and Coull 1998): a handful of equal answers has an interval.
        draws: bootstrap repetitions.
        seed: of the bootstrap.

    Returns:
        mean, low, high: [column] each.
    """
    _, group = np.unique(groups, return_inverse=True)
    known = np.isfinite(values)
    sums = np.zeros((group.max() + 1, values.shape[1]))
    counts = np.zeros_like(sums)
    np.add.at(sums, group, np.where(known, values, 0))
    np.add.at(counts, group, known)
    mean = _divided(sums.sum(0), counts.sum(0))
    if ends is not None:
        size = np.maximum(counts.sum(0) / np.maximum((counts > 0).sum(0), 1), 1)
        sums, counts = np.vstack([sums, *(end * size for end in ends)]), np.vstack([counts, size, size])
    weights = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=draws)
    low, high = np.nanpercentile(_divided(weights @ sums, weights @ counts), [2.5, 97.5], axis=0)
    return mean, low, high


def mean_by(
    table: pl.DataFrame,
    column: str,
    by: Sequence[str] | None = None,
    *,
    groups: str = "sample",
    ends: tuple[float, float] | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> pl.DataFrame:
    """Means of a column with 95 % intervals from a bootstrap of whole groups.

    Args:
        table: rows of a lens, of answer trajectories, or any others.
        column: a flag or a number; rows where it is null do not count.
        by: columns that name a cell; None: those of step, branch and layer that the table has.
        groups: rows that belong together are drawn together: the seeds of one problem.
        ends: of the column's scale, see `cluster_mean`.
        draws, seed: of the bootstrap.

    Returns:
        One row a cell, in order: the columns of ``by``, then those of `COLUMNS`.

    Raises:
        InterpError: the table has no such column, or it holds no numbers.
    """
    keys = [by] if isinstance(by, str) else list(by or ())
    for name in (column, groups, *keys):
        if name not in table.columns:
            raise InterpError(f"the table has no column {name!r}{suggest(name, table.columns)}")
    if not (table[column].dtype.is_numeric() or table[column].dtype in (pl.Boolean, pl.Null)):
        raise InterpError(f"column {column!r} holds {table[column].dtype} and has no mean; choose a flag or a number")
    if by is None:
        keys = [name for name in ("step", "branch", "layer") if name in table.columns]
    parts = table.group_by(keys, maintain_order=True) if keys else [((), table)]
    rows = []
    for key, part in sorted(parts, key=lambda item: _order(item[0])):
        known = part.filter(pl.col(column).is_not_null())
        about = dict(zip(keys, key, strict=True))
        if "sigma" in part.columns and "sigma" not in keys and part["sigma"].n_unique() == 1:
            about["sigma"] = part["sigma"][0]
        values = known[column].cast(pl.Float64).to_numpy()[:, None]
        mean, low, high = (np.full(1, np.nan),) * 3
        if len(values):
            mean, low, high = cluster_mean(values, known[groups].to_numpy(), ends=ends, draws=draws, seed=seed)
        rows.append(
            {
                **about, "mean": mean[0], "low": low[0], "high": high[0], "n": len(values),
                "groups": known[groups].n_unique(),
            }
        )  # fmt: skip
    types = {name: table.schema[name] for name in (*keys, "sigma") if name in table.columns}
    return pl.DataFrame(rows, schema_overrides=types, infer_schema_length=None)


def _order(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """Sorts nulls last."""
    return tuple((value is None, 0 if value is None else value) for value in key)


def _divided(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.asarray(sums / counts)
