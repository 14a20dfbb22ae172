"""Calibration and control tasks."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from probes import ProbeError, calibration, control_target, fit_grid


def test_reliability_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, size=2000)  # always confident in class 1, so bins are scikit-learn's
    y = (rng.random(2000) < p).astype(int)
    found = calibration(p, y, groups=np.arange(2000) // 4)
    right, confidence = calibration_curve(y, p, n_bins=10)
    np.testing.assert_allclose(found.table["right"], right)
    np.testing.assert_allclose(found.table["confidence"], confidence)
    share = np.bincount((p * 10).astype(int), minlength=10)[5:] / 2000
    assert found.ece == pytest.approx(np.sum(share * np.abs(right - confidence)))
    assert found.low < 0.02


def test_overconfidence_is_seen():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3000, 3))
    q = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    y = np.array([rng.choice(3, p=row) for row in q])
    sharp = q**4 / (q**4).sum(axis=1, keepdims=True)
    honest, boasting = (calibration(v, y, groups=np.arange(3000)) for v in (q, sharp))
    assert honest.ece < 0.03 < 0.15 < boasting.low < boasting.ece < boasting.high
    assert boasting.table["rows"].sum() == 3000


def test_what_is_no_probability_is_refused():
    with pytest.raises(ProbeError, match="add up to 1"):
        calibration(np.array([[0.5, 0.2]]), np.array([0]), groups=[0])
    with pytest.raises(ProbeError, match="class numbers"):
        calibration(np.array([0.5, 0.2]), np.array([0.5, 1]), groups=[0, 1])


def test_control_labels_go_with_the_place_of_the_token():
    rng = np.random.default_rng(0)
    y = (rng.random((30, 16)) < 0.25).astype(float)
    y[3, 2] = np.nan
    control = control_target(y, seed=1)
    assert np.isnan(control[3, 2])
    assert np.isnan(control).sum() == 1
    assert (np.nanmax(control, axis=0) == np.nanmin(control, axis=0)).all()
    assert np.nanmean(control) == pytest.approx(np.nanmean(y), abs=0.07)
    assert not np.array_equal(control_target(y, seed=2), control, equal_nan=True)
    words = np.where(np.isnan(y), None, np.array(["off", "on"])[np.nan_to_num(y).astype(int)])
    assert (
        control_target(words, seed=1)[~np.isnan(y)] == np.array(["off", "on"])[control[~np.isnan(y)].astype(int)]
    ).all()
    assert control_target(words, seed=1)[3, 2] is None
    names = control_target(np.array(["left", "right"] * 6), kinds=np.arange(12) // 2)
    assert set(names) == {"left", "right"}
    assert (names[::2] == names[1::2]).all()


def test_a_probe_that_knows_places_only_is_not_selective():
    # Features say where a token is and nothing else; the label depends on the place, too.
    rng = np.random.default_rng(0)
    place = rng.normal(size=(12, 24))
    x = np.broadcast_to(place, (40, 12, 24)) + 0.3 * rng.normal(size=(40, 12, 24))
    y = ((np.arange(12) % 2)[None] ^ (rng.random((40, 12)) < 0.1)).astype(float)
    options = {"groups": np.arange(40), "shuffles": 0, "bootstrap": 20, "path": 1.0}
    real, control = (fit_grid({(0, 0): x}, t, **options).table["score"][0] for t in (y, control_target(y)))
    assert real > 0.8
    assert real - control < 0.15


def test_a_control_that_cannot_be_made():
    with pytest.raises(ProbeError, match="no token places"):
        control_target(np.arange(5))
    with pytest.raises(ProbeError, match="one kind"):
        control_target(np.arange(5), kinds=np.zeros(5))
    with pytest.raises(ProbeError, match="kinds= needs"):
        control_target(np.arange(5), kinds=np.zeros(4))
