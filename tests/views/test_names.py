"""Names of views: printed, read back, and held by a store."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp import views
from interp.errors import SelectionError
from interp.store.layout import check_name

PLAIN = [
    views.full(),
    views.frame_mean(),
    views.token_mean(),
    views.covariance(),
    views.norm(),
    views.norm("robust"),
    views.norm("layer"),
    views.grid_pool(3, 4),
    views.random_projection(64),
    views.random_projection(64, seed=7),
    views.region_mean("goal", "start"),
    views.attention_mass("frames", "frames"),
    views.attention_mass(["goal", "start"], ["frames", "goal"]),
    views.attention_mass(None, "all"),
    views.attention_entropy(),
    views.attention_entropy(["goal", "start"]),
    views.attention_top(8),
]
DECLARED = [
    views.region_mean("frames", goal=[3, 4, 5], late="frames=1:, rows=0"),
    views.project(np.eye(3)[:2], "probe", names=["left", "right"]),
    views.reduce("(f h w) d -> f d"),
    views.reduce("t (group c) -> t group", "max", group=4),
    views.attention_mass("goal", {"words": range(3, 9)}),
    views.attention_mass({f"set{i}": [i] for i in range(40)}, {f"set{i}": [i] for i in range(40)}),
    views.attention_entropy({"late": "frames=1:"}),
]


@pytest.mark.parametrize("view", PLAIN, ids=str)
def test_a_name_is_read_back(view: views.View) -> None:
    assert views.parse(view.name) == view
    assert hash(views.parse(view.name)) == hash(view)


@pytest.mark.parametrize("view", PLAIN + DECLARED, ids=str)
def test_a_name_can_be_stored(view: views.View) -> None:
    check_name(views.stored_name("blocks.39.cross_attn.hook_resid_mid_cross", view), "site")


@pytest.mark.parametrize("view", PLAIN + DECLARED, ids=str)
def test_a_declaration_is_read_back_from_json(view: views.View) -> None:
    assert views.view_of(json.loads(json.dumps(view.declaration()))) == view
    assert views.parse(view.name, declared=[view]) is view


@given(st.lists(st.integers(0, 999), min_size=1, max_size=300), st.lists(st.integers(0, 999), min_size=1))
def test_names_tell_sets_apart(one: list[int], other: list[int]) -> None:
    a, b = views.region_mean(here=one), views.region_mean(here=other)
    assert (a.name == b.name) == (set(one) == set(other)) == (a == b)


def test_directions_that_differ_have_other_names() -> None:
    one, other = views.project([[1.0, 2.0]], "probe"), views.project([[1.0, 2.5]], "probe")
    assert one.name != other.name
    assert views.project([[1.0, 2.0]], "probe") == one


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no view ''"),
        ("mean", "did you mean"),
        ("frame_mean-3", "takes no parameters"),
        ("grid_pool", "rows and columns"),
        ("grid_pool-2", "rows and columns"),
        ("grid_pool-0x2", "1 or more"),
        ("grid_pool-²x2", "whole number"),
        ("norm-l3", "no norm 'l3'"),
        ("random_projection", "write random_projection"),
        ("random_projection-4-1-2", "write random_projection"),
        ("attention_mass", "write attention_mass-<sets"),
        ("attention_mass-frames", "write attention_mass-<sets"),
        ("attention_mass-frames-to", "no set of tokens"),
        ("attention_top", "write attention_top-<k>"),
        ("attention_top-0", "1 or more"),
        ("project-probe", "does not hold the directions"),
        ("project-probe.12345678", "does not hold all"),
        ("region_mean", "no set of tokens"),
        ("region_mean-a b", "cannot name a set"),
        ("region_mean-a-a", "called 'a'"),
    ],
)
def test_a_malformed_name_is_one_clear_error(text: str, message: str) -> None:
    with pytest.raises(SelectionError, match=message):
        views.parse(text)


def test_a_changed_declaration_is_refused() -> None:
    declared = DECLARED[1].declaration() | {"names": ["right", "left"]}
    with pytest.raises(SelectionError, match="was changed"):
        views.view_of(declared)


def test_a_pattern_is_read_as_the_mean() -> None:
    assert views.parse("(f h w) d->f d") == views.reduce("(f h w)  d -> f d", "mean")
    assert views.reduce("t d -> t").name != views.reduce("t d -> t", "max").name != views.reduce("t d -> d", "max").name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("t d",), "is no axis pattern"),
        (("t d -> d -> t",), "is no axis pattern"),
        (("t ... -> t",), "cannot be read at '.'"),
        (("t () -> t",), "cannot be read at ''"),
        (("batch t d -> t",), "the batch is left out"),
        (("t d -> e",), "'e' on its right"),
        (("t d -> t", "men"), "no operation 'men' .did you mean mean"),
    ],
)
def test_a_malformed_pattern_is_one_clear_error(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(SelectionError, match=message):
        views.reduce(*arguments)


@pytest.mark.parametrize("directions", [[[np.nan, 1.0]], np.ones((2, 2, 2)), [], [["a"]]], ids=str)
def test_directions_have_to_be_a_matrix_of_numbers(directions: object) -> None:
    with pytest.raises(SelectionError, match="not a matrix"):
        views.project(directions)
