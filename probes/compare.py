"""Claims about a whole grid at once, and about two grids.

A band that holds in each of 120 cells with 95 % will miss somewhere. A simultaneous band holds everywhere at once: it
is as wide as the largest deviation, in units of each cell's own error, that group resamples show anywhere in the grid.
Differences between two grids fitted on the same rows are taken pair by pair, group by group, so what both share
cancels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from scipy.stats import norm

from probes.difference import Difference
from probes.errors import ProbeError
from probes.score import METRICS, resample
from probes.spread import Spread

if TYPE_CHECKING:
    from probes.result import GridResult


def simultaneous_bands(grid: GridResult, level: float = 0.95) -> pl.DataFrame:
    """step, layer, score, low, high: bounds that hold in all cells at once with probability ``level``."""
    if not 0 < level < 1:
        raise ProbeError(f"level={level}: need 0 < level < 1.")
    draws = resample(grid.sums.shape[1], int(grid.spec["bootstrap"]), int(grid.spec["seed"]) + 2)
    spread = Spread.of(grid.sums, grid.effects, draws, METRICS[grid.spec["score"]])
    low, high = spread.bounds(float(np.quantile(spread.largest(), level)))
    point = grid.table["score"].to_numpy()
    return grid.table.select("step", "layer", "score").with_columns(
        low=pl.Series(np.minimum(low, point)), high=pl.Series(np.maximum(high, point))
    )


def compare_grids(
    a: GridResult, b: GridResult, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> pl.DataFrame:
    """Test ``a`` against ``b`` in every cell they share.

    Returns:
        step, layer, score_a, score_b, difference (a - b), low, high (pointwise interval), band_low, band_high (all
        cells at once), p (two-sided, of no difference in the cell), p_adjusted (over all cells, by the largest
        deviation), paired.

    Pairs are used where both grids were fitted on the same rows, groups and folds; otherwise the grids are resampled
    independently (they must then not share samples, or the test is conservative or worse). Intervals are made on the
    scale of log odds (of R², of -log(1 - R²)), and exclude 0 where p is less than 1 - ``level``; so do bands, by
    p_adjusted (`probes.difference`).

    Raises:
        ProbeError: different scores, no cell in common, or too few resamples for ``level``.
    """
    if not 0 < level < 1 or resamples < 1:
        raise ProbeError(f"level={level}, resamples={resamples}: need 0 < level < 1 and resamples >= 1.")
    rarer = int((1 - level) * (resamples + 1) + 1e-9)  # so many deviations may be as large before p_adjusted passes
    if rarer < 1:
        raise ProbeError(f"level={level} of resamples={resamples}: a band needs 1 / (1 - level) - 1 of them or more.")
    for side in (a, b):
        if not hasattr(side, "sums"):
            raise ProbeError(
                f"Grids are compared as fit_grid gives them, not by their tables; got {type(side).__name__}."
            )
    if a.spec["score"] != b.spec["score"]:
        raise ProbeError(
            f"One grid is scored by {a.spec['score']}, the other by {b.spec['score']}; fit both with the same score=."
        )
    metric = METRICS[a.spec["score"]]
    keys = (
        a.table.select("step", "layer")
        .join(b.table.select("step", "layer"), on=["step", "layer"])
        .sort("step", "layer")
    )
    if keys.height == 0:
        raise ProbeError(
            f"The grids share no cell: one has steps {a.steps} and layers {a.layers}, the other {b.steps} and "
            f"{b.layers}."
        )
    sums = [np.stack([grid.sums[grid.cell(*key)] for key in keys.iter_rows()]) for grid in (a, b)]
    paired = a.spec["rows"] == b.spec["rows"]
    effects = [np.stack([grid.effects[grid.cell(*key)] for key in keys.iter_rows()]) for grid in (a, b)]
    first = resample(sums[0].shape[1], resamples, seed)
    second = first if paired else resample(sums[1].shape[1], resamples, seed + 1)
    found = Difference.of((sums[0], sums[1]), (effects[0], effects[1]), (first, second), metric, paired=paired)
    largest, away, alone = found.largest(), found.reach(), float(norm.isf((1 - level) / 2))
    low, high = found.bounds(alone)
    band_low, band_high = found.bounds(max(alone, float(np.sort(largest)[-rarer])))
    p = 2 * norm.sf(away)
    return keys.with_columns(
        score_a=pl.Series(metric.from_sums(sums[0].sum(axis=1))),
        score_b=pl.Series(metric.from_sums(sums[1].sum(axis=1))),
        difference=pl.Series(found.score),
        low=pl.Series(low),
        high=pl.Series(high),
        band_low=pl.Series(band_low),
        band_high=pl.Series(band_high),
        p=pl.Series(p),
        p_adjusted=pl.Series(np.maximum(p, (1 + (largest[:, None] >= away).sum(axis=0)) / (1 + resamples))),
        paired=pl.lit(paired),
    )
