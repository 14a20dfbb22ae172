"""Edits that must change nothing, to the bit: over pipelines, experts, branches and solvers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from interp import edits, select
from tests.edits.labs import ALL_KINDS, KINDS, lab_and_runs, results, short_call, state

MODULE_SITES = [
    "blocks.*.hook_resid_pre",
    "blocks.*.attn.hook_z",
    "blocks.*.cross_attn.hook_k",
    "blocks.*.mlp.hook_post",
]
INNER_SITES = [
    "blocks.*.hook_resid_mid",
    "blocks.*.hook_resid_mid_cross",
    "blocks.*.hook_{attn,mlp}_update",
    "blocks.*.attn.hook_rot_{q,k}",
    "blocks.*.{attn,cross_attn}.hook_attn_scores",
    "blocks.1.{attn,cross_attn}.hook_pattern",
]
SAMPLER_SITES = [
    "latents.hook_{in,out}",
    "latents.hook_velocity_{cond,uncond,cfg}",
    "latents.hook_{x0,x0_cond,x0_uncond}",
]

NOTHING: dict[str, list[edits.Edit]] = {
    "module sites": [
        edits.scale(select(MODULE_SITES), 1.0),
        edits.interpolate("blocks.*.hook_attn_out", source=1, share=0.0),
        edits.noise("blocks.*.hook_cross_attn_out", scale=0.0),
        edits.clamp("blocks.*.hook_mlp_out", -1e9, 1e9),
        edits.project_out("blocks.*.hook_mlp_out", torch.ones(24), strength=0.0),
        edits.wire("blocks.*.attn.hook_q", torch.eye(3), match="variance"),
        edits.mean_over_worlds("blocks.*.hook_resid_post", worlds=[1], match="norm"),
    ],
    "inside blocks": [edits.scale(select(INNER_SITES), 1.0)],
    "the sampler": [edits.scale(select(SAMPLER_SITES), 1.0)],
    "knock-out of nothing": [edits.knockout("blocks.*.{attn,cross_attn}", keys=())],
    "and back": [
        edits.swap(select(["blocks.*.hook_resid_post", "blocks.*.hook_resid_mid", "latents.hook_in"])),
        edits.swap(select(["blocks.*.hook_resid_post", "blocks.*.hook_resid_mid", "latents.hook_in"])),
        edits.scale("blocks.*.attn.hook_v", 2.0),
        edits.scale("blocks.*.attn.hook_v", 0.5),
    ],
}


@pytest.mark.parametrize("scheduler", ["euler", "unipc"])
@pytest.mark.parametrize("kind", KINDS)
def test_edits_that_change_nothing_change_no_bit(kind: str, scheduler: str) -> None:
    lab, runs = lab_and_runs(kind, scheduler)
    clean, before = results(lab.run(runs)), state(lab.pipe)
    for name, graph in NOTHING.items():
        out = lab.run(runs, edits=graph)
        assert torch.equal(results(out), clean), name
        assert all(run.edited.fired for run in out), name
        if "back" not in name:
            assert all(one.change == 0 for one in out[0].edited.fired), name
    assert state(lab.pipe) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("scheduler", ["euler", "unipc"])
@pytest.mark.parametrize("kind", KINDS)
def test_patching_a_run_with_itself_changes_no_bit(kind: str, scheduler: str, dtype: torch.dtype) -> None:
    lab, runs = lab_and_runs(kind, scheduler, dtype=dtype)
    clean = lab.run(runs[0])
    sites = select([*MODULE_SITES, "blocks.*.hook_resid_mid", "blocks.*.hook_resid_post", "latents.hook_in"])
    kept = edits.run_with(lab, runs[0], (), sites)
    assert torch.equal(kept.trajectory.latents, clean.trajectory.latents)
    again = lab.run(runs[0], edits=edits.patch(sites, kept))
    assert torch.equal(again.trajectory.latents, clean.trajectory.latents)
    assert len(again.edited.fired) == kept.receipt.tensors


@pytest.mark.parametrize("scheduler", ["euler", "unipc"])
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_full_stream_patch_is_running_the_source_from_there_on(kind: str, scheduler: str) -> None:
    """At equal batch size and in the same row, where equal inputs give equal bits. VACE's stream is joined by hints."""
    lab, (target, other, _) = lab_and_runs(kind, scheduler, steps=2)
    whole = select(["blocks.*.hook_resid_post", "latents.hook_velocity_{cond,uncond}"])
    joining = select(["blocks.0.hook_resid_post", *["vace_blocks.*.hook_hint"] * ("vace" in kind)])
    source = edits.run_with(lab, other, (), whole | joining)
    patched = edits.run_with(lab, target, edits.patch(joining, source), whole | joining)
    assert set(source.captured) == set(patched.captured)
    for site, values in source.captured.items():  # both experts, both branches
        assert torch.equal(patched.captured[site], values), site
    assert not torch.equal(patched.trajectory.result, source.trajectory.result)


