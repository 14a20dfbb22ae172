"""Intervals of shares, and of means over rows that come in groups."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Z95 = 1.959963984540054


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
    values: np.ndarray, groups: np.ndarray, *, draws: int = 2000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over rows with a 95 % percentile bootstrap that draws whole groups.

    Args:
        values: [row, column]; rows with NaN do not count in that column.
        groups: [row], what is drawn together.
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
    weights = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=draws)
    with np.errstate(invalid="ignore"):
        drawn = (weights @ sums) / (weights @ counts)
        mean = sums.sum(0) / counts.sum(0)
    low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=0)
    return mean, low, high
