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


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_answers_have_an_interval_that_shrinks_with_n(value: float) -> None:
    widths = []
    for n in (4, 16, 64):
        mean, low, high = cluster_mean(np.full((n, 1), value), np.arange(n), ends=(0, 1))
        assert mean[0] == value
        assert low[0] <= value <= high[0]
        widths.append(float(high[0] - low[0]))
    assert widths[0] > widths[1] > widths[2] > 0.01


@pytest.mark.parametrize("share", [0.1, 0.5, 0.85])
def test_shares_of_few_problems_are_covered_as_stated(share: float) -> None:
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(300):
        answers = np.repeat((rng.random(20) < share).astype(float), 2)[:, None]  # two runs of a problem, alike
        _, low, high = cluster_mean(answers, np.repeat(np.arange(20), 2), ends=(0, 1), draws=400)
        covered.append(low[0] <= share <= high[0])
    assert np.mean(covered) > 0.91
