"""Bands over a whole grid, differences of grids, description length."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from probes import ProbeError, compare_grids, fit_grid, online_code, simultaneous_bands
from probes.difference import Difference
from probes.score import METRICS, resample
from tests.probes.data import rows


def grid(strength, *, seed=0, y=None, cells=4, n=200):
    rng = np.random.default_rng(seed)
    labels = np.random.default_rng(99).integers(0, 2, size=n) if y is None else y
    data = {(s, 0): rng.normal(size=(n, 3)) + strength * (s > 1) * (labels[:, None] - 0.5) for s in range(cells)}
    return fit_grid(data, labels, groups=np.arange(n) % 40, path=0.1, shuffles=0, bootstrap=600)


def test_a_simultaneous_band_is_wider_than_an_interval():
    result = grid(1.5)
    band = simultaneous_bands(result)
    assert (band["low"] < result.table["low"]).all()
    assert (band["high"] > result.table["high"]).all()
    assert (simultaneous_bands(result, 0.5)["low"] > band["low"]).all()


def right_and_rows(rng, share, *, groups=20, rows=8, common=None):
    """Group sums [cell, group, statistic] of accuracy, of rows right with probability ``share`` [cell]."""
    u = rng.random((len(share), groups, rows)) if common is None else common
    right = (u < np.asarray(share)[:, None, None]).sum(axis=2).astype(float)
    return np.stack([right, np.full(right.shape, float(rows))], axis=2)


@pytest.mark.parametrize("paired", [True, False])
def test_a_difference_is_bounded_by_all_pairs_of_scores_that_are_likely_enough(paired):
    # The naive version: pairs of log odds, drawn all over the ellipse that their covariance gives.
    rng, metric, groups = np.random.default_rng(0), METRICS["accuracy"], 20
    u = rng.random((3, groups, 8))
    a = right_and_rows(rng, [0.6, 0.9, 0.97], common=u)
    b = right_and_rows(rng, [0.5, 0.8, 0.9], common=u if paired else None)
    first = resample(groups, 400, 1)
    draws = (first, first if paired else resample(groups, 400, 2))
    none = np.zeros((3, 2, 2))  # folds have nothing in common
    found = Difference.of((a, b), (none, none), draws, metric, paired=paired)
    low, high = found.bounds(1.96)
    inside = rng.normal(size=(20_000, 2))
    inside /= np.linalg.norm(inside, axis=1, keepdims=True)
    for cell in range(3):
        shares, odds, scale = [], [], []
        for sums, drawn in zip((a, b), draws, strict=True):
            right, rows = sums[cell].T
            share, scores = right.sum() / rows.sum(), (drawn @ right) / (drawn @ rows)
            shares.append(share)
            inner = np.clip(scores, 0.5 / 160, 1 - 0.5 / 160)  # half a row from the ends
            odds.append(np.log(inner / (1 - inner)))
            scale.append(scores.std(ddof=1) * np.sqrt(groups / (groups - 1)) / (share * (1 - share)))
        r = np.corrcoef(odds)[0, 1] if paired else 0.0
        covariance = np.diag(scale) @ np.array([[1, r], [r, 1]]) @ np.diag(scale)
        v = np.diag(covariance)
        freedom = groups - 1 if paired else v.sum() ** 2 / ((v**2).sum() / (groups - 1))
        reach = student.isf(norm.sf(1.96), freedom)
        at = np.log(np.array(shares) / (1 - np.array(shares)))
        pairs = 1 / (1 + np.exp(-(at + reach * inside @ np.linalg.cholesky(covariance).T)))
        differences = pairs[:, 0] - pairs[:, 1]
        assert [low[cell], high[cell]] == pytest.approx([differences.min(), differences.max()], abs=1e-5)
        away = abs(at[0] - at[1]) / np.sqrt(v.sum() - 2 * covariance[0, 1])
        assert found.reach()[cell] == pytest.approx(norm.isf(student.sf(away, freedom)))


def test_intervals_and_bands_exclude_0_where_tests_say_so():
    rng, n = np.random.default_rng(0), 120
    y = np.arange(n) % 2
    sides = []
    for slope in (0.1, 0.02):
        data = {(s, 0): rng.normal(size=(n, 2)) + slope * s * (y[:, None] - 0.5) for s in range(40)}
        sides.append(fit_grid(data, y, groups=np.arange(n) // 4, model="means", shuffles=0, bootstrap=5))
    for level in (0.8, 0.95):
        table = compare_grids(sides[0], sides[1], level=level, resamples=200)
        apart = (table["low"] > 0) | (table["high"] < 0)
        assert apart.to_list() == (table["p"] <= 1 - level).to_list()
        assert 3 < apart.sum() < 37
        everywhere = (table["band_low"] > 0) | (table["band_high"] < 0)
        assert everywhere.to_list() == (table["p_adjusted"] <= 1 - level).to_list()
        assert 0 < everywhere.sum() < apart.sum()
        assert ((table["band_low"] <= table["low"]) & (table["high"] <= table["band_high"])).all()
    with pytest.raises(ProbeError, match="resamples=18"):
        compare_grids(sides[0], sides[1], resamples=18)


def test_scores_without_a_fault_are_not_known_to_be_equal():
    one = right_and_rows(np.random.default_rng(0), [1.0, 0.0])
    draws, none = resample(20, 200, 1), np.zeros((2, 3, 3))
    found = Difference.of((one, one), (none, none), (draws, draws), METRICS["accuracy"], paired=True)
    low, high = found.bounds(1.96)
    assert (found.score == 0).all()
    assert (found.reach() == 0).all()
    assert (low < -1 / 160).all()
    assert (high > 1 / 160).all()


def test_a_difference_is_found_where_it_is():
    table = compare_grids(grid(2.0), grid(0.0, seed=5))
    assert table["paired"].all()
    assert (table["p_adjusted"] >= table["p"] - 1e-12).all()
    assert table["p_adjusted"].to_list()[:2] == pytest.approx([1, 1], abs=0.95)
    assert (table["p_adjusted"][:2] > 0.05).all()
    assert (table["p_adjusted"][2:] < 0.01).all()
    assert (table["band_low"][2:] > 0).all()
    same = compare_grids(grid(1.0), grid(1.0))
    assert (same["difference"] == 0).all()
    assert (same["p"] == 1).all()


def test_pairs_sharpen_the_test():
    first = grid(1.0)
    y = np.random.default_rng(98).integers(0, 2, size=200)
    other = grid(1.0, y=y)
    assert not compare_grids(first, other)["paired"].any()
    alike = compare_grids(first, grid(1.1))
    assert ((alike["high"] - alike["low"])[2:] < (first.table["high"] - first.table["low"])[2:]).all()


def test_grids_that_cannot_be_compared():
    a = grid(1.0, cells=2)
    x, y, group = rows(100, 3)
    with pytest.raises(ProbeError, match="share no cell"):
        compare_grids(a, fit_grid({(9, 9): x}, y, groups=group, shuffles=0, bootstrap=5))
    with pytest.raises(ProbeError, match="same score"):
        compare_grids(a, fit_grid({(0, 0): x}, y, groups=group, shuffles=0, bootstrap=5, score="accuracy"))


def naive_code(x, y, block, classes, c):
    """Bits, block by block, with scikit-learn."""
    bits = (block == 0).sum() * np.log2(classes)
    for b in range(1, block.max() + 1):
        train, test = block < b, block == b
        model = make_pipeline(StandardScaler(), LogisticRegression(C=c, tol=1e-9, max_iter=5000)).fit(
            x[train], y[train]
        )
        assert len(model.classes_) == classes
        p = model.predict_proba(x[test])[np.arange(test.sum()), y[test]]
        bits -= np.log2(0.99 * p + 0.01 / classes).sum()
    return bits


@pytest.mark.parametrize("classes", [2, 3])
def test_the_online_code_is_that_of_its_definition(classes):
    x, y, group = rows(300, 4, classes=classes, groups=60, signal=5)
    fractions = (0.1, 0.3, 0.6, 1.0)
    code = online_code(x, y, groups=group, fractions=fractions, path=0.5, seed=3)
    order = np.empty(60, dtype=int)
    order[np.random.default_rng(3).permutation(60)] = np.arange(60)
    block = np.digitize(order, [6, 18, 36])[group]
    assert code.bits == pytest.approx(naive_code(x, y, block, classes, 0.5), rel=1e-4)
    assert code.uniform == pytest.approx(300 * np.log2(classes))
    assert code.compression > 1.1
    assert code.table["rows"].to_list() == [30, 60, 90, 120]
    assert code.table["bits"].sum() == pytest.approx(code.bits)


def test_noise_does_not_compress():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, size=400)
    code = online_code(rng.normal(size=(400, 5)), y, groups=np.arange(400), path=0.01)
    assert code.compression < 1.02
    rare = (rng.random(400) < 0.1).astype(int)
    code = online_code(rng.normal(size=(400, 5)), rare, groups=np.arange(400), path=0.01)
    assert code.entropy < 0.75 * code.uniform
    assert code.bits > 0.9 * code.entropy


def test_codes_that_cannot_be_made():
    x, y, group = rows(40, 3)
    with pytest.raises(ProbeError, match="must rise to 1"):
        online_code(x, y, groups=group, fractions=(0.5, 0.2, 1.0))
    with pytest.raises(ProbeError, match="40 rows"):
        online_code(x[:5], y, groups=group)
