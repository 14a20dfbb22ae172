"""The lens at the last block is the model's own head: the same bits, for every kind of pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import interp
from interp.errors import InterpError, SelectionError
from interp.lenses import estimates, head_velocity, layer_lens
from interp.patches import patchify
from tests import pipelines
from tests.edits.labs import short_call
from tests.tracer.runs import sample_of

KINDS: dict[str, Callable[[], Any]] = {
    "i2v": pipelines.tiny_i2v,
    "i2v two experts": lambda: pipelines.tiny_i2v(two_experts=True),
    "i2v bf16": lambda: pipelines.tiny_i2v(dtype=torch.bfloat16),
    "t2v": lambda: pipelines.tiny_t2v(scheduler="unipc"),
    "t2v two experts": lambda: pipelines.tiny_t2v(two_experts=True),
    "ti2v image": pipelines.tiny_ti2v,
    "ti2v text": lambda: pipelines.tiny_ti2v(image=False),
    "i2v clip": pipelines.tiny_i2v_clip,
}


def lab_of(kind: str, guidance: float = 4.0, steps: int = 2) -> tuple[Any, list[Any]]:
    pipe = KINDS[kind]()
    lab = interp.load(pipe)
    arguments = short_call(pipe, steps, guidance)
    names = ("guidance_scale", "negative_prompt", *(() if "clip" in kind else ("max_sequence_length",)))
    return lab, lab.plan(sample_of(arguments), [1, 2], steps=steps, **{name: arguments[name] for name in names
                                                                     if name in arguments})  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_block_gives_the_velocity_to_the_bit(kind: str) -> None:
    lab, runs = lab_of(kind)
    finished = lab.run_batch(runs)
    seen = set()
    for found in estimates(lab, runs, layers=[-1, 0, 1], branches=("guided", "cond", "uncond")):
        seen.add((found.step, found.branch, found.layer))
        if found.layer == 1:
            assert found.error.eq(0).all()
        elif found.layer is not None:
            assert found.error.gt(0).all()
        if found.branch == "guided" and found.layer in (1, None):
            own = torch.stack([trajectory.x0_hat[found.step] for trajectory in finished])
            assert torch.equal(found.x0_hat, own)
    assert len(seen) == 2 * 3 * 4


def test_a_lens_in_the_middle_is_the_naive_head() -> None:
    lab, runs = lab_of("i2v", guidance=1.0)
    (result,) = lab.run(runs[:1], ["blocks.0.hook_resid_post", "latents.hook_in", "time_embed.hook_temb"])
    model = lab.pipe.transformer
    middle = next(e for e in estimates(lab, runs[:1], layers=[0], steps=[-1]) if e.layer == 0)
    x = result.captured["blocks.0.hook_resid_post"][-1]
    shift, scale = (model.scale_shift_table[0] + result.captured["time_embed.hook_temb"][-1]).unbind(0)
    normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + model.config.eps).sqrt()
    velocity = (normed * (1 + scale) + shift) @ model.proj_out.weight.T + model.proj_out.bias
    grid = lab.grid(runs[0].sample)
    torch.testing.assert_close(patchify(middle.velocity, grid), velocity)
    clean = result.captured["latents.hook_in"][-1] - middle.sigma * velocity
    torch.testing.assert_close(patchify(middle.x0_hat, grid), clean)
    assert middle.step == 1


def test_nothing_is_left_on_the_model_and_hooks_of_others_stay_out() -> None:
    lab, runs = lab_of("i2v", guidance=1.0)
    calls: list[int] = []
    handle = lab.pipe.transformer.proj_out.register_forward_hook(lambda *_: calls.append(1))
    list(estimates(lab, runs, layers=[0, 1]))
    handle.remove()
    assert len(calls) == 2  # the model's own, one a step
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lab.pipe.transformer.modules())


def test_only_what_is_asked_for_is_run() -> None:
    lab, runs = lab_of("i2v", guidance=1.0, steps=3)
    calls: list[int] = []
    with_hook = lab.pipe.transformer.register_forward_hook(lambda *_: calls.append(1))
    table = layer_lens(lab, runs, layers=[1], steps=[0])
    with_hook.remove()
    assert len(calls) == 1
    assert table.select("step", "layer").rows() == [(0, 1), (0, 1), (0, None), (0, None)]


def test_what_the_runs_do_not_have() -> None:
    lab, runs = lab_of("i2v", guidance=1.0)
    with pytest.raises(SelectionError, match="blocks 0 to 1"):
        layer_lens(lab, runs, layers=[2])
    with pytest.raises(SelectionError, match="steps 0 to 1"):
        layer_lens(lab, runs, steps=[5])
    with pytest.raises(SelectionError, match="no uncond pass"):
        layer_lens(lab, runs, branches=("uncond",))
    with pytest.raises(InterpError, match="no runs"):
        layer_lens(lab, [])
    assert head_velocity(lab.pipe.transformer, torch.zeros(1, 2, 24), torch.zeros(1, 24), torch.zeros(1, 24)).shape == (
        1, 2, 64,
    )  # fmt: skip
