"""Bands over a whole grid, differences of grids, description length."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from probes import ProbeError, compare_grids, fit_grid, online_code, simultaneous_bands
from probes.compare import max_deviation
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


def test_bands_cover_all_cells_at_once():
    # Normal draws around a known truth: the band must cover all of 30 cells in about 95 of 100 repetitions.
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        point = rng.normal(size=30)  # truth 0, error 1
        draws = point + rng.normal(size=(400, 30))
        error, _, largest = max_deviation(draws, point, 10**6, np.zeros(30))
        covered += bool((np.abs(point) <= np.quantile(largest, 0.95) * error).all())
    assert 0.91 <= covered / 400 <= 0.98


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
