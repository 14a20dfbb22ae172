"""Synthetic rows and the slow, plain way of fitting them."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

RUNS, TOKENS, FEATURES = 30, 8, 6
"""Of `planted` cells."""


def planted(*, onset=3, steps=6, layers=3, first_layer=1, strength=1.2, seed=0):
    """Token-level cells that tell the label from (onset, first_layer) on, their target [run, token] and groups
    [run]."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, size=(RUNS, TOKENS)).astype(float)
    cells = {}
    for s in range(steps):
        for layer in range(layers):
            x = rng.normal(size=(RUNS, TOKENS, FEATURES)).astype(np.float32)
            if s >= onset and layer >= first_layer:
                x[..., 2] += strength * (2 * y - 1)
            cells[s, layer] = x
    y[:, 0] = np.nan
    return cells, y, np.arange(RUNS) // 2


def rows(n: int, d: int, *, classes: int = 2, groups: int = 20, seed: int = 0, signal: float = 1.5):
    """Correlated features [n, d] on uneven scales, class numbers [n] they partly tell, group numbers [n]."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(d, d)) * np.arange(1, d + 1) ** -0.6
    x = rng.normal(size=(n, d)) @ mix.T
    logits = (x / x.std(axis=0)) @ rng.normal(size=(d, classes)) / np.sqrt(d) * signal
    y = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    x = x * np.exp(rng.normal(size=d)) + 5 * rng.normal(size=d)
    return x, y, np.arange(n) % groups


def reference(x, y, train, c, **options):
    """scikit-learn, run to tight tolerance in float64: scaler on the training rows, then LogisticRegression."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=c, tol=1e-10, max_iter=20000, **options))
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # at this tolerance lbfgs stops at the limit of its precision
        return model.fit(x[train].astype(np.float64), y[train])


def ridge_reference(x, y, train, alpha):
    return make_pipeline(StandardScaler(), Ridge(alpha=alpha, solver="svd")).fit(x[train].astype(np.float64), y[train])


def coefficients(model) -> np.ndarray:
    """Coefficients for raw features [output, feature] of a scaler with a linear model after it."""
    scaler, linear = model[0], model[-1]
    return np.atleast_2d(linear.coef_) / scaler.scale_
