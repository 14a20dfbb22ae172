"""Geometry against closed forms, naive sums and scikit-learn; streamed against in-memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from probes import ProbeError
from probes.geometry import (
    Components,
    Covariance,
    Eraser,
    Leace,
    cka,
    cka_matrix,
    cka_minibatch,
    leace,
    pca,
)


def correlated(n=200, d=8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 100 * rng.normal(size=d)


def test_streamed_covariance_equals_that_in_memory():
    x, z = correlated(), correlated(d=3, seed=1)
    running, crossed = Covariance(), Covariance()
    for block in np.array_split(np.arange(200), [1, 7, 7, 120]):
        running.update(x[block])
        crossed.update(x[block], z[block])
    np.testing.assert_allclose(running.covariance(1), np.cov(x.T), rtol=1e-10)
    np.testing.assert_allclose(crossed.covariance(), (x - x.mean(0)).T @ (z - z.mean(0)) / 200, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(running.mean, x.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(crossed.other_mean, z.mean(axis=0), rtol=1e-13)


def test_components_equal_scikit_learns(tmp_path):
    x = correlated()
    got = pca(np.array_split(x, 7), components=4)
    expected = PCA(4, svd_solver="full").fit(x)
    np.testing.assert_allclose(got.variance, expected.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(got.share, expected.explained_variance_ratio_, rtol=1e-9)
    np.testing.assert_allclose(np.abs(got.axes @ expected.components_.T), np.eye(4), atol=1e-7)
    full = pca(torch.from_numpy(x))
    np.testing.assert_allclose(full.rebuild(full.project(x)), x, atol=1e-9)
    again = Components.load(got.save(tmp_path / "pca.safetensors"))
    np.testing.assert_array_equal(again.project(x), got.project(x))


def test_components_that_cannot_be_had():
    with pytest.raises(ProbeError, match="have 1 to 4"):
        pca(correlated(n=5), components=6)
    with pytest.raises(ProbeError, match="No rows"):
        Covariance().mean  # noqa: B018  asking for it raises
    with pytest.raises(ProbeError, match="8, 8"):
        Covariance().update(correlated()).update(correlated(d=3))


def naive_unbiased_hsic(k, m):
    """Over all quadruples of distinct rows, straight from the definition as a U-statistic."""
    n = len(k)
    total, count = 0.0, 0
    for i in range(n):
        for j in range(n):
            for q in range(n):
                for r in range(n):
                    if len({i, j, q, r}) == 4:
                        total += k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])
                        count += 1
    return total / count


def test_unbiased_alignment_is_the_u_statistic():
    x, y = correlated(8, 3), correlated(8, 5, seed=1)
    k, m = ((v - v.mean(0)) @ (v - v.mean(0)).T for v in (x, y))
    expected = naive_unbiased_hsic(k, m) / np.sqrt(naive_unbiased_hsic(k, k) * naive_unbiased_hsic(m, m))
    assert cka(x, y) == pytest.approx(expected, rel=1e-9)


def test_plain_linear_alignment_is_that_of_products():
    x, y = correlated(60, 5), correlated(60, 7, seed=1)
    a, b = x - x.mean(0), y - y.mean(0)
    expected = np.linalg.norm(a.T @ b) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    assert cka(x, y, unbiased=False) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_alignment_does_not_see_rotation_or_scale(kernel):
    x = correlated(80, 6)
    turned = 3.0 * x @ np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0] + 5
    assert cka(x, turned, kernel=kernel) == pytest.approx(1)
    assert cka(x, turned, kernel=kernel, unbiased=False) == pytest.approx(1)


def test_only_the_unbiased_estimate_calls_noise_unrelated():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 300)), rng.normal(size=(40, 300))
    assert cka(x, y, unbiased=False) > 0.7
    assert abs(cka(x, y)) < 0.1


def test_minibatches_estimate_the_whole():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1200, 5))
    y = x @ rng.normal(size=(5, 4)) + rng.normal(size=(1200, 4))
    batches = [(x[i : i + 60], y[i : i + 60]) for i in range(0, 1200, 60)]
    assert cka_minibatch(batches) == pytest.approx(cka(x, y), abs=0.03)
    assert cka_minibatch([(x[:50], y[:50])]) == pytest.approx(cka(x[:50], y[:50]))


def test_alignment_of_many_sites():
    sites = {"a": correlated(30, 4), "b": correlated(30, 5, seed=1), "c": correlated(30, 6, seed=2)}
    matrix, names = cka_matrix(sites, kernel="rbf")
    assert names == ["a", "b", "c"]
    assert matrix[0, 2] == pytest.approx(cka(sites["a"], sites["c"], kernel="rbf"))
    np.testing.assert_array_equal(matrix, matrix.T)
    with pytest.raises(ProbeError, match="same rows"):
        cka(correlated(30), correlated(31))
    with pytest.raises(ProbeError, match="does not vary"):
        cka(np.ones((9, 2)), correlated(9))


@pytest.mark.parametrize("classes", [2, 4])
def test_after_erasure_no_linear_probe_finds_the_concept(classes):
    rng = np.random.default_rng(0)
    z = rng.integers(0, classes, size=400)
    x = correlated(400, 10) + 3 * rng.normal(size=(classes, 10))[z]
    eraser = leace(x, z)
    clean = eraser(x)
    assert eraser.rank == classes - 1
    one_hot = np.eye(classes)[z]
    assert np.abs((clean - clean.mean(0)).T @ (one_hot - one_hot.mean(0))).max() < 1e-6
    scaler = StandardScaler()
    assert LogisticRegression().fit(scaler.fit_transform(x), z).score(scaler.transform(x), z) > 0.8
    probe = LogisticRegression(tol=1e-8).fit(scaler.fit_transform(clean), z)
    assert np.abs(probe.coef_).max() < 1e-4
    np.testing.assert_allclose(clean.mean(axis=0), x.mean(axis=0), atol=1e-9)


def test_erasure_is_the_closed_form():
    x, z = correlated(300, 6), np.random.default_rng(1).normal(size=(300, 2))
    x = x + z @ np.random.default_rng(2).normal(size=(2, 6)) * 4
    a, b = x - x.mean(0), z - z.mean(0)
    s, c = a.T @ a / 300, a.T @ b / 300
    expected = x - a @ np.linalg.solve(s, c) @ np.linalg.inv(c.T @ np.linalg.solve(s, c)) @ c.T
    np.testing.assert_allclose(leace(x, z)(x), expected, atol=1e-8)


def test_no_other_erasure_moves_rows_less():
    rng = np.random.default_rng(0)
    z = rng.integers(0, 2, size=200)
    x = correlated(200, 4) + 5 * z[:, None]
    eraser = leace(x, z)
    cost = np.mean((eraser(x) - x) ** 2)
    c = (x - x.mean(0)).T @ (z - z.mean()) / 200
    for _ in range(50):  # other maps I - u v' with v'c = 1, u = c: what they must be to null the cross-covariance
        v = rng.normal(size=4)
        v /= v @ c
        other = x - np.outer((x - x.mean(0)) @ v, c)
        assert np.abs((other - other.mean(0)).T @ (z - z.mean())).max() < 1e-6
        assert np.mean((other - x) ** 2) >= cost - 1e-9


def test_streamed_erasure_equals_that_in_memory(tmp_path):
    x = correlated(150, 5)
    z = x[:, 0] + np.random.default_rng(0).normal(size=150)
    streamed = Leace()
    for block in np.array_split(np.arange(150), 4):
        streamed.update(x[block], z[block])
    np.testing.assert_allclose(streamed.eraser()(x), leace(x, z)(x), atol=1e-8)
    again = Eraser.load(leace(x, z).save(tmp_path / "e.safetensors"))
    np.testing.assert_array_equal(again(x), leace(x, z)(x))


def test_collinear_features_can_be_erased_from():
    x, z = correlated(100, 4), np.arange(100) % 2
    x = np.concatenate([x + 3 * z[:, None], x[:, :2] + 3 * z[:, None], np.full((100, 1), 7.0)], axis=1)
    clean = leace(x, z)(x)
    assert np.abs((clean - clean.mean(0)).T @ (z - z.mean())).max() < 1e-6
    np.testing.assert_array_equal(clean[:, 6], 7.0)
    with pytest.raises(ProbeError, match="nothing to erase"):
        leace(x, np.ones(100, dtype=int))
