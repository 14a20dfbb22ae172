"""Linear discriminants as scikit-learn estimators: LDA with shrinkage, and the difference of class means."""

from __future__ import annotations

from typing import Any

import torch

from probes.discriminant import solve_discriminant
from probes.estimators.given import classes, features
from probes.estimators.saved import Saved
from probes.estimators.scored import Linear, LogOdds, Scored
from probes.space import blocks


def _fit(probe: Any, X: Any, y: Any, sample_weight: Any, *, alpha: float, whiten: bool, equal_priors: bool) -> Any:
    x, code, weights = classes(probe, X, y, sample_weight)
    train = torch.ones(len(x), 1, dtype=torch.bool)
    (block,) = blocks(
        features(x), train, standardise=probe.standardise, weights=weights, kernel=None if whiten else False
    )
    fitted = solve_discriminant(
        block,
        torch.from_numpy(code)[:, None],
        train,
        torch.tensor([float(alpha)], dtype=torch.float64),
        classes=len(probe.classes_),
        whiten=whiten,
        equal_priors=equal_priors,
        weights=weights,
    )
    coef, intercept = fitted.raw(0, 0)
    probe.coef_, probe.intercept_ = coef.T.numpy().copy(), intercept.numpy().copy()
    return probe


class LDAProbe(Linear, LogOdds, Saved):
    """Linear discriminant analysis, binary or multinomial, with standardisation inside.

    Scores are log posteriors of normals with a common covariance: that within classes, plus ``alpha`` times the
    identity. With ``standardise=False`` and alpha towards 0 they are those of scikit-learn's
    ``LinearDiscriminantAnalysis``.

    Parameters:
        alpha: shrinkage, in units of the variance of a standardised feature; above 0.
        equal_priors: classes count as equally frequent; else as frequent as in the data.
        standardise: scale features to unit variance on the training rows.

    Once fitted: ``coef_`` [1 or class, feature] and ``intercept_`` [1 or class] for raw features, ``classes_`` [class].
    """

    def __init__(self, alpha: Any = 0.1, *, equal_priors: Any = False, standardise: Any = True) -> None:
        self.alpha = alpha
        self.equal_priors = equal_priors
        self.standardise = standardise

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Fit to ``X`` [row, feature] and classes ``y`` [row]."""
        if not self.alpha > 0:
            raise ValueError(f"alpha must be positive; got {self.alpha}")
        priors = bool(self.equal_priors)
        return _fit(self, X, y, sample_weight, alpha=self.alpha, whiten=True, equal_priors=priors)


class MeansProbe(Linear, Scored, Saved):
    """Difference of class means: a row belongs to the class whose mean is nearest. Nothing to choose.

    ``coef_[0]`` of two classes is the difference of their means, each feature over its variance
    (``standardise=False``: the difference itself), and the threshold lies midway between them.

    Parameters:
        standardise: scale features to unit variance on the training rows.

    Once fitted: ``coef_`` [1 or class, feature] and ``intercept_`` [1 or class] for raw features, ``classes_`` [class].
    """

    def __init__(self, *, standardise: Any = True) -> None:
        self.standardise = standardise

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Fit to ``X`` [row, feature] and classes ``y`` [row]."""
        return _fit(self, X, y, sample_weight, alpha=1.0, whiten=False, equal_priors=True)
