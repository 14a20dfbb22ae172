"""Onsets of grids whose scores are known, against the rule said in a loop; knocked-out places; readers."""

from __future__ import annotations

import numpy as np
import pytest

from interp import tasks
from interp.lab import Lab
from probes import GridResult, fit_grid
from studies.measures.knockouts import FIRST, KINDS, knocked_out, places
from studies.measures.onsets import HOLD, later, onset_of
from tests.pipelines import tiny_i2v

STEPS, LAYERS, GROUPS = 7, 4, 40


def grid_with_onset(step: int, layer: int, *, until: int = STEPS, seed: int = 0) -> GridResult:
    """Features say the label from a cell on, until a step; before it they are noise."""
    rng = np.random.default_rng(seed)
    label = np.tile([0.0, 1.0], GROUPS)
    cells = {}
    for s in range(STEPS):
        for k in range(LAYERS):
            x = rng.normal(size=(2 * GROUPS, 5))
            if (s, k) >= (step, layer) and k >= layer * (s == step) and s < until:
                x[:, 0] += 4 * label
            cells[s, k] = x
    groups = np.repeat(np.arange(GROUPS), 2)
    return fit_grid(cells, label, groups=groups, path=0.03, shuffles=10, bootstrap=200, seed=seed)


def test_the_onset_is_the_cell_from_which_it_is_there() -> None:
    found = onset_of(grid_with_onset(2, 1), 0.5)
    assert found.at == pytest.approx(2 + 2 / LAYERS)
    assert found.estimate.low <= found.at <= found.estimate.high
    assert found.end == STEPS
    assert found.false <= 0.1


def test_what_is_forgotten_later_has_an_onset_all_the_same() -> None:
    assert onset_of(grid_with_onset(1, 0, until=1 + HOLD), 0.5).at == pytest.approx(1 + 1 / LAYERS)
    assert onset_of(grid_with_onset(1, 0, until=HOLD), 0.5).at == STEPS  # not long enough
    assert str(onset_of(grid_with_onset(STEPS, 0), 0.5)) == "never"


def test_differences_are_paired_and_shuffled_labels_have_none() -> None:
    early, late = (onset_of(grid_with_onset(step, 1, seed=step), 0.5) for step in (1, 3))
    difference, placebo = later(early, late)
    assert difference.value == pytest.approx(2)
    assert difference.low > 0
    assert abs(placebo) < 0.5
    same, _ = later(early, early)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_places_cover_steps_and_layers_once() -> None:
    found = places(12, 10, 3, 5)
    assert [str(place) for place in found[:2]] == ["all 0-11", "steps 0-3"]
    for where, count in (("steps", 12), ("layers", 10)):
        covered = [k for place in found if place.where == where for k in range(place.first, place.last + 1)]
        assert covered == list(range(count))
    assert {place.steps for place in found if place.where != "steps"} == {(0, 11)}


def test_knock_outs_close_as_many_keys_to_as_many_queries() -> None:
    lab = Lab(tiny_i2v(), "tiny")
    (spec,) = lab.plan(tasks.get("maze", size=4).sample(1), steps=4)
    space, grid = lab.space(spec), lab.grid(spec.sample)
    for kind in KINDS:
        edit = next(iter(knocked_out(kind, places(4, 2, 2, 2)[1], grid, 0)))
        found = edit.selection.resolve(space)
        assert (found.steps, len(found.sites), len(found.tokens)) == ((0, 1), 2, 4 * 16)
        keys = edit.op.closed(space, found.sites[0])
        assert len(keys) == 16
        assert (set(keys) == set(range(16))) == (kind == FIRST)
        assert kind == FIRST or min(keys) >= 16
        assert kind == "tokens" or not set(keys) & set(found.tokens)  # a frame still sees itself
