"""Where something is largest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from studies.base.claim import Estimate

DRAWS = 2000


def where_largest(values: np.ndarray, groups: np.ndarray, places: Sequence[float]) -> Estimate:
    """The place at which the mean over runs is largest, with a 95 % bootstrap interval over groups.

    Args:
        values: [run, place]; runs with one that is not finite do not count.
        groups: of the runs, drawn together: [run].
        places: on whatever scale the answer is wanted: [place].
    """
    known = np.isfinite(values).all(1)
    if not known.any():
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    peak, drawn = _peaks(values[known], groups[known])
    scale = np.asarray(places)
    low, high = np.percentile(scale[drawn], [2.5, 97.5])
    return Estimate(float(scale[peak]), float(low), float(high), len(set(groups[known])))


def shift_of_largest(values: np.ndarray, others: np.ndarray, groups: np.ndarray, places: Sequence[float]) -> Estimate:
    """How far the place of the largest mean is from one measurement of some runs to another.

    Args:
        values, others: [run, place] of the same runs, in the same order.
        groups, places: see `where_largest`; the same groups are drawn for both.
    """
    known = np.isfinite(values).all(1) & np.isfinite(others).all(1)
    if not known.any():
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    (one, drawn), (other, theirs) = (_peaks(of[known], groups[known]) for of in (values, others))
    scale = np.asarray(places)
    low, high = np.percentile(scale[theirs] - scale[drawn], [2.5, 97.5])
    return Estimate(float(scale[other] - scale[one]), float(low), float(high), len(set(groups[known])))


def _peaks(values: np.ndarray, groups: np.ndarray) -> tuple[int, np.ndarray]:
    """Number of the place with the largest mean, and the same in each draw of groups: [draw]."""
    names, group = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, group, values)
    even = np.full(len(names), 1 / len(names))
    drawn = np.random.default_rng(0).multinomial(len(names), even, size=DRAWS) @ sums
    return int(sums.sum(0).argmax()), drawn.argmax(1)
