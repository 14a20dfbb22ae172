"""The token grid against loops over pixels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.errors import SelectionError
from interp.grid import TokenGrid

sizes = st.integers(1, 4)
grids = st.builds(
    TokenGrid,
    sizes,
    sizes,
    sizes,
    st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(1, 2)),
    vae_spatial=st.sampled_from([2, 4]),
    vae_temporal=st.sampled_from([2, 4]),
)


def naive_token(grid: TokenGrid, pixel_frame: int, y: int, x: int) -> int:
    """The token of one pixel, by walking the causal VAE's frames: 0 | 1..t | t+1..2t | ..."""
    latent, last = 0, 0
    while pixel_frame > last:
        latent, last = latent + 1, last + grid.vae_temporal
    frame = latent // grid.patch[0]
    row, col = y // grid.vae_spatial // grid.patch[1], x // grid.vae_spatial // grid.patch[2]
    return frame * grid.rows * grid.cols + row * grid.cols + col


def test_wan_frames() -> None:
    grid = TokenGrid.from_video(17, 64, 80)
    assert grid == TokenGrid(5, 4, 5) == TokenGrid.from_latents((1, 16, 5, 8, 10))
    assert [grid.latent_frame_of(k) for k in range(17)] == [0] + [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4
    assert [list(grid.pixel_frames_of(k)) for k in (0, 1, 4)] == [[0], [1, 2, 3, 4], [13, 14, 15, 16]]
    assert grid.tokens == 100
    assert (grid.num_frames, grid.height, grid.width) == (17, 64, 80)


@settings(max_examples=60, deadline=None)
@given(grids)
def test_index_and_coords_are_inverse(grid: TokenGrid) -> None:
    assert grid.array().shape == grid.shape
    for (f, r, c), token in np.ndenumerate(grid.array()):
        assert grid.index(f, r, c) == token == grid.index(f - grid.frames, r - grid.rows, c - grid.cols)
        assert grid.coords(int(token)) == (f, r, c)


@settings(max_examples=60, deadline=None)
@given(grids, st.data())
def test_box_and_mask_against_every_pixel(grid: TokenGrid, data: st.DataObject) -> None:
    top = data.draw(st.integers(0, grid.height - 1))
    left = data.draw(st.integers(0, grid.width - 1))
    bottom = data.draw(st.integers(top + 1, grid.height))
    right = data.draw(st.integers(left + 1, grid.width))
    frames = sorted(data.draw(st.sets(st.integers(0, grid.num_frames - 1), min_size=1)))
    expected = {naive_token(grid, f, y, x) for f in frames for y in range(top, bottom) for x in range(left, right)}
    assert grid.tokens_in_box(top, left, bottom, right, frames) == tuple(sorted(expected))

    mask = np.zeros((grid.num_frames, grid.height, grid.width), np.uint8)
    mask[frames, top:bottom, left:right] = 255
    assert grid.tokens_in_mask(mask) == tuple(sorted(expected))
    everywhere = grid.tokens_in_box(top, left, bottom, right)
    assert grid.tokens_in_mask(mask[frames[0]]) == everywhere


@settings(max_examples=60, deadline=None)
@given(grids, st.integers(0, 2**32 - 1), st.floats(0, 0.99))
def test_mask_cover(grid: TokenGrid, seed: int, cover: float) -> None:
    mask = np.random.default_rng(seed).random((grid.num_frames, grid.height, grid.width)) < 0.5
    count = np.zeros((grid.tokens, 2))
    for (f, y, x), inside in np.ndenumerate(mask):
        count[naive_token(grid, f, y, x)] += (inside, 1)
    share = count[:, 0] / count[:, 1]
    if np.abs(share - cover).min() > 1e-9:  # a tie is a matter of rounding
        assert grid.tokens_in_mask(mask, cover) == tuple(np.flatnonzero(share > cover).tolist())


@settings(max_examples=60, deadline=None)
@given(grids)
def test_pixel_box_of_is_what_the_token_covers(grid: TokenGrid) -> None:
    for token in range(grid.tokens):
        frames, top, left, bottom, right = grid.pixel_box_of(token)
        assert grid.tokens_in_box(top, left, bottom, right, frames) == (token,)


def test_round_trip_through_fields() -> None:
    grid = TokenGrid(2, 3, 4, (1, 1, 2), 16, 4)
    assert TokenGrid(**grid.as_dict()) == grid


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda g: g.index(3, 0, 0), "frame 3 is out of range: there are 3"),
        (lambda g: g.index(0, -3, 0), "row -3 is out of range"),
        (lambda g: g.coords(24), "token 24"),
        (lambda g: g.latent_frame_of(9), "pixel frame 9 is out of range: there are 9"),
        (lambda g: g.pixel_frames_of(3), "latent frame 3"),
        (lambda g: g.tokens_in_box(0, 0, 33, 8), "32 x 64 pixels"),
        (lambda g: g.tokens_in_box(4, 4, 4, 8), "empty"),
        (lambda g: g.tokens_in_mask(np.ones((3, 3))), r"\(3, 3\)"),
        (lambda g: TokenGrid(0, 1, 1), "1 or more"),
        (lambda g: TokenGrid.from_video(16, 64, 64), "1 \\+ a multiple of 4"),
        (lambda g: TokenGrid.from_video(17, 60, 64), "multiples of 8"),
        (lambda g: TokenGrid.from_latents((5, 7, 8)), "patches"),
        (lambda g: TokenGrid.from_latents((5,)), "latent_frame"),
    ],
)
def test_refusals(call: Callable[[TokenGrid], object], words: str) -> None:
    with pytest.raises(SelectionError, match=words):
        call(TokenGrid(3, 2, 4))
