"""What fitting a cell gives: sums behind its score, null scores, decisions out of fold, the probes if they are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probes.plan import Plan
from probes.score import auc, class_sums, fold_effects, shuffled_scores, value_sums

Probe = tuple[NDArray[Any], NDArray[Any]]
"""Coefficients [feature, output] and intercepts [output]."""


@dataclass(frozen=True)
class Directions:
    """The probes of a cell, for raw features: ``coef`` [fold, feature, output], ``intercept`` [fold, output].

    ``paired``, where kept: those that leave out two folds, ``coef`` [fold, fold, feature, output], at the
    regularisation that the first of the two chose; on the diagonal, those that leave out one.
    """

    coef: NDArray[np.float32]
    intercept: NDArray[np.float64]
    paired: Directions | None = None

    @staticmethod
    def of(own: Sequence[Probe], apart: Mapping[tuple[int, int], Probe] | None = None) -> Directions:
        """From the probe of each fold and, if they are kept, of each pair (tested, left out besides)."""
        if apart is None:
            return Directions(*_stack(own))
        k = len(own)
        coef, intercept = _stack([own[a] if a == b else apart[a, b] for a in range(k) for b in range(k)])
        return Directions(*_stack(own), Directions(coef.reshape(k, k, *coef.shape[1:]), intercept.reshape(k, k, -1)))


def _stack(probes: Sequence[Probe]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    coef, intercept = (np.stack(part) for part in zip(*probes, strict=True))
    return coef.astype(np.float32), intercept.astype(np.float64)


@dataclass(frozen=True)
class CellFit:
    """One cell.

    Attributes:
        sums: [group, statistic] behind the score.
        effects: [fold, fold]; see `probes.score.fold_effects`.
        null: [shuffle] scores.
        auc: area under the ROC curve within folds; NaN for values.
        decision: [row, output] out of fold.
        chosen: [fold] regularisation values.
        unconverged: number of fits that met the iteration limit.
        directions: the probes, if they were kept.
    """

    sums: NDArray[np.float64]
    effects: NDArray[np.float64]
    null: NDArray[np.float64]
    auc: float
    decision: NDArray[np.float32]
    chosen: tuple[float, ...]
    unconverged: int = 0
    directions: Directions | None = None


def score_cell(
    plan: Plan,
    decision: NDArray[np.float64],
    paired: NDArray[np.float64],
    chosen: tuple[float, ...],
    unconverged: int = 0,
    directions: Directions | None = None,
) -> CellFit:
    """Score out-of-fold decisions.

    Args:
        decision: [row, label, output]; label 0 is the real labelling.
        paired: [fold, fold, statistic], as in `probes.score.fold_effects`.
        chosen, unconverged, directions: kept as they are.
    """
    if plan.classification:
        predicted, labels, classes = predict(decision), plan.y.astype(np.int64), len(plan.classes)
        sums, by_fold = (class_sums(predicted[:, 0], labels, at, classes) for at in (plan.folds.group, plan.folds.fold))
        area = auc(decision[:, 0], labels, plan.folds.fold, classes)
        null = shuffled_scores(predicted[:, 1:].astype(np.float64), plan.shuffled, plan.score, classes)
    else:
        sums, by_fold = (value_sums(decision[:, 0, 0], plan.y, at) for at in (plan.folds.group, plan.folds.fold))
        area = float("nan")
        null = shuffled_scores(decision[:, 1:, 0], plan.shuffled, plan.score, 0)
    effects = fold_effects(by_fold, paired, plan.score)
    return CellFit(sums, effects, null, area, decision[:, 0].astype(np.float32), chosen, unconverged, directions)


def predict(decision: NDArray[np.float64]) -> NDArray[np.int64]:
    """Class numbers [...] from decision values [..., output]."""
    if decision.shape[-1] == 1:
        return (decision[..., 0] > 0).astype(np.int64)
    return np.asarray(decision.argmax(axis=-1), dtype=np.int64)
