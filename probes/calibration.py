"""Do probabilities mean what they say? Reliability of out-of-fold probabilities, with an interval over groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from probes.errors import ProbeError
from probes.folds import group_keys
from probes.score import resample

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """``ece``: expected calibration error, the mean distance between confidence and share right, with its interval
    ``low``, ``high``; ``table`` per bin of confidence: confidence, right (share), rows."""

    ece: float
    low: float
    high: float
    table: pl.DataFrame


def calibration(
    probability: Any,
    target: Any,
    *,
    groups: Any,
    bins: int = 10,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Calibration:
    """Reliability of probabilities given to rows that were left out (Guo et al. 2017, bins of equal width).

    Args:
        probability: [row] of the second class, or [row, class].
        target: class numbers [row], from 0.
        groups: key(s) per row; groups are resampled whole. The error is never below 0, so its resamples lie higher
            than itself; the interval is the basic one, which turns them about the estimate.

    Raises:
        ProbeError: shapes that do not fit, numbers that are no probabilities, or a single group.
    """
    p, y = np.asarray(probability, dtype=np.float64), np.asarray(target)
    p = np.stack([1 - p, p], axis=1) if p.ndim == 1 else p
    if p.ndim != 2 or y.shape != (len(p),) or y.dtype.kind not in "iub":
        raise ProbeError(f"Need probabilities [row] or [row, class] and class numbers [row]; got {p.shape}, {y.shape}.")
    if not ((p >= 0) & (p <= 1)).all() or not np.allclose(p.sum(axis=1), 1, atol=1e-4):
        raise ProbeError("Probabilities must lie in 0..1 and add up to 1 in every row.")
    if y.size and not (y.min() >= 0 and y.max() < p.shape[1]):
        raise ProbeError(
            f"Class numbers go from 0 to {p.shape[1] - 1}, a probability each; got {y.min()} to {y.max()}. Number them "
            "in sorted order: np.unique(target, return_inverse=True)[1]."
        )
    if bins < 1 or resamples < 1 or not 0 < level < 1:
        raise ProbeError(f"bins={bins}, resamples={resamples}, level={level}: need 1 or more, and 0 < level < 1.")
    confidence, right = p.max(axis=1), (p.argmax(axis=1) == y).astype(np.float64)
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    group = group_keys(groups, len(y))
    cell = group * bins + place
    count = int(group.max()) + 1
    if count < 2:
        raise ProbeError("All rows are of one group, so nothing shows how far off the error may be. Give more groups.")
    parts = [np.bincount(cell, weights=w, minlength=count * bins) for w in (np.ones_like(right), confidence, right)]
    sums = np.stack([part.reshape(count, bins) for part in parts], axis=2)  # [group, bin, rows | confidence | right]
    draws = _error((resample(count, resamples, seed) @ sums.reshape(count, -1)).reshape(resamples, bins, 3))
    whole = sums.sum(axis=0)
    ece = float(_error(whole[None])[0])
    tail = (1 - level) / 2
    low, high = 2 * ece - np.quantile(draws, [1 - tail, tail])
    used = whole[:, 0] > 0
    rows = whole[used]
    table = pl.DataFrame(
        {"confidence": rows[:, 1] / rows[:, 0], "right": rows[:, 2] / rows[:, 0], "rows": rows[:, 0].astype(np.int64)}
    )
    return Calibration(ece, max(0.0, float(low)), max(ece, float(high)), table)


def _error(sums: Floats) -> Floats:
    """Expected calibration error [resample] of sums [resample, bin, rows | confidence | right]."""
    return np.asarray(np.abs(sums[..., 1] - sums[..., 2]).sum(axis=1) / sums[..., 0].sum(axis=1))
