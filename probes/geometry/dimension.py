"""How many dimensions do the rows fill? A linear count from the covariance, and a local one from nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from probes.errors import ProbeError
from probes.geometry.given import centred, matrix
from probes.geometry.pca import Covariance


def participation_ratio(source: Covariance | Any) -> float:
    """``tr(C)^2 / tr(C^2)`` of the covariance C: d for d equal variances, 1 if one direction has it all.

    Args:
        source: a (streamed) `Covariance`, rows [row, feature], or an iterable of blocks of them. With fewer rows than
            features it is biased low: it cannot exceed rows - 1.
    """
    found = Covariance.of(source).covariance()
    squared = float((found * found).sum())
    if squared == 0:
        raise ProbeError("The rows are all the same, so they fill no dimension.")
    return float(np.trace(found) ** 2 / squared)


@dataclass(frozen=True)
class Dimension:
    """An estimate with its interval under the model's assumptions (which take neighbourhoods as independent), and the
    ``rows`` it rests on."""

    value: float
    low: float
    high: float
    rows: int


def two_nn(x: Any, *, level: float = 0.95) -> Dimension:
    """Intrinsic dimension from the ratio of each row's second to first neighbour distance (TwoNN; Facco et al. 2017).

    Where density hardly changes between those neighbours the ratios are Pareto with the dimension as exponent; the
    estimate is its unbiased maximum-likelihood one, the interval that of the gamma law. Above about 10 dimensions it is
    biased low for any affordable number of rows.

    Args:
        x: [row, feature]; rows that repeat are counted once.
        level: of the interval.
    """
    from scipy.stats import gamma
    from sklearn.neighbors import NearestNeighbors

    if not 0 < level < 1:
        raise ProbeError(f"level={level}: need 0 < level < 1.")
    rows = np.unique(centred(matrix(x))[1].cpu().numpy(), axis=0)
    if len(rows) < 10:
        raise ProbeError(f"A local dimension needs at least 10 different rows; {len(rows)} given.")
    near = NearestNeighbors(n_neighbors=2).fit(rows).kneighbors(return_distance=False)
    # Distances are taken again: those of the search lose their digits where rows lie close together.
    distance = np.sort(np.linalg.norm(rows[:, None] - rows[near], axis=2), axis=1)
    logs = np.log(distance[:, 1] / distance[:, 0])
    n, total = len(rows), float(logs.sum())
    tail = (1 - level) / 2
    if total <= 0:
        raise ProbeError("Every row's two nearest neighbours are equally far: this is a lattice, not a sample.")
    low, high = gamma.ppf([tail, 1 - tail], n) / total
    return Dimension((n - 1) / total, float(low), float(high), n)
