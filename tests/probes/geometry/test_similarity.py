"""Likeness of sites against scipy, closed forms and what is known of rotations, noise and subspaces."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import subspace_angles
from scipy.spatial import procrustes as scipys
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr, t

from probes import ProbeError
from probes.geometry import StreamedCKA, cka, compare, matrix_of, pca, procrustes, rsa, subspace_overlap
from tests.probes.geometry.test_geometry import correlated


@pytest.fixture
def turned() -> tuple[np.ndarray, np.ndarray]:
    x = correlated(60, 6)
    return x, 3.0 * x @ np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0] - 7


def test_measures_do_not_see_rotation_or_scale(turned: tuple[np.ndarray, np.ndarray]) -> None:
    assert rsa(*turned) == pytest.approx(1)
    assert procrustes(*turned) == pytest.approx(1)


def test_rsa_is_the_correlation_of_distances() -> None:
    x, y = correlated(20, 4), correlated(20, 7, seed=1)
    assert rsa(x, y) == pytest.approx(spearmanr(pdist(x), pdist(y))[0])
    assert rsa(x, y, distance="cosine", rank=False) == pytest.approx(
        np.corrcoef(pdist(x, "cosine"), pdist(y, "cosine"))[0, 1]
    )


def test_procrustes_is_scipys() -> None:
    x, y = correlated(40, 5), correlated(40, 5, seed=1)
    assert 1 - procrustes(x, y) ** 2 == pytest.approx(scipys(x, y)[2])


def test_overlap_is_that_of_the_principal_angles() -> None:
    x, y = correlated(80, 9), correlated(80, 9, seed=3)
    first, second = pca(x, 4), pca(np.array_split(y, 5), 4)
    expected = (np.cos(subspace_angles(first.axes.T, second.axes.T)) ** 2).mean()
    assert subspace_overlap(first, second) == pytest.approx(expected)
    assert subspace_overlap(x, y, 4) == pytest.approx(expected)
    assert subspace_overlap(first, first) == pytest.approx(1)
    with pytest.raises(ProbeError, match="there are 4 and 4"):
        subspace_overlap(first, second, 5)


@pytest.mark.parametrize("unbiased", [True, False])
def test_streamed_alignment_is_that_in_memory(unbiased: bool) -> None:
    x = correlated(90, 7)
    y = x[:, :4] + 0.5 * correlated(90, 4, seed=2)
    running = StreamedCKA()
    for rows in np.array_split(np.arange(90), [1, 5, 40]):
        running.update(x[rows], y[rows])
    assert running.value(unbiased=unbiased) == pytest.approx(cka(x, y, unbiased=unbiased), rel=1e-9)
    with pytest.raises(ProbeError, match="at least 4"):
        StreamedCKA().update(x[:2], y[:2]).value()


@pytest.mark.parametrize("measure", ["cka", "rsa", "procrustes"])
def test_comparison_of_sites_with_a_chance_level(measure: str) -> None:
    x = correlated(40, 5)
    sites = {(0, 1): x, (1, 1): lambda: x * 2, "noise": correlated(40, 5, seed=4)}
    table = compare(sites, measure, shuffles=5)
    assert table["first"].to_list() == ["(0, 1)", "(0, 1)", "(1, 1)"]
    assert table["value"][0] == pytest.approx(1)
    assert table["chance"][0] < 0.9
    matrix, names = matrix_of(table)
    assert names == ["(0, 1)", "(1, 1)", "noise"]
    np.testing.assert_allclose(matrix, matrix.T)
    again = compare(sites, measure, shuffles=5)
    assert again.equals(table)
    with pytest.raises(ProbeError, match="no site 'c'"):
        compare(sites, measure, pairs=[("noise", "c")])


def test_intervals_of_a_comparison_are_the_jackknifes_and_hold_the_truth() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6000, 4))
    y = x + rng.normal(size=(6000, 4))
    truth, held = StreamedCKA().update(x, y).value(), 0
    for i in range(60):
        rows = slice(i * 100, i * 100 + 100)
        row = compare({"a": x[rows], "b": y[rows]}).row(0, named=True)
        held += row["low"] <= truth <= row["high"]
    assert held >= 51
    a, b, key = x[:60], y[:60], np.repeat(np.arange(12), 5)
    row = compare({"a": a, "b": b}, groups=key, parts=12).row(0, named=True)
    without = [cka(a[key != k], b[key != k]) for k in range(12)]
    error = np.sqrt(11 / 12 * ((np.array(without) - np.mean(without)) ** 2).sum())
    assert row["low"] == pytest.approx(row["value"] - t.ppf(0.975, 11) * error)
    assert compare({"a": a, "b": b}, parts=0)["low"].to_list() == [None]
    with pytest.raises(ProbeError, match="at least 2 parts"):
        compare({"a": a, "b": b}, parts=1)


def test_comparisons_that_cannot_be_made() -> None:
    x = correlated(10, 3)
    with pytest.raises(ProbeError, match="same rows"):
        procrustes(x, x[:5])
    with pytest.raises(ProbeError, match="equally far"):
        rsa(x, np.ones((10, 2)))
    with pytest.raises(ProbeError, match="does not vary"):
        procrustes(x, np.ones((10, 2)))
    with pytest.raises(ProbeError, match="not known"):
        compare({"a": x, "b": x}, "cca")
    with pytest.raises(ProbeError, match="order of rows"):
        compare({"a": x, "b": x}, "subspace", shuffles=2)
