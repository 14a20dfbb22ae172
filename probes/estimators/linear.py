"""The batched solvers as scikit-learn estimators: for one fit, a pipeline, or a direction to steer with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from probes.estimators.given import classes, features, weighted
from probes.estimators.saved import Saved
from probes.estimators.scored import Linear, LogOdds
from probes.logistic import Columns, solve_logistic
from probes.ridge import solve_ridge
from probes.space import blocks


class LogisticProbe(Linear, LogOdds, Saved):
    """Logistic regression, binary or multinomial, with standardisation inside.

    Equal to ``make_pipeline(StandardScaler(), LogisticRegression(C=C))`` (or without the scaler), but ``coef_`` and
    ``intercept_`` apply to raw features, so that ``coef_[0]`` is a direction in activation space.

    Parameters:
        C: inverse regularisation strength.
        class_weight: "balanced" (counts of rows, or of their weights), a weight by class, or None.
        standardise: scale features to unit variance on the training rows.
        tol, max_iter: of the solver (`probes.logistic`).

    Once fitted: ``coef_`` [1 or class, feature], ``intercept_`` [1 or class], ``classes_`` [class].
    """

    def __init__(
        self,
        C: Any = 1.0,
        *,
        class_weight: Any = None,
        standardise: Any = True,
        tol: Any = 1e-6,
        max_iter: Any = 500,
    ) -> None:
        self.C = C
        self.class_weight = class_weight
        self.standardise = standardise
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Fit to ``X`` [row, feature] and classes ``y`` [row]."""
        if self.C <= 0:
            raise ValueError(f"C must be positive; got {self.C}")
        if self.class_weight not in (None, "balanced") and not isinstance(self.class_weight, dict):
            raise ValueError(f"class_weight must be None, 'balanced' or weights by class; got {self.class_weight!r}")
        x, code, weights = classes(self, X, y, sample_weight)
        count = len(self.classes_)
        balancing = None
        if self.class_weight is not None:
            by_row = np.ones(len(x)) if weights is None else weights.numpy()
            if isinstance(self.class_weight, dict):
                for name in set(self.class_weight) - set(self.classes_.tolist()):
                    raise ValueError(f"class_weight names {name!r}; the classes are {self.classes_.tolist()}")
                factor = np.array([float(self.class_weight.get(c, 1.0)) for c in self.classes_])
            else:
                factor = by_row.sum() / (count * np.bincount(code, weights=by_row))
            balancing = torch.from_numpy(factor)[None, None]
        labels = torch.from_numpy(code)[:, None]
        train = torch.ones(len(x), 1, dtype=torch.bool)
        (block,) = blocks(features(x), train, standardise=self.standardise, weights=weights, dual=True)
        zero = torch.zeros(1, dtype=torch.int64)
        (fitted,) = solve_logistic(
            [block],
            labels,
            train,
            [Columns(zero, zero, torch.tensor([self.C], dtype=block.x.dtype))],
            classes=count,
            weights=weights,
            class_weights=balancing,
            tol=self.tol,
            max_iter=self.max_iter,
        )
        if not bool(fitted.converged.all()):
            import warnings

            from sklearn.exceptions import ConvergenceWarning

            warnings.warn(
                f"The fit met max_iter={self.max_iter} before it had converged.", ConvergenceWarning, stacklevel=2
            )
        coef, intercept = block.raw(fitted.coef[:, 0], fitted.intercept[0])
        self.coef_, self.intercept_ = coef.T.numpy().copy(), intercept.numpy()
        self.n_iter_ = fitted.iterations
        return self


class RidgeProbe(RegressorMixin, Saved):
    """Ridge regression with standardisation inside; ``coef_`` applies to raw features.

    Equal to ``make_pipeline(StandardScaler(), Ridge(alpha=alpha))``, or without the scaler.

    Once fitted: ``coef_`` [feature], or [target, feature] for several targets; ``intercept_``, a number, or [target].
    """

    def __init__(self, alpha: Any = 1.0, *, standardise: Any = True) -> None:
        self.alpha = alpha
        self.standardise = standardise

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Fit to ``X`` [row, feature] and values ``y`` [row] or [row, target]."""
        if self.alpha < 0:
            raise ValueError(f"alpha must not be negative; got {self.alpha}")
        x, target = validate_data(self, X, y, dtype=[np.float64, np.float32], multi_output=True, y_numeric=True)
        x, target, weights = weighted(x, target, sample_weight)
        values = torch.from_numpy(np.ascontiguousarray(target, dtype=np.float64).reshape(len(x), -1))
        train = torch.ones(len(x), 1, dtype=torch.bool)
        (block,) = blocks(features(x), train, standardise=self.standardise, weights=weights, dual=True)
        mean = values.mean(dim=0)
        fitted = solve_ridge(block, values - mean, train, torch.tensor([float(self.alpha)]), weights=weights)
        coef, intercept = fitted.raw(0, 0)
        intercept = intercept + mean.to(block.x.dtype)
        single = target.ndim == 1
        self.coef_ = coef[:, 0].numpy().copy() if single else coef.T.numpy().copy()
        self.intercept_ = float(intercept[0]) if single else intercept.numpy()
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Values [row], or [row, target]."""
        check_is_fitted(self)
        x = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return np.asarray(x @ self.coef_.T + self.intercept_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
