"""What does not vary, is missing or stands alone is said to be so, and not computed from what rounding left."""

from __future__ import annotations

import numpy as np
import pytest

from probes import ProbeError, calibration, control_target, fit_grid
from probes.geometry import (
    Direction,
    Leace,
    StreamedCKA,
    cka,
    energy,
    leace,
    participation_ratio,
    pca,
    procrustes,
    two_nn,
)

ROWS = 100
ALIKE = np.tile(7.3 * np.random.default_rng(0).normal(size=4), (ROWS, 1))
"""Rows that are all the same, of numbers whose mean rounds."""


@pytest.mark.parametrize(
    "measure",
    [cka, lambda x, y: cka(x, y, unbiased=False), procrustes, lambda x, y: StreamedCKA().update(x, y).value()],
)
def test_what_does_not_vary_is_like_nothing(measure):
    assert len(np.unique(ALIKE - ALIKE.mean(axis=0))) > 1  # else nothing was tested
    with pytest.raises(ProbeError, match="not vary"):
        measure(ALIKE, np.random.default_rng(1).normal(size=(ROWS, 3)))


def test_what_does_not_vary_has_no_dimension_and_is_not_erased():
    x, z = np.random.default_rng(1).normal(size=(ROWS, 4)), np.arange(ROWS) % 2
    with pytest.raises(ProbeError, match="all the same"):
        participation_ratio(ALIKE)
    with pytest.raises(ProbeError, match="nothing to erase"):
        Leace().update(x, np.full(ROWS, 0.1)).eraser()
    with pytest.raises(ProbeError, match="nothing to erase"):
        leace(ALIKE, z)
    np.testing.assert_array_equal(pca(ALIKE, 2).variance, 0)


def test_a_local_dimension_does_not_depend_on_the_origin():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3)) @ rng.normal(size=(3, 32))
    assert two_nn(x + 1e7).value == pytest.approx(two_nn(x).value, rel=1e-3)
    with pytest.raises(ProbeError, match="level=95"):
        two_nn(x, level=95)


def test_tokens_and_channels_of_nothing():
    x = np.random.default_rng(0).normal(size=(2, 5, 4))
    silent = x.copy()
    silent[:, :3] = 0
    assert energy(silent).sinks == [3, 4]
    silent = x.copy()
    silent[..., :3] = 0
    assert energy(silent).massive == [3]
    with pytest.raises(ProbeError, match="Run 2 is 0 everywhere"):
        energy([x, np.zeros((1, 5, 4))])


def test_a_vector_without_a_direction():
    with pytest.raises(ProbeError, match="no direction"):
        _ = Direction(np.zeros(4)).unit


def test_one_group_shows_no_error_of_calibration():
    with pytest.raises(ProbeError, match="one group"):
        calibration(np.linspace(0, 1, 50), np.arange(50) % 2, groups=np.zeros(50))


def test_control_tasks_of_a_rare_target_have_both_labels():
    rare = np.zeros((40, 8))
    rare[::4, 1] = rare[::5, 6] = 1
    for seed in range(3):
        labels = control_target(rare, seed=seed)
        assert (labels == labels[0]).all()
        assert labels[0].sum() == 1
    table = fit_grid(
        {(0, 0): np.random.default_rng(0).normal(size=(40, 8, 3))}, rare, groups=np.arange(40), folds=3, shuffles=0,
        bootstrap=5, path=0.1,
    ).table  # fmt: skip
    assert table["control"].item() < 0.7  # a task of one label scores 1, whatever features hold
    with pytest.raises(ProbeError, match="does not vary"):
        control_target(np.full((4, 3), np.nan))


def test_one_shuffle_proves_nothing():
    rng = np.random.default_rng(0)
    y, group = np.arange(80) % 2, np.arange(80) // 4
    grid = fit_grid(
        {(0, 0): rng.normal(size=(80, 2)) + 9 * y[:, None]}, y, groups=group, shuffles=1, bootstrap=5, path=0.1
    )
    assert grid.table["p"].item() == 0.5  # the score is the larger one of two
    with pytest.raises(ProbeError, match="shuffles > 1"):
        grid.onset()