@pytest.mark.parametrize("taken", ["cond", "uncond"])
def test_one_pass_patched_from_the_other_is_a_run_without_guidance(taken: str) -> None:
    """Where both passes hold the same before the head, guidance has nothing to add."""
    lab, (run, _, _) = lab_and_runs(steps=2, guidance=4.0)
    other = {"cond": "uncond", "uncond": "cond"}[taken]
    sites = select("latents.hook_velocity_{cond,uncond}")
    kept = edits.Stored.of(edits.run_with(lab, run, (), "head.hook_in"), branch=taken)
    graph = edits.patch("head.hook_in", kept, step=0, branch=other)
    out = edits.run_with(lab, run, graph, sites, stop=1)
    cond, uncond = (out.captured[f"latents.hook_velocity_{branch}"] for branch in ("cond", "uncond"))
    assert torch.equal(cond, uncond)


def test_patching_latents_and_all_of_a_step_becomes_the_other_run() -> None:
    lab, runs = lab_and_runs(scheduler="euler")
    source = edits.run_with(lab, runs[1], (), "latents.hook_in")
    patched = lab.run(runs[0], edits=edits.patch("latents.hook_in", source, step=1))
    assert torch.equal(patched.trajectory.latents[1:], source.trajectory.latents[1:])


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("scheduler", ["euler", "unipc"])
def test_the_same_patch_by_plain_torch_hooks(scheduler: str, guidance: float) -> None:
    """Reference: forward hooks on the bare pipeline, counting calls by hand."""
    lab, (target, source, _) = lab_and_runs(scheduler=scheduler, guidance=guidance)
    pipe, arguments = lab.pipe, short_call(lab.pipe, 3, guidance)
    passes = 1 if guidance == 1 else 2

    def bare(seed: int, hook: Any) -> torch.Tensor:
        calls = {"n": 0}

        def counted(module: Any, args: Any, output: torch.Tensor) -> Any:
            step, branch = divmod(calls["n"], passes)
            calls["n"] += 1
            return hook(step, branch, output)

        handles = [m.blocks[0].register_forward_hook(counted) for m in (pipe.transformer, pipe.transformer_2)]
        try:
            return pipe(**(arguments | {"generator": torch.Generator().manual_seed(seed)})).frames
        finally:
            for handle in handles:
                handle.remove()

    seen: dict[tuple[int, int], torch.Tensor] = {}
    bare(2, lambda step, branch, out: seen.__setitem__((step, branch), out.clone()))

    def replace(step: int, branch: int, out: torch.Tensor) -> torch.Tensor:
        if step != 1 or branch != 0:
            return out
        new = out.clone()
        new[:, 8:] = seen[step, branch][:, 8:]  # the last of three frames of 2 x 2 tokens
        return new

    expected = bare(1, replace)
    kept = edits.run_with(lab, source, (), "blocks.0.hook_resid_post")
    patch = edits.patch("blocks.0.hook_resid_post", kept, step=1, branch="cond", frames=-1)
    assert torch.equal(results(lab.run(target, edits=patch)), expected)


@pytest.mark.parametrize("what", ["hook", "inside", "sampler", "mid-run"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_pipeline_is_given_back_after_any_exception(kind: str, what: str) -> None:
    lab, runs = lab_and_runs(kind)
    clean = results(lab.run(runs[0]))
    before = state(lab.pipe)
    site = {
        "hook": "blocks.1.hook_mlp_out",
        "inside": "blocks.1.hook_resid_mid",
        "sampler": "latents.hook_in",
        "mid-run": "blocks.1.attn.hook_pattern",
    }[what]

    def explode(part: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        lab.run(runs[0], edits=edits.function(site, explode, step=2 if what == "mid-run" else 0))
    assert state(lab.pipe) == before
    assert torch.equal(results(lab.run(runs[0])), clean)
