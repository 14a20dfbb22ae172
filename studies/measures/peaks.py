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
    names, group = np.unique(groups[known], return_inverse=True)
    if not len(names):
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    sums = np.zeros((len(names), len(places)))
    np.add.at(sums, group, values[known])
    even = np.full(len(names), 1 / len(names))
    drawn = np.random.default_rng(0).multinomial(len(names), even, size=DRAWS) @ sums
    low, high = np.percentile(np.asarray(places)[drawn.argmax(1)], [2.5, 97.5])
    return Estimate(float(places[sums.sum(0).argmax()]), float(low), float(high), len(names))
