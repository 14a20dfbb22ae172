"""A thousand malformed selections and more: each gives one clear error, and never another kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.errors import SelectionError
from interp.selection import Selection, select
from tests.address.spaces import small_space
from tests.address.strategies import patterns

SPACE = small_space()

SIGNS = ". .. * ** { } {} [ ] ( ) | & = , ; : :: - $ \\ ' \" _ é \x00 \n ٣".split(" ")
NUMBERS = "0 3 -1 --1 999999999999 1_0 0x1 1e999 0.5<..0.9 <.. nan<..inf 4x4: 4x4:AAAA 2x2:eJxjAAAAAQAB".split(" ")
WORDS = "blocks hook_z attn latents hook_x0 step sigma branch mask box frames cond None {layer}".split(" ")
PIECES = [*SIGNS, *NUMBERS, *WORDS, " "]
GOOD = [
    "blocks.*.hook_resid_post[step=0:5, branch=cond, frames=1:]",
    "(blocks.3:6.attn.hook_z | latents.hook_x0) & [sigma=0.5<..0.9]",
    "blocks.{0,2}.attn.hook_{q,k}[box={0:5;8;8;24;24}, tokens={0..5,9}, head=-1]",
    str(select("blocks.0.hook_resid_post", mask=np.eye(8))),
]


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """A good selection with a few cuts, swaps and insertions."""
    text = draw(st.sampled_from(GOOD))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        stop = draw(st.integers(start, min(len(text), start + 6)))
        text = text[:start] + draw(st.sampled_from([*PIECES, ""])) + text[stop:]
    return text


gibberish = damaged() | st.lists(st.sampled_from(PIECES), max_size=14).map("".join) | st.text(max_size=40)
odd = (
    st.booleans()
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=4)
    | st.integers(-(10**30), 10**30)
    | st.builds(object)
    | st.builds(slice, st.text(max_size=2), st.floats())
    | st.lists(st.none() | st.floats() | st.text(max_size=3) | st.integers(-9, 9), max_size=6)
    | st.dictionaries(st.text(max_size=2), st.integers(), max_size=3)
    | st.sampled_from([np.zeros(0), np.zeros((2, 2, 2, 2)), np.array("x"), np.array([None, 1]), 1j, range(0), int])
)
AXES = [
    "step",
    "sigma",
    "branch",
    "expert",
    "layer",
    "head",
    "frames",
    "rows",
    "cols",
    "tokens",
    "box",
    "mask",
    "region",
]


def is_clear(error: SelectionError) -> bool:
    """Says what was asked or what there is, in one sentence of some length that does not run away."""
    return 15 < len(str(error)) < 1000


@settings(max_examples=1000, deadline=None)
@given(gibberish)
def test_text(text: str) -> None:
    try:
        selection = Selection.parse(text)
        selection.resolve(SPACE)
    except SelectionError as error:
        clear = is_clear(error)
    else:
        clear = Selection.parse(str(selection)) == selection  # damage that still makes sense
    assert clear


@settings(max_examples=400, deadline=None)
@given(patterns, st.sampled_from(AXES), odd)
def test_values(pattern: str, axis: str, value: Any) -> None:
    try:
        selection = select(pattern, **{axis: value})
        selection.resolve(SPACE)
    except SelectionError as error:
        clear = is_clear(error)
    else:
        clear = Selection.parse(str(selection)) == selection
    assert clear


def test_axes_that_are_not_there() -> None:
    with pytest.raises(SelectionError, match=r"no axis 'steps' \(did you mean step"):
        select("blocks.0.hook_resid_post", steps=0)
