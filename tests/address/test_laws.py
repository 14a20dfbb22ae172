"""Selections against the naive loop, and the laws that union and intersection obey."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from interp.errors import SelectionError
from interp.selection import AddressSpace, Selection, select
from tests.address.naive import BRANCHES, intersection, naive, same, spelled_out, union
from tests.address.strategies import SPACES, Said, anything, mostly_there, resolved, selected

spaces = st.sampled_from(SPACES)


@settings(max_examples=70, deadline=None)
@given(anything | mostly_there(), spaces)
def test_resolution_is_what_a_loop_over_all_addresses_finds(said: Said, space: AddressSpace) -> None:
    selection = selected(said)
    assume(selection is not None)
    assert selection is not None
    expected = naive(*said, space)
    found = resolved(selection, space)
    if found is None:
        if expected:  # something is there, but a position or a name that is not was asked for by itself
            with pytest.raises(SelectionError, match=r"out of range|has no|selects nothing"):
                selection.resolve(space)
        return
    assert same(spelled_out(found), expected)
    assert found.tensors == sum(array.any((2, 3)).sum() for array in expected.values())
    numbers = 0
    for site, array in expected.items():
        assert found.steps_of(site) == tuple(np.flatnonzero(array.any((1, 2, 3))))
        assert found.branches_of(site) == tuple(b for i, b in enumerate(BRANCHES) if array[:, i].any())
        for step, branch in np.ndindex(*array.shape[:2]):
            assert found.contains(site, step, BRANCHES[branch]) == array[step, branch].any()
        axes, shape = space.axes_of(site), space.widths[site]
        rest = [size for axis, size in zip(axes, shape, strict=True) if axis not in ("token", "head")]
        numbers += int(array.sum()) * int(np.prod(rest, dtype=int))
    assert found.nbytes(3) == 3 * numbers


@settings(max_examples=70, deadline=None)
@given(st.lists(st.lists(anything, min_size=1, max_size=2), min_size=1, max_size=2))
def test_what_prints_parses(alternatives: list[list[Said]]) -> None:
    made = [[selected(said) for said in terms] for terms in alternatives]
    assume(all(one is not None for terms in made for one in terms))
    selection = reduce(Selection.__or__, (reduce(Selection.__and__, terms) for terms in made))
    assert isinstance(selection, Selection)
    again = Selection.parse(str(selection))
    assert again == selection
    assert hash(again) == hash(selection)
    assert str(again) == str(selection)
    assert repr(selection) == f"Selection.parse({str(selection)!r})"


@settings(max_examples=40, deadline=None)
@given(mostly_there(), mostly_there(), spaces)
def test_union_and_intersection_are_those_of_sets(a: Said, b: Said, space: AddressSpace) -> None:
    one, two = select(a[0], **a[1]), select(b[0], **b[1])
    assume(resolved(one, space) is not None)
    assume(resolved(two, space) is not None)
    either, both = resolved(one | two, space), resolved(one & two, space)
    left, right = naive(*a, space), naive(*b, space)
    assert either is not None
    assert same(spelled_out(either), union(left, right))
    assert same({} if both is None else spelled_out(both), intersection(left, right))
    order = [space.sites.index(site) for site in either.sites]
    assert order == sorted(order)
    assert either.tensors == len(set(either.addresses())) == len(list(either.addresses()))


@settings(max_examples=40, deadline=None)
@given(mostly_there(), mostly_there(), mostly_there())
def test_equal_by_law_is_equal_as_a_value(first: Said, second: Said, third: Said) -> None:
    a, b, c = (select(pattern, **said) for pattern, said in (first, second, third))
    assert a | a == a & a == a
    assert a | b == b | a
    assert a & b == b & a
    assert (a | b) | c == a | (b | c)
    assert (a & b) & c == a & (b & c)
    assert a & (b | c) == (a & b) | (a & c)
    assert a | (b & c) == (a | b) & (a | c)
    assert a | (a & b) == a & (a | b) == a
    assert Selection.parse(f"({a} | {b}) & ({c})") == (a | b) & c
    assert a | str(b) == a | b == str(a) | b
