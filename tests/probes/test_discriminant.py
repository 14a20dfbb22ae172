"""LDA and difference of means against the textbook formula and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.preprocessing import StandardScaler

from probes import fit_grid
from probes.discriminant import solve_discriminant
from probes.space import blocks
from tests.probes.data import rows


def decisions(x, y, train, alpha, *, classes, whiten=True, equal=False):
    mask = torch.from_numpy(train)[:, None]
    (block,) = blocks(torch.from_numpy(x), mask, kernel=False)
    fitted = solve_discriminant(
        block,
        torch.from_numpy(y)[:, None],
        mask,
        torch.tensor([alpha], dtype=torch.float64),
        classes=classes,
        whiten=whiten,
        equal_priors=equal,
    )
    coef, intercept = fitted.raw(0, 0)
    decision = fitted.decide(0)[:, 0].numpy()
    np.testing.assert_allclose(x @ coef.numpy() + intercept.numpy(), decision, atol=1e-6)
    return decision


def naive(x, y, train, alpha, *, classes, equal):
    """Log posteriors of normals with shared covariance, written out."""
    z = StandardScaler().fit(x[train]).transform(x)
    a, b = z[train], y[train]
    means = np.stack([a[b == k].mean(axis=0) for k in range(classes)])
    within = sum((a[b == k] - means[k]).T @ (a[b == k] - means[k]) for k in range(classes)) / len(a)
    inverse = np.linalg.inv(within + alpha * np.eye(x.shape[1]))
    prior = np.full(classes, 1 / classes) if equal else np.bincount(b) / len(b)
    return z @ inverse @ means.T - 0.5 * np.einsum("kd,de,ke->k", means, inverse, means) + np.log(prior)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("equal", [False, True])
def test_lda_is_the_textbook_formula(classes, equal):
    x, y, _ = rows(200, 9, classes=classes)
    train = np.arange(200) % 4 != 1
    got = decisions(x, y, train, 0.3, classes=classes, equal=equal)
    expected = naive(x, y, train, 0.3, classes=classes, equal=equal)
    if classes == 2:
        np.testing.assert_allclose(got[:, 0], expected[:, 1] - expected[:, 0], atol=1e-8)
    else:
        np.testing.assert_allclose(got - got[:, :1], expected - expected[:, :1], atol=1e-8)


def test_without_shrinkage_it_is_scikit_learns():
    x, y, _ = rows(300, 6, classes=3)
    train = np.ones(300, dtype=bool)
    got = decisions(x, y, train, 1e-12, classes=3)
    model = LinearDiscriminantAnalysis(solver="lsqr").fit(x, y)
    np.testing.assert_array_equal(got.argmax(axis=1), model.predict(x))
    expected = model.decision_function(x)
    np.testing.assert_allclose(got - got[:, :1], expected - expected[:, :1], rtol=1e-6, atol=1e-6)


def test_difference_of_means_puts_the_threshold_midway():
    x, y, _ = rows(120, 5)
    train = np.arange(120) % 3 != 0
    z = StandardScaler().fit(x[train]).transform(x)
    a, b = (z[train][y[train] == k].mean(axis=0) for k in (0, 1))
    expected = (z - (a + b) / 2) @ (b - a)
    got = decisions(x, y, train, 1.0, classes=2, whiten=False, equal=True)
    np.testing.assert_allclose(got[:, 0], expected, atol=1e-9)


def test_a_class_absent_from_training_is_never_predicted():
    x, y, _ = rows(90, 5, classes=3)
    got = decisions(x, y, y != 1, 0.1, classes=3)
    assert (got.argmax(axis=1) != 1).all()


@pytest.mark.parametrize("model", ["lda", "means"])
@pytest.mark.parametrize("classes", [2, 3])
def test_in_a_grid(model, classes):
    x, y, group = rows(240, 6, classes=classes, groups=24, signal=6)
    noise = np.random.default_rng(0).normal(size=x.shape)
    grid = fit_grid({(0, 0): noise, (1, 0): x}, y, groups=group, model=model, shuffles=5, bootstrap=50)
    assert grid.table["score"][0] == pytest.approx(1 / classes, abs=0.12)
    assert grid.table["score"][1] > 1 / classes + 0.15
    assert grid.table["chance"][1] == pytest.approx(1 / classes, abs=0.1)
