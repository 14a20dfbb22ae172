"""The batched solvers against scikit-learn, one fit at a time and run to tight tolerance."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from probes import fit_grid
from probes.by_set import BySet
from probes.features import Features
from probes.kernels import Kernels, LeftOut, Newton
from probes.logistic import Columns, balance, solve_logistic
from probes.ridge import solve_ridge
from probes.space import blocks
from tests.probes.data import coefficients, reference, ridge_reference, rows

PATH = (0.003, 0.1, 3.0)


def masks(n: int, k: int = 5) -> np.ndarray:
    """Training rows [row, fold] of k folds."""
    return np.stack([np.arange(n) % k != f for f in range(k)], axis=1)


def fit_all(x, y, train, *, dtype=torch.float32, kernel=None, weights=None, balanced=False, standardise=True, tol=1e-5):
    """Every (fold, C): decisions on all rows, coefficients for raw features, as dictionaries."""
    mask, labels = torch.from_numpy(train), torch.from_numpy(np.asarray(y, dtype=np.int64))[:, None]
    classes = int(y.max()) + 1
    decision, coef = {}, {}
    for block in blocks(torch.from_numpy(x).to(dtype), mask, kernel=kernel, standardise=standardise, dual=True):
        todo = [(s, c) for s in block.sets for c in PATH]
        columns = Columns(
            torch.tensor([s for s, _ in todo]),
            torch.zeros(len(todo), dtype=torch.int64),
            torch.tensor([c for _, c in todo], dtype=dtype),
        )
        (fitted,) = solve_logistic(
            [block],
            labels,
            mask,
            [columns],
            classes=classes,
            tol=tol,
            weights=weights,
            class_weights=balance(labels, mask, classes) if balanced else None,
        )
        assert fitted.converged.all()
        for j, key in enumerate(todo):
            decision[key] = fitted.decision[:, j].numpy()
            coef[key] = block.raw(fitted.coef[:, j], fitted.intercept[j], of=key[0])[0].numpy().T
    return decision, coef


@pytest.mark.parametrize(
    ("n", "d", "classes"),
    [(600, 24, 2), (600, 24, 4), (150, 60, 2), (60, 200, 2), (60, 200, 3), (40, 48, 2)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_folds_and_coefficients_agree_with_scikit_learn(n, d, classes, dtype):
    x, y, _ = rows(n, d, classes=classes)
    train = masks(n)
    decision, coef = fit_all(x, y, train, dtype=dtype)
    differ = 0
    for (f, c), values in decision.items():
        model = reference(x, y, train[:, f], c)
        predicted = (values[:, 0] > 0).astype(int) if classes == 2 else values.argmax(axis=1)
        differ += int((predicted != model.predict(x)).sum())
        expected = coefficients(model)
        scale = model[0].scale_
        error = np.linalg.norm((coef[f, c] - expected) * scale) / np.linalg.norm(expected * scale)
        assert error < 1e-3, (f, c, error)
    assert differ <= 2e-4 * n * len(decision)


def test_kernel_form_equals_plain_form():
    x, y, _ = rows(50, 64)
    plain, _ = fit_all(x, y, masks(50), dtype=torch.float64, kernel=False, tol=1e-6)
    kernel, _ = fit_all(x, y, masks(50), dtype=torch.float64, kernel=True, tol=1e-6)
    for key, value in plain.items():
        np.testing.assert_allclose(kernel[key], value, atol=1e-3)


@pytest.mark.parametrize(("balanced", "weighted"), [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("classes", [2, 3])
def test_weights_are_those_of_scikit_learn(balanced, weighted, classes):
    x, y, _ = rows(300, 12, classes=classes)
    keep = (y != 0) | (np.arange(300) % 4 == 0)
    x, y = x[keep], y[keep]
    train = masks(len(y))
    weights = np.random.default_rng(1).uniform(0.2, 3, size=len(y)) if weighted else np.ones(len(y))
    _, coef = fit_all(x, y, train, balanced=balanced, weights=torch.from_numpy(weights))
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    for (f, c), got in coef.items():
        rows_ = train[:, f]
        scaler = StandardScaler().fit(x[rows_])
        # Balancing counts rows, as "balanced" does without sample weights.
        count = np.bincount(y[rows_])
        factor = rows_.sum() / (classes * count[y[rows_]]) if balanced else 1.0
        linear = LogisticRegression(C=c, tol=1e-10, max_iter=20000)
        linear.fit(scaler.transform(x[rows_]), y[rows_], sample_weight=weights[rows_] * factor)
        np.testing.assert_allclose(got * scaler.scale_, linear.coef_, atol=2e-3 * np.abs(linear.coef_).max())


def test_constant_and_collinear_features():
    x, y, _ = rows(200, 10)
    x[:, 3] = 7.25  # constant everywhere
    x[:, 4] = np.where(np.arange(200) % 5 == 0, x[:, 4], -2.0)  # constant wherever fold 0 is left out
    x[:, 5] = x[:, 6]  # the same feature twice
    x[:, 7] = x[:, 8] + x[:, 9]
    train = masks(200)
    _, coef = fit_all(x, y, train)
    for (f, c), got in coef.items():
        expected = coefficients(reference(x, y, train[:, f], c))
        assert got[0, 3] == 0
        np.testing.assert_allclose(got[0, 5], got[0, 6], rtol=1e-3, atol=1e-5)
        scale = x.std(axis=0)
        np.testing.assert_allclose(got * scale, expected * scale, atol=1e-3 * np.abs(expected * scale).max())
    assert coef[0, PATH[0]][0, 4] == pytest.approx(0, abs=1e-6)


def test_duplicate_rows_in_the_kernel_form():
    x, y, _ = rows(60, 150)
    x, y = np.concatenate([x, x[:20]]), np.concatenate([y, y[:20]])
    train = masks(80, 4)
    decision, _ = fit_all(x, y, train, kernel=True)
    for (f, c), values in decision.items():
        expected = reference(x, y, train[:, f], c).decision_function(x)
        np.testing.assert_allclose(values[:, 0], expected, atol=5e-3 * np.abs(expected).max())


@pytest.mark.parametrize("where", ["one fold", "everywhere"])
def test_massive_activations_do_not_end_a_fit_early(where):
    # A few rows a thousand times larger than the rest, in a few features: sinks.
    x, y, _ = rows(300, 12)
    sinks = np.arange(0, 300, 25) if where == "one fold" else np.arange(0, 300, 23)
    x[np.ix_(sinks, [2, 7])] *= 1e3
    train = masks(300)
    decision, _ = fit_all(x, y, train)
    for (f, c), values in decision.items():
        expected = reference(x, y, train[:, f], c).decision_function(x)
        ordinary = np.setdiff1d(np.arange(300), sinks)
        np.testing.assert_allclose(
            values[ordinary, 0], expected[ordinary], atol=5e-3 * np.abs(expected[ordinary]).max()
        )


def test_a_training_set_of_one_class_gives_the_constant_probe():
    x, y, _ = rows(40, 5)
    train = np.stack([y == 1, np.ones(40, dtype=bool)], axis=1)
    decision, coef = fit_all(x, y, train)
    assert (decision[0, PATH[0]] > 0).all()
    assert not coef[0, PATH[0]].any()
    assert (decision[1, PATH[0]] > 0).any()


def test_a_class_missing_from_training_is_never_predicted():
    x, y, _ = rows(120, 6, classes=3)
    train = np.stack([y != 2, np.ones(120, dtype=bool)], axis=1)
    decision, coef = fit_all(x, y, train)
    assert (decision[0, PATH[1]].argmax(axis=1) != 2).all()
    two = reference(x, y, train[:, 0], PATH[1])  # binary: the difference of the two softmax rows, at half the penalty
    assert np.mean((decision[0, PATH[1]].argmax(axis=1) == two.predict(x))[train[:, 0]]) > 0.95
    assert not coef[0, PATH[1]][2].any()


@pytest.mark.parametrize(
    ("n", "d", "sums", "at_once"), [(200, 15, True, 9), (200, 15, True, 1), (200, 15, False, 9), (40, 90, True, 9)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ridge_agrees_with_scikit_learn(n, d, sums, at_once, dtype, monkeypatch):
    monkeypatch.setattr("probes.ridge.GRAM_VALUES", at_once * d * d)  # training sets solved at once
    x, _, _ = rows(n, d)
    x *= np.logspace(-4, 4, d)  # sums leave features on their own scales
    rng = np.random.default_rng(3)
    y = np.stack([x[:, 0] / x[:, 0].std() + rng.normal(size=n), rng.normal(size=n)], axis=1)
    train = masks(n)
    alphas = (0.5, 20.0, 800.0)
    for block in blocks(torch.from_numpy(x).to(dtype), torch.from_numpy(train), dual=True, sums=sums):
        fitted = solve_ridge(block, torch.from_numpy(y), torch.from_numpy(train), torch.tensor(alphas))
        for i, f in enumerate(block.sets):
            left, decided = fitted.left_out(i, torch.from_numpy(train))
            assert sorted(left.tolist()) == np.flatnonzero(~train[:, f]).tolist()
            torch.testing.assert_close(decided, fitted.decide(i)[left])
            for a, alpha in enumerate(alphas):
                model = ridge_reference(x, y, train[:, f], alpha)
                tolerance = 2e-3 if dtype == torch.float32 else 1e-7
                np.testing.assert_allclose(fitted.decide(i)[:, a], model.predict(x), atol=tolerance)
                raw, _ = fitted.raw(i, a)
                scale = model[0].scale_
                np.testing.assert_allclose(raw.numpy().T * scale, coefficients(model) * scale, atol=tolerance)


def test_ridge_in_float32_where_features_outnumber_rows_and_the_penalty_is_weak():
    # Rounding must not be magnified: the plain way in float32 is off by as much.
    x, classes, _ = rows(400, 640, seed=1)
    x, y = x.astype(np.float32), 2.0 * classes[:, None] - 1
    train = masks(400)
    for block in blocks(torch.from_numpy(x), torch.from_numpy(train), dual=True):
        fitted = solve_ridge(block, torch.from_numpy(y), torch.from_numpy(train), torch.tensor([1.0]))
        for i, f in enumerate(block.sets):
            exact = ridge_reference(x, y, train[:, f], 1.0).predict(x)[:, None]
            scaler = StandardScaler().fit(x[train[:, f]])
            plain = Ridge(alpha=1.0).fit(scaler.transform(x[train[:, f]]), y[train[:, f]].astype(np.float32))
            allowed = 5 * np.abs(plain.predict(scaler.transform(x)).reshape(-1, 1) - exact).max()
            assert np.abs(fitted.decide(i)[:, 0].numpy() - exact).max() < allowed < 0.01


def test_values_that_are_not_finite_are_refused_with_the_row():
    x = torch.zeros(6, 2)
    x[4, 1] = float("inf")
    from probes import ProbeError

    with pytest.raises(ProbeError, match=r"1 of 6 rows \(first: row 4\)"):
        list(blocks(x, torch.ones(6, 1, dtype=torch.bool)))


@pytest.mark.parametrize(("n", "d"), [(90, 24), (40, 120)])
def test_large_matrices_are_factored_and_small_ones_inverted_to_the_same_end(monkeypatch, n, d):
    x, y, _ = rows(n, d, classes=3)
    inverted, _ = fit_all(x, y, masks(n))
    monkeypatch.setattr("probes.forms.INVERT_UP_TO", 0)
    factored, _ = fit_all(x, y, masks(n))
    for key, values in inverted.items():
        np.testing.assert_allclose(factored[key], values, atol=1e-3 * np.abs(values).max())


@pytest.mark.parametrize(("n", "d", "form"), [(90, 6, Features), (40, 120, Kernels)])
def test_a_direction_that_leads_up_is_left_for_the_gradient(monkeypatch, n, d, form):
    x, y, _ = rows(n, d)
    expected, _ = fit_all(x, y, masks(n))
    good, calls = form.precondition, itertools.count()

    def bad(self, g):
        return -good(self, g) if next(calls) % 4 == 2 else good(self, g)

    monkeypatch.setattr(form, "precondition", bad)
    found, _ = fit_all(x, y, masks(n))
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values, atol=1e-3 * np.abs(values).max())


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(("n", "d"), [(90, 40), (60, 300)])
def test_separable_cells_converge_without_a_word(classes, n, d):
    # Warnings are errors here. Weak regularisation of cells that can be told apart without a mistake.
    rng = np.random.default_rng(0)
    y = np.arange(n) % classes
    x = rng.normal(size=(n, d)) + 8 * np.eye(classes)[y] @ rng.normal(size=(classes, d))
    x[::9, 3] *= 1e3
    grid = fit_grid({(0, 0): x}, y, groups=np.arange(n), path=(0.001, 1.0, 100.0), shuffles=3, bootstrap=10)
    assert grid.table["score"][0] == 1
    assert fit_grid({(0, 0): x}, y, groups=np.arange(n), shuffles=3, bootstrap=10).table["score"][0] == 1


def test_newton_steps_in_the_kernel_form_are_those_of_each_training_set():
    rng = torch.Generator().manual_seed(0)
    n, double = 12, torch.float64
    x = torch.randn(2, n, 30, generator=rng, dtype=double)
    kernel, w = x @ x.mT, torch.rand(2, n, generator=rng, dtype=double) + 0.1
    train = torch.ones(3, n, dtype=torch.bool)
    train[0, :3], train[1, 5] = False, False  # three rows left out, one, none
    which = torch.tensor([0, 0, 1, 2])
    g = torch.randn(2, 4, n + 1, generator=rng, dtype=double)
    g[..., :-1] *= train[which]
    found = Newton.of(kernel.clone(), w, LeftOut.of(train))(g, BySet.of(which, 3))
    for b in range(2):
        for q, s in enumerate(which.tolist()):
            own = w[b] * train[s]
            top = torch.cat([torch.eye(n, dtype=double) + own[:, None] * kernel[b], own[:, None]], dim=1)
            h = torch.cat([top, torch.cat([own @ kernel[b], own.sum()[None]])[None]])
            torch.testing.assert_close(found[b, q], torch.linalg.solve(h, g[b, q]))


def test_rows_that_are_nearly_the_same_in_the_kernel_form():
    # Tokens of one video: kernels of these rows are all but singular.
    x, y, _ = rows(80, 120)
    x = np.repeat(x, 2, axis=0) + 1e-4 * np.random.default_rng(0).normal(size=(160, 120)) * x.std(axis=0)
    y = np.repeat(y, 2)
    train = masks(160, 4)
    decision, _ = fit_all(x, y, train, kernel=True)
    for (f, c), values in decision.items():
        expected = reference(x, y, train[:, f], c).decision_function(x)
        np.testing.assert_allclose(values[:, 0], expected, atol=5e-3 * np.abs(expected).max())


def test_kernels_in_several_blocks_give_the_same(monkeypatch):
    x, y, group = rows(60, 200, groups=30)
    options = {"groups": group, "shuffles": 2, "bootstrap": 10}
    whole = fit_grid({(0, 0): x}, y, **options)
    monkeypatch.setattr("probes.space.KERNEL_BYTES", 60 * 60 * 4 * 4)
    parts = fit_grid({(0, 0): x}, y, **options)
    np.testing.assert_allclose(parts.table["score"], whole.table["score"], atol=1e-12)
