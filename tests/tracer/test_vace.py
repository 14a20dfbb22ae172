"""The hook points of VACE's control blocks are what the blocks compute, and what they add to the model's stream."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from interp import edits, replay
from interp.errors import SelectionError
from interp.lab import load
from interp.observe import Seen
from tests import pipelines
from tests.tracer.runs import KINDS, arguments_of, bare_latents, specs_of
from tests.tracer.state import state_of

SCALES = [0.5, 2.0]


@functools.cache
def watched() -> tuple[Any, Seen, list[tuple[Any, Any]]]:
    """A call, and what the control blocks were called with and gave."""
    pipe = pipelines.tiny_vace()
    given: list[tuple[Any, Any]] = []
    handles = [
        block.register_forward_hook(lambda module, args, out: given.append((args, out)))
        for block in pipe.transformer.vace_blocks
    ]
    arguments = arguments_of("vace", pipe, guidance=5.0, steps=2) | {"conditioning_scale": SCALES}
    with load(pipe).observe(["vace_embed.*", "vace_blocks.**", "blocks.*.hook_resid_{pre,post}"]) as seen:
        bare_latents(pipe, arguments, [3])
    for handle in handles:
        handle.remove()
    return pipe, seen, given


def at(step: int, branch: str) -> Callable[[str], Tensor]:
    return lambda site: watched()[1].tensors[site, step, branch]


@pytest.mark.parametrize(("step", "branch"), [(0, "cond"), (0, "uncond"), (1, "uncond")])
def test_streams_and_hints_are_the_blocks_own(step: int, branch: str) -> None:
    _, _, given = watched()
    site, first = at(step, branch), 4 * step + 2 * (branch == "uncond")
    for layer in range(2):
        args, (hint, after) = given[first + layer]
        assert torch.equal(site(f"vace_blocks.{layer}.hook_resid_pre"), args[2])
        assert torch.equal(site(f"vace_blocks.{layer}.hook_hint"), hint)
        assert torch.equal(site(f"vace_blocks.{layer}.hook_resid_post"), after)
    assert torch.equal(site("vace_embed.hook_out"), site("vace_blocks.0.hook_resid_pre"))
    assert torch.equal(site("vace_blocks.0.hook_resid_post"), site("vace_blocks.1.hook_resid_pre"))


@torch.no_grad()
def test_a_control_block_rebuilt_from_its_sites() -> None:
    pipe, _, _ = watched()
    site = at(1, "cond")
    for layer, block in enumerate(pipe.transformer.vace_blocks):
        inside = functools.partial("vace_blocks.{}.{}".format, layer)
        stream = site(inside("hook_resid_pre"))
        if layer == 0:
            stream = block.proj_in(stream) + site("blocks.0.hook_resid_pre")
        for update, after in (("attn_update", "mid"), ("cross_attn_out", "mid_cross"), ("mlp_update", "post")):
            stream = stream + site(inside(f"hook_{update}"))
            torch.testing.assert_close(stream, site(inside(f"hook_resid_{after}")))
        shift, scale = (site(inside(f"attn.hook_{op}")).unsqueeze(1) for op in ("shift", "scale"))
        torch.testing.assert_close(
            site(inside("ln1.hook_normalized")) * (1 + scale) + shift, site(inside("attn.hook_in"))
        )
        for part, attn, out in (("attn", block.attn1, "attn_out"), ("cross_attn", block.attn2, "cross_attn_out")):
            torch.testing.assert_close(
                attn.to_out[0](site(inside(f"{part}.hook_z")).flatten(-2)), site(inside(f"hook_{out}"))
            )
        torch.testing.assert_close(block.proj_out(stream), site(inside("hook_hint")))


def test_hints_times_their_scale_join_the_stream_behind_their_block() -> None:
    site = at(0, "cond")
    joined = site("blocks.0.hook_resid_post") + site("vace_blocks.0.hook_hint") * SCALES[0]
    assert torch.equal(joined, site("blocks.1.hook_resid_pre"))


def test_patterns_of_control_blocks_give_their_z() -> None:
    pipe = pipelines.tiny_vace()
    names = [f"vace_blocks.1.attn.hook_{op}" for op in ("pattern", "v", "z", "result")]
    with load(pipe).observe([*names, "vace_blocks.1.hook_attn_out"], step=0) as seen:
        bare_latents(pipe, arguments_of("vace", pipe, steps=1), [3])
    pattern, v, z, result = (seen.tensors[name, 0, "cond"] for name in names)
    torch.testing.assert_close(torch.einsum("bhqk,bkhd->bqhd", pattern, v), z)
    bias = pipe.transformer.vace_blocks[1].attn1.to_out[0].bias.detach()
    torch.testing.assert_close(result.sum(2) + bias, seen.tensors["vace_blocks.1.hook_attn_out", 0, "cond"])


RUNS = [
    ("vace", "unipc", 5.0, torch.bfloat16),
    ("vace", "euler", 1.0, torch.float32),
    ("vace two experts", "euler", 5.0, torch.float32),
    ("vace two experts", "unipc", 5.0, torch.bfloat16),
]


@pytest.mark.parametrize(("kind", "scheduler", "guidance", "dtype"), RUNS)
def test_the_step_loop_gives_the_bits_of_the_stock_call(
    kind: str, scheduler: str, guidance: float, dtype: torch.dtype
) -> None:
    pipe = KINDS[kind](scheduler=scheduler, dtype=dtype)
    arguments = arguments_of(kind, pipe, guidance=guidance)
    expected = bare_latents(pipe, arguments, [3])
    before = state_of(pipe)
    lab = load(pipe)
    (run,) = specs_of(lab, arguments, [3])
    found = lab.run(run, ["blocks.*.hook_resid_post", "vace_blocks.*.hook_hint"])
    assert torch.equal(found.trajectory.result, expected[0].float())
    assert state_of(pipe) == before
    with lab.observe("vace_blocks.*.hook_hint") as seen:
        bare_latents(pipe, arguments, [3])
    for (site, step, branch), tensor in seen.tensors.items():
        at = run.settings.branches.index(branch)
        assert torch.equal(found.captured[site][step, at], tensor[0].float())


@pytest.mark.parametrize("site", ["vace_blocks.1.hook_hint", "blocks.1.hook_mlp_out"])
def test_an_edited_run_goes_on_from_its_first_edited_step_to_the_bit(site: str) -> None:
    lab = load(pipelines.tiny_vace(scheduler="unipc"))
    (run,) = specs_of(lab, arguments_of("vace", lab.pipe, guidance=5.0), [3])
    edit = edits.scale(site, 0.5, step=1)
    edited = lab.run(run, edits=edit)
    (again,) = replay.replay(lab, replay.record(lab, run, keep=[(1, 1)]), edit)
    assert torch.equal(edited.trajectory.result, again.trajectory.result)
    clean = edits.run_with(lab, run, (), capture=site)
    assert not torch.equal(edited.trajectory.result, clean.trajectory.result)
    itself = lab.run(run, edits=edits.patch(site, source=clean))
    assert torch.equal(itself.trajectory.result, clean.trajectory.result)


@pytest.mark.parametrize(
    ("pipe", "site", "message"),
    [
        (pipelines.tiny_t2v, "vace_blocks.*.hook_hint", "it is no VACE model"),
        (pipelines.tiny_vace, "vace_blocks.2.hook_hint", r"layer 2 is out of range: the model has 2 layers"),
        (pipelines.tiny_vace, "vace_blocks.0.hook_hnt", r"did you mean vace_blocks\.0\.hook_hint"),
    ],
)
def test_control_blocks_that_are_not_there(pipe: Any, site: str, message: str) -> None:
    made = pipe()
    with pytest.raises(SelectionError, match=message), load(made).observe(site):
        bare_latents(made, arguments_of("vace" if "vace" in type(made).__name__.lower() else "t2v", made, steps=1), [3])
