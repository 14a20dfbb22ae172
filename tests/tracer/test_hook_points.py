"""Every hook point of every pipeline: fires once a step and branch, has its declared shape, and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from interp.capture import MemorySink, Recorder
from interp.errors import SelectionError
from interp.lab import load
from interp.selection import Selection, select
from interp.sites import SITES, site_named
from tests import pipelines
from tests.tracer.runs import KINDS, arguments_of, bare_latents, seeds_of, specs_of

HEAVY = [site.name.replace("{layer}", "*") for site in SITES if site.heavy]


def everything() -> Selection:
    return select(["**", *HEAVY])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_fires_once_with_its_shape_and_changes_nothing(kind: str, dtype: torch.dtype) -> None:
    pipe = KINDS[kind](scheduler="unipc", dtype=dtype)
    arguments, seeds = arguments_of(kind, pipe, guidance=5.0, steps=3), seeds_of(kind)
    expected = bare_latents(pipe, arguments, seeds)
    lab = load(pipe)
    specs = specs_of(lab, arguments, seeds)
    resolution = everything().resolve(lab.space(specs[0]))
    assert set(resolution.sites) == set(resolution.space.sites)
    sinks = [MemorySink(resolution) for _ in specs]
    recorder = Recorder(resolution, sinks, "float32")
    trajectories = lab.run_batch(specs, recorder)
    receipt = recorder.receipt()  # raises unless every address fired exactly once
    assert receipt.tensors == len(list(resolution.addresses()))
    assert torch.equal(torch.stack([t.result for t in trajectories]), expected.float())
    for site in resolution.sites:
        cells = (len(resolution.steps_of(site)), len(resolution.branches_of(site)))
        assert sinks[0].tensors[site].shape == (*cells, *resolution.shape_of(site)), site


def captured(kind: str, patterns: list[str], dtype: torch.dtype = torch.float32) -> tuple[Any, dict[str, torch.Tensor]]:
    pipe = KINDS[kind](scheduler="euler", dtype=dtype)
    lab = load(pipe)
    run = specs_of(lab, pipelines.call_arguments(pipe, guidance=5.0, steps=3), [3])[0]
    result = lab.run(run, patterns)
    return pipe, result.captured


@pytest.mark.parametrize("kind", ["i2v", "ti2v image", "t2v"])
def test_the_residual_stream_is_the_sum_of_its_parts(kind: str) -> None:
    _, got = captured(kind, ["blocks.1.hook_*"])
    at = {site.rsplit("hook_", 1)[1]: value for site, value in got.items()}
    torch.testing.assert_close(at["resid_pre"] + at["attn_update"], at["resid_mid"])
    torch.testing.assert_close(at["resid_mid"] + at["cross_attn_out"], at["resid_mid_cross"])
    torch.testing.assert_close(at["resid_mid_cross"] + at["mlp_update"], at["resid_post"])


def test_gated_updates_are_outputs_times_gates() -> None:
    _, got = captured("i2v", ["blocks.0.hook_attn_out", "blocks.0.attn.hook_gate", "blocks.0.hook_attn_update"])
    gate = got["blocks.0.attn.hook_gate"].unsqueeze(-2)
    torch.testing.assert_close(got["blocks.0.hook_attn_out"] * gate, got["blocks.0.hook_attn_update"])


@pytest.mark.parametrize("part", ["attn", "cross_attn"])
def test_attention_is_rebuilt_from_its_parts(part: str) -> None:
    names = ["q", "k", "v", "pattern", "z", "result", "attn_scores", *(("rot_q", "rot_k") if part == "attn" else ())]
    pipe, got = captured("i2v", [*(f"blocks.0.{part}.hook_{n}" for n in names), f"blocks.0.hook_{part}_out"])
    at = {site.rsplit("hook_", 1)[1]: value for site, value in got.items()}
    pattern = at["pattern"]
    torch.testing.assert_close(pattern.sum(-1), torch.ones_like(pattern.sum(-1)))
    torch.testing.assert_close(torch.einsum("...hqk,...khd->...qhd", pattern, at["v"]), at["z"], rtol=1e-4, atol=1e-5)
    bias = pipe.transformer.blocks[0].get_submodule("attn1" if part == "attn" else "attn2").to_out[0].bias
    torch.testing.assert_close(at["result"].sum(-2) + bias.detach(), at[f"{part}_out"], rtol=1e-4, atol=1e-5)
    if part == "attn":
        naive = torch.einsum("...qhd,...khd->...hqk", at["rot_q"], at["rot_k"]) * pipelines.HEAD_DIM**-0.5
        torch.testing.assert_close(naive.softmax(-1), pattern, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(at["rot_q"], at["q"])
        # Rotation keeps lengths and leaves the very first token alone.
        torch.testing.assert_close(at["rot_q"].norm(dim=-1), at["q"].norm(dim=-1))
        torch.testing.assert_close(at["rot_q"][..., 0, :, :], at["q"][..., 0, :, :])


def test_the_head_gives_the_velocity_and_the_last_x0_is_the_result() -> None:
    latents = ["latents.hook_x0", "latents.hook_out", "latents.hook_velocity_*"]
    patterns = ["head.hook_velocity_tok", "hook_velocity", *latents]
    _, got = captured("i2v", patterns)
    tokens = got["head.hook_velocity_tok"]
    torch.testing.assert_close(tokens[:, 0], got["latents.hook_velocity_cond"][:, 0])
    torch.testing.assert_close(tokens[:, 1], got["latents.hook_velocity_uncond"][:, 0])
    cond, uncond = tokens[:, 0], tokens[:, 1]
    torch.testing.assert_close(uncond + 5.0 * (cond - uncond), got["latents.hook_velocity_cfg"][:, 0])
    torch.testing.assert_close(got["latents.hook_x0"][-1], got["latents.hook_out"][-1])
    unpatched = tokens.reshape(3, 2, 3, 2, 2, 2, 2, 16).permute(0, 1, 7, 2, 3, 5, 4, 6).reshape(3, 2, 16, 3, 4, 4)
    torch.testing.assert_close(unpatched, got["hook_velocity"])


def test_modulation_is_the_table_plus_the_time_embedding() -> None:
    pipe, got = captured("i2v", ["blocks.1.attn.hook_shift", "blocks.1.mlp.hook_gate", "time_embed.hook_mod"])
    table, mod = pipe.transformer.blocks[1].scale_shift_table.detach()[0], got["time_embed.hook_mod"]
    torch.testing.assert_close(got["blocks.1.attn.hook_shift"], table[0] + mod[..., 0, :])
    torch.testing.assert_close(got["blocks.1.mlp.hook_gate"], table[5] + mod[..., 5, :])


def test_uncond_velocity_does_not_exist_without_guidance() -> None:
    lab = load(pipelines.tiny_i2v())
    run = specs_of(lab, pipelines.call_arguments(lab.pipe), [0])[0]
    with pytest.raises(SelectionError, match="uncond"):
        lab.run(run, "latents.hook_velocity_uncond")


def test_every_site_is_covered_by_some_pipeline_here() -> None:
    """The walk above reaches the whole table: image-family sites through the CLIP pipeline, the rest through all."""
    reached: set[str] = set()
    for kind in ("i2v", "i2v clip"):
        lab = load(KINDS[kind](scheduler="euler"))
        run = specs_of(lab, pipelines.call_arguments(lab.pipe), [0])[0]
        reached |= {site_named(name).name for name in lab.space(run).sites}
    assert reached == {site.name for site in SITES}
