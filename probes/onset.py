"""When does the answer become decodable, and how sure is that?

Rule: the onset along an axis is the first place from which on, to the end of the axis, the lower end of the cell's
interval lies above the upper quantile of its chance level. "To the end" keeps a lucky cell from counting; two one-sided
margins (the score's and chance's) make a false onset rarer than the stated level in each cell. Its interval is by
bootstrap over groups: the same rule on resampled scores, each lowered by the cell's own margin. The resamples are
shared by all cells.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def first_sustained(above: NDArray[np.bool_]) -> Floats:
    """Index [...] of the first place from which ``above`` [..., place] stays true to the end; inf if it does not at the
    end.

    >>> first_sustained(np.array([[False, True, False, True, True], [True, True, True, True, False]]))
    array([ 3., inf])
    """
    stays = np.flip(np.logical_and.accumulate(np.flip(above, axis=-1), axis=-1), axis=-1)
    first = stays.argmax(axis=-1).astype(np.float64)
    return np.where(stays.any(axis=-1), first, np.inf)


def onset_interval(draws: Floats, level: float) -> tuple[Floats, Floats]:
    """Lower and upper end [...] of onsets [resample, ...]; inf means "not within the axis"."""
    tail = (1 - level) / 2
    ordered = np.sort(draws, axis=0)
    count = len(ordered)
    low = ordered[max(0, int(np.ceil(tail * count)) - 1)]
    high = ordered[min(count - 1, int(np.ceil((1 - tail) * count)) - 1)]
    return low, high
