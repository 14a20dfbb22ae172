"""Where something is largest: the place of the largest mean, and an interval that says how sure that is."""

from __future__ import annotations

import numpy as np

from studies.measures.peaks import where_largest

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
