"""A grid of any scikit-learn classifier: the same rows, folds, shuffles, chance levels and tables as `probes.fit_grid`.

For controls rather than for speed: every fold and every shuffle is fitted on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from probes.cell import CellFit, predict
from probes.errors import ProbeError
from probes.grid import _assemble
from probes.plan import Plan
from probes.prepare import prepare
from probes.result import GridResult
from probes.score import auc, class_sums, resample, shuffled_scores
from probes.source import Key, Source


def fit_estimator_grid(
    estimator: Any,
    source: Any,
    target: Any,
    *,
    shuffles: int = 5,
    bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    progress: Callable[[Iterable[Key]], Iterable[Key]] | None = None,
    **options: Any,
) -> GridResult:
    """Fit, cross-validate and score a classifier in every cell.

    Args:
        estimator: a scikit-learn classifier such as `probes.LinearSVM`, `probes.MLPProbe` or a pipeline; it is cloned.
            One with an attribute ``tokens`` that is true (`probes.AttentionProbe`) is given [sample, token, feature].
        source, target, progress: as in `probes.fit_grid`.
        shuffles: label shuffles behind the chance level; each costs as much as the real labels.
        bootstrap, level: resamples of groups, and level of all intervals.
        seed: of folds, shuffles and the bootstrap.
        options: as in `probes.fit_grid`: groups, site, steps, layers, branch, pool, folds, score, max_rows ...

    Raises:
        LeakageError: a group would lie on both sides of a split.
        ProbeError: the target is not one of classes, or cells are not [run, token, feature] for a probe of tokens.
    """
    tokens = bool(getattr(estimator, "tokens", False))
    if tokens and options.get("pool") is not None:
        raise ProbeError(f"{type(estimator).__name__} pools tokens itself; leave pool= out.")
    data, plan = prepare(
        source,
        target,
        model="logistic",
        path=1.0,
        shuffles=shuffles,
        seed=seed,
        dtype="float64",
        **{**options, "standardise": False},
    )
    fits = {}
    for key in progress(data.keys) if progress else data.keys:
        fits[key] = _fit_cell(estimator, _features(data, key, tokens), plan)
    draws = resample(plan.folds.groups, bootstrap, seed + 2)
    result = _assemble(data, plan, fits, {}, draws, level, bootstrap, seed)
    spec = {**result.spec, "model": type(estimator).__name__, "params": _plain(estimator), "path": []}
    return GridResult(
        result.table.drop("regularisation"), result.baselines, result.sums, result.null, spec, result.coef
    )


def _features(data: Source, key: Key, tokens: bool) -> NDArray[np.float64]:
    """[row, feature] of the kept rows, or [row, token, feature]."""
    if not tokens:
        return data.matrix(key).numpy().astype(np.float64)
    value = np.asarray(data.read(key), dtype=np.float64)
    if data.tokens is not None or value.ndim != 3 or len(value) != len(data.keep):
        raise ProbeError(
            f"step {key[0]}, layer {key[1]}: a probe that pools tokens needs one target a run and features "
            f"[run, token, feature]; got {value.shape}"
        )
    return np.asarray(value[data.keep])


def _fit_cell(estimator: Any, x: NDArray[np.float64], plan: Plan) -> CellFit:
    labels = np.concatenate([plan.y[:, None], plan.shuffled], axis=1).astype(np.int64)
    decision = np.zeros((len(x), labels.shape[1], plan.outputs))
    for fold in range(plan.folds.k):
        test = plan.folds.fold == fold
        for column in range(labels.shape[1]):
            fitted = clone(estimator).fit(x[~test], labels[~test, column])
            decision[test, column] = _decision(fitted, x[test], plan.outputs)
    predicted = predict(decision)
    classes, real = len(plan.classes), labels[:, 0]
    null = shuffled_scores(predicted[:, 1:].astype(np.float64), plan.shuffled, plan.score, classes)
    return CellFit(
        class_sums(predicted[:, 0], real, plan.folds.group, classes),
        null,
        auc(decision[:, 0], real, plan.folds.fold, classes),
        decision[:, 0].astype(np.float32),
        (float("nan"),) * plan.folds.k,
        0,
    )


def _decision(fitted: Any, x: NDArray[np.float64], outputs: int) -> NDArray[np.float64]:
    """Decision values [row, output]; a class that a fold did not hold is never predicted."""
    if hasattr(fitted, "decision_function"):
        found = np.asarray(fitted.decision_function(x), dtype=np.float64)
    else:
        p = np.asarray(fitted.predict_proba(x), dtype=np.float64)
        found = p[:, 1] - 0.5 if outputs == 1 else p
    if outputs == 1:
        return found.reshape(len(x), 1)
    full = np.full((len(x), outputs), -np.inf)
    if found.ndim == 1:
        found = np.stack([-found, found], axis=1)
    full[:, fitted.classes_] = found
    return np.where(np.isfinite(full), full, found.min() - 1e6)


def _plain(estimator: Any) -> dict[str, Any]:
    return {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in estimator.get_params().items()}
