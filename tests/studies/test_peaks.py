"""Where something is largest: the place of the largest mean, and an interval that says how sure that is."""

from __future__ import annotations

import numpy as np

from studies.measures.peaks import shift_of_largest, where_largest

PLACES = [0.0, 0.25, 0.5, 1.0]


def test_a_clear_peak_has_no_width_and_a_contested_one_spans_the_two() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 2)
    values = rng.normal(scale=0.01, size=(40, 4))
    clear = values + np.eye(4)[2]
    assert vars(where_largest(clear, groups, PLACES)) == {"value": 0.5, "low": 0.5, "high": 0.5, "n": 20}
    contested = values + np.eye(4)[np.where(groups % 2, 1, 3)]
    found = where_largest(contested, groups, PLACES)
    assert (found.low, found.high) == (0.25, 1.0)
    assert found.value == PLACES[contested.mean(0).argmax()]


def test_runs_with_gaps_do_not_count() -> None:
    values = np.array([[np.nan, 5.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    assert vars(where_largest(values, np.array(["a", "b"]), PLACES)) == {"value": 0.5, "low": 0.5, "high": 0.5, "n": 1}
    none = where_largest(values[:1], np.array(["a"]), PLACES)
    assert none.n == 0
    assert np.isnan([none.value, none.low, none.high]).all()


def test_a_shift_is_paired_over_groups() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 2)
    wide = np.where((groups % 2 == 0)[:, None], np.eye(4)[1], np.eye(4)[2]) + rng.normal(scale=0.01, size=(40, 4))
    later = np.roll(wide, 1, axis=1)
    assert where_largest(wide, groups, PLACES).high > where_largest(wide, groups, PLACES).low
    same = shift_of_largest(wide, wide, groups, PLACES)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)  # the same draws on both sides
    steps = [0.0, 1.0, 2.0, 3.0]
    moved = shift_of_largest(wide, later, groups, steps)
    assert (moved.value, moved.low, moved.high, moved.n) == (1.0, 1.0, 1.0, 20)
    assert shift_of_largest(wide, np.full_like(wide, np.nan), groups, steps).n == 0
