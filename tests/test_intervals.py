"""Intervals against scipy and against a loop."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from interp.intervals import cluster_mean, wilson


@pytest.mark.parametrize(("hits", "n"), [(0, 12), (1, 7), (50, 100), (255, 256), (9, 9)])
def test_wilson_is_scipys(hits: int, n: int) -> None:
    ours, theirs = wilson(hits, n), binomtest(hits, n).proportion_ci(method="wilson")
    assert ours.low == pytest.approx(theirs.low, abs=1e-12)
    assert ours.high == pytest.approx(theirs.high, abs=1e-12)
    assert ours.share == hits / n


def test_no_trials_no_interval() -> None:
    assert np.isnan([wilson(0, 0).share, wilson(0, 0).low, wilson(0, 0).high]).all()


def test_cluster_mean_is_the_mean_and_its_bootstrap_draws_whole_groups() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat([f"maze {i}" for i in range(30)], rng.integers(1, 5, 30))
    values = rng.normal(size=(len(groups), 2)) + rng.normal(size=30)[np.unique(groups, return_inverse=True)[1], None]
    values[3, 1] = np.nan
    mean, low, high = cluster_mean(values, groups, draws=4000)
    np.testing.assert_allclose(mean, np.nanmean(values, axis=0))
    names = np.unique(groups)
    naive = []
    for _ in range(1000):
        rows = np.concatenate([np.flatnonzero(groups == g) for g in rng.choice(names, len(names))])
        naive.append(np.nanmean(values[rows], axis=0))
    expected = np.percentile(naive, [2.5, 97.5], axis=0)
    np.testing.assert_allclose([low, high], expected, atol=0.06)
    width_of_rows = 2 * 1.96 * np.nanstd(values, axis=0) / np.sqrt(len(values))
    assert (high - low > 1.15 * width_of_rows).all()  # rows of a group are alike, so counting rows would be too sure
