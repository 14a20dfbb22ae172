"""The run-time checks are really in place: a wrong type or shape is caught, in a message that names it."""

from __future__ import annotations

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from interp.grid import TokenGrid
from interp.mini.latents import denormalise, encode_blocks, normalise
from interp.sites import site_named
from tests.shapes import check, watched


def test_a_wrong_axis_is_caught() -> None:
    with pytest.raises(TypeCheckError, match="encode_blocks"):
        encode_blocks(np.zeros((1, 5, 8, 8, 4), dtype=np.float32))


def test_axes_of_one_name_have_one_length() -> None:
    channel = np.ones(16, dtype=np.float32)
    scaled = normalise(encode_blocks(np.zeros((2, 5, 8, 8, 3), dtype=np.float32)), channel, channel)
    with pytest.raises(TypeCheckError, match="denormalise"):
        denormalise(scaled[:, :12], channel, channel)


def test_a_wrong_type_is_caught() -> None:
    with pytest.raises(TypeCheckError, match="frames"):
        TokenGrid(frames="3", rows=2, cols=2)  # type: ignore[arg-type]  # that it is refused at run time too


def given_none(say: int) -> int:
    """For the test below, decorated as the import hook does."""
    return None if say else 1  # type: ignore[return-value]  # on purpose


def test_functions_that_speak_of_no_axes_are_checked_too() -> None:
    with pytest.raises(TypeCheckError, match="site_named"):
        site_named(3)  # type: ignore[arg-type]  # on purpose
    checked = watched(typechecker=check)(given_none)
    assert checked(0) == 1
    with pytest.raises(TypeCheckError, match="return"):
        checked(1)
    with pytest.raises(TypeCheckError, match="say"):
        checked("1")


@pytest.mark.usefixtures("nobody_checks_types")
def test_checks_can_be_left_out() -> None:
    assert watched(given_none, typechecker=check)(1) is None
