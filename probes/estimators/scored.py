"""From features to scores, classes and probabilities: the same for every probe that has such."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax
from sklearn.base import ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data


class Scored(ClassifierMixin, ABC):
    """A classifier that chooses by its decision function: the sign of one score, or the largest of several."""

    classes_: NDArray[Any]

    @abstractmethod
    def decision_function(self, X: Any) -> NDArray[Any]:
        """Scores [row], or one a class [row, class]."""

    def predict(self, X: Any) -> NDArray[Any]:
        """The class of the highest score [row]."""
        decision = self.decision_function(X)
        index = (decision > 0).astype(int) if decision.ndim == 1 else decision.argmax(axis=1)
        return np.asarray(self.classes_[index])


class LogOdds(Scored):
    """Scores that are log odds, so that they are probabilities too."""

    def predict_proba(self, X: Any) -> NDArray[Any]:
        """Class probabilities [row, class]."""
        decision = self.decision_function(X)
        if decision.ndim == 1:
            p = expit(decision)
            return np.stack([1 - p, p], axis=1)
        return np.asarray(softmax(decision, axis=1))


class Linear:
    """Scores that are linear in raw features: ``coef_`` [1 or class, feature] and ``intercept_`` [1 or class]."""

    classes_: NDArray[Any]
    coef_: NDArray[Any]
    intercept_: NDArray[Any]

    def decision_function(self, X: Any) -> NDArray[Any]:
        """Scores [row] of the second class against the first, or one a class [row, class]."""
        check_is_fitted(self)
        x = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        out = x @ self.coef_.T + self.intercept_
        return np.asarray(out[:, 0] if len(self.classes_) == 2 else out)
