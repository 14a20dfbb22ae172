"""Probes of other kinds, as scikit-learn estimators: a linear SVM, and a small network as the non-linear control.

If the network reads a target that linear probes do not, the information is there but not laid out linearly; claims
about *decodable* directions then need care. Both standardise on their training rows and are scikit-learn's own inside.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from probes.estimators.saved import Saved
from probes.estimators.scored import Linear, LogOdds, Scored


class _Scaled(Saved):
    """What both share: checking, classes, and scaling by the training rows."""

    def _start(self, X: Any, y: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        x, target = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(target)
        self.classes_ = np.unique(target)
        if len(self.classes_) < 2:
            raise ValueError(f"A classifier needs at least 2 classes; the data holds 1 class, {self.classes_}.")
        self.mean_ = x.mean(axis=0)
        spread = x.std(axis=0)
        self.scale_ = np.where(spread > 1e-12 * np.abs(x).max(initial=1.0), spread, 1.0)
        return (x - self.mean_) / self.scale_, target

    def _scaled(self, X: Any) -> NDArray[Any]:
        check_is_fitted(self)
        x = validate_data(self, X, dtype=np.float64, reset=False)
        return np.asarray((x - self.mean_) / self.scale_)


class LinearSVM(Linear, Scored, _Scaled):
    """Linear support vector machine (squared hinge), one class against the rest.

    Equal to ``make_pipeline(StandardScaler(), LinearSVC(C=C))``, but ``coef_`` and ``intercept_`` apply to raw
    features.

    Parameters:
        C: inverse regularisation strength.
        class_weight: as in `sklearn.svm.LinearSVC`.
        max_iter: of the solver.

    Once fitted: ``coef_`` [1 or class, feature], ``intercept_`` [1 or class], ``classes_`` [class].
    """

    def __init__(self, C: Any = 1.0, *, class_weight: Any = None, max_iter: Any = 5000) -> None:
        self.C = C
        self.class_weight = class_weight
        self.max_iter = max_iter

    def fit(self, X: Any, y: Any) -> Any:
        """Fit to ``X`` [row, feature] and classes ``y`` [row]."""
        from sklearn.svm import LinearSVC

        x, target = self._start(X, y)
        inner = LinearSVC(C=self.C, class_weight=self.class_weight, max_iter=self.max_iter, dual="auto", random_state=0)
        inner.fit(x, target)
        self.coef_ = inner.coef_ / self.scale_
        self.intercept_ = inner.intercept_ - self.coef_ @ self.mean_
        self.n_iter_ = int(inner.n_iter_)
        return self


class MLPProbe(LogOdds, _Scaled):
    """One hidden layer of rectified units, fitted by L-BFGS: the non-linear control.

    Equal to ``make_pipeline(StandardScaler(), MLPClassifier((hidden,), solver="lbfgs", alpha=alpha))``. The same seed
    gives the same network.

    Parameters:
        hidden: units.
        alpha: L2 penalty.
        max_iter: of the solver; a fit that meets it warns, unless ``early`` says that this is meant.
        early: stopping at ``max_iter`` is regularisation.
        seed: of the initial weights.

    Once fitted: ``w0_`` [feature, hidden], ``b0_`` [hidden], ``w1_`` [hidden, output] and ``b1_`` [output], for
    standardised features.
    """

    def __init__(
        self, hidden: Any = 32, *, alpha: Any = 1.0, max_iter: Any = 200, early: Any = True, seed: Any = 0
    ) -> None:
        self.hidden = hidden
        self.alpha = alpha
        self.max_iter = max_iter
        self.early = early
        self.seed = seed

    def fit(self, X: Any, y: Any) -> Any:
        """Fit to ``X`` [row, feature] and classes ``y`` [row]."""
        from sklearn.neural_network import MLPClassifier

        x, target = self._start(X, y)
        inner = MLPClassifier(
            (self.hidden,), solver="lbfgs", alpha=self.alpha, max_iter=self.max_iter, random_state=self.seed
        )
        with warnings.catch_warnings():
            if self.early:
                warnings.simplefilter("ignore", ConvergenceWarning)
            inner.fit(x, target)
        (self.w0_, self.w1_), (self.b0_, self.b1_) = inner.coefs_, inner.intercepts_
        self.n_iter_ = int(inner.n_iter_)
        return self

    def decision_function(self, X: Any) -> NDArray[Any]:
        """Log odds [row], or one score a class [row, class]."""
        hidden = np.maximum(self._scaled(X) @ self.w0_ + self.b0_, 0)
        out = hidden @ self.w1_ + self.b1_
        return out[:, 0] if len(self.classes_) == 2 else out
