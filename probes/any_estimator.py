"""Cells fitted by any scikit-learn estimator: every fold, pair of folds and shuffle on its own.

For controls rather than for speed; rows, folds, shuffles and scores are those of the batched solvers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.utils.validation import has_fit_parameter

from probes.cell_fit import CellFit, Directions, Probe, predict, score_cell
from probes.errors import ProbeError
from probes.plan import Plan


def check_estimator(estimator: Any, weights: bool) -> str:
    """ "classification" or "regression", whichever the estimator does.

    Raises:
        ProbeError: it is neither, or takes no weights where there are some.
    """
    name = type(estimator).__name__
    if isinstance(estimator, type) or not (hasattr(estimator, "fit") and hasattr(estimator, "get_params")):
        raise ProbeError(f"model={estimator!r} is neither a model's name nor a scikit-learn estimator object.")
    if not (is_classifier(estimator) or is_regressor(estimator)):
        raise ProbeError(f"{name} is neither a classifier nor a regressor, so there is nothing to score.")
    if weights and not has_fit_parameter(estimator, "sample_weight"):
        raise ProbeError(f"{name} takes no sample_weight; leave weights= out.")
    return "classification" if is_classifier(estimator) else "regression"


def fit_estimator(
    x: NDArray[np.generic], plan: Plan, *, keep_directions: bool = False, keep_pairs: bool = False
) -> CellFit:
    """Fit and score one cell. ``x`` [row, feature], or [row, token, feature] for an estimator that pools tokens.

    Raises:
        ProbeError: ``keep_directions`` of an estimator that has no coefficients of raw features.
    """
    labels = np.concatenate([plan.y[:, None], plan.shuffled], axis=1)
    labels = labels.astype(np.int64) if plan.classification else labels
    k, classes = plan.folds.k, len(plan.classes)
    decision = np.zeros((len(x), labels.shape[1], plan.outputs))
    kept = []
    for fold in range(k):
        test = plan.folds.fold == fold
        for column in range(labels.shape[1]):
            fitted = _fit(x, labels[:, column], ~test, plan)
            decision[test, column] = _decide(fitted, x[test], plan)
            if keep_directions and column == 0:
                kept.append(_coefficients(fitted, x.shape[-1]))
    paired = np.zeros((k if plan.pairs else 0, k, max(1, classes)))
    apart: dict[tuple[int, int], Probe] = {}
    for a, b in plan.pairs:
        fitted = _fit(x, labels[:, 0], plan.folds.train(a, b), plan)
        if kept and keep_pairs:
            apart[a, b] = apart[b, a] = _coefficients(fitted, x.shape[-1])
        for tested, other in ((a, b), (b, a)):
            test = plan.folds.fold == tested
            found, true = _decide(fitted, x[test], plan), labels[test, 0]
            if classes:
                paired[tested, other] = np.bincount(true[predict(found) == true], minlength=classes)
            else:
                paired[tested, other] = ((found[:, 0] - true) ** 2).sum()
    directions = Directions.of(kept, apart or None) if kept else None
    return score_cell(plan, decision, paired, (float("nan"),) * k, directions=directions)


def _fit(x: NDArray[Any], y: NDArray[Any], train: NDArray[np.bool_], plan: Plan) -> Any:
    weights = {} if plan.weights is None else {"sample_weight": plan.weights[train]}
    return clone(plan.estimator).fit(x[train], y[train], **weights)


def _decide(fitted: Any, x: NDArray[Any], plan: Plan) -> NDArray[np.float64]:
    """Decision values [row, output]; a class that a fold did not hold is never predicted."""
    if not plan.classification:
        return np.asarray(fitted.predict(x), dtype=np.float64).reshape(len(x), 1)
    if hasattr(fitted, "decision_function"):
        found = np.asarray(fitted.decision_function(x), dtype=np.float64)
    else:
        p = np.asarray(fitted.predict_proba(x), dtype=np.float64)
        found = p[:, 1] - 0.5 if plan.outputs == 1 else p
    if plan.outputs == 1:
        return found.reshape(len(x), 1)
    full = np.full((len(x), plan.outputs), -np.inf)
    if found.ndim == 1:
        found = np.stack([-found, found], axis=1)
    full[:, fitted.classes_] = found
    return np.where(np.isfinite(full), full, found.min() - 1e6)


def _coefficients(fitted: Any, features: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[feature, output] and [output]."""
    coef = np.atleast_2d(np.asarray(getattr(fitted, "coef_", np.empty((0, 0))), dtype=np.float64))
    if coef.ndim != 2 or coef.shape[1] != features:
        raise ProbeError(
            f"{type(fitted).__name__} has no coefficients of raw features (coef_): it has no direction, and cannot be "
            "tested in other cells. Leave directions= out."
        )
    return coef.T, np.atleast_1d(np.asarray(fitted.intercept_, dtype=np.float64))
