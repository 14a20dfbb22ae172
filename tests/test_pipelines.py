"""The tiny pipelines run, repeat to the bit and have the shapes that other tests count on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.pipelines import (
    GRID,
    Pipeline,
    call_arguments,
    tiny_i2v,
    tiny_i2v_clip,
    tiny_t2v,
    tiny_ti2v,
    tiny_v2v,
)

BUILDERS: dict[str, Callable[[], Pipeline]] = {
    "i2v": tiny_i2v,
    "i2v unipc": lambda: tiny_i2v(scheduler="unipc"),
    "i2v two experts": lambda: tiny_i2v(two_experts=True),
    "i2v bf16": lambda: tiny_i2v(dtype=torch.bfloat16),
    "t2v": tiny_t2v,
    "t2v two experts unipc": lambda: tiny_t2v(two_experts=True, scheduler="unipc"),
    "ti2v image": tiny_ti2v,
    "ti2v text": lambda: tiny_ti2v(image=False),
    "i2v clip": tiny_i2v_clip,
    "flf2v": lambda: tiny_i2v_clip(last_frame=True),
    "v2v": tiny_v2v,
}


@pytest.mark.parametrize("name", BUILDERS)
def test_runs_and_repeats_to_the_bit(name: str) -> None:
    latents = []
    for _ in range(2):
        pipe = BUILDERS[name]()
        pipe.set_progress_bar_config(disable=True)
        with torch.no_grad():
            latents.append(pipe(**call_arguments(pipe, guidance=3.0)).frames)
    frames, rows, cols = GRID
    assert latents[0].shape == (1, pipe.vae.config.z_dim, frames, 2 * rows, 2 * cols)
    assert latents[0].isfinite().all()
    assert torch.equal(*latents)


def test_both_experts_are_used() -> None:
    pipe = tiny_i2v(two_experts=True)
    pipe.set_progress_bar_config(disable=True)
    calls: list[str] = []
    for name in ("transformer", "transformer_2"):
        pipe.components[name].register_forward_hook(lambda *_, name=name: calls.append(name))
    pipe(**call_arguments(pipe, steps=4))
    assert set(calls) == {"transformer", "transformer_2"}


def test_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    tiny_i2v_clip()
    assert torch.equal(before, torch.get_rng_state())
