"""The model rebuilt from captures alone, in every kind of pipeline: all steps, so both experts, and both branches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from interp.patches import unpatchify
from interp.sampler import transformer_of
from tests import pipelines
from tests.tracer.runs import KINDS
from tests.tracer.walk import GUIDANCE, Walk, walk

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

pytestmark = [pytest.mark.parametrize("dtype", DTYPES), pytest.mark.parametrize("kind", KINDS)]


def assert_close(left: Tensor, right: Tensor, dtype: str) -> None:
    """To the rounding of what the model adds in: 8 bits in bf16."""
    tolerance = {"rtol": 1e-4, "atol": 2e-5} if dtype == "fp32" else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(left, right, **tolerance)


def block(run: Walk, layer: int, part: str = "") -> dict[str, Tensor]:
    """Tensors of a block, or of a part of it, by op."""
    at = f"blocks.{layer}.{part}hook_"
    return {name.removeprefix(at): value for name, value in run.got.items() if name.startswith(at)}


def by_expert(run: Walk, module: str, values: Tensor) -> Tensor:
    """[step, branch, ...] through a module of the expert that ran the step."""
    made = []
    for step, expert in enumerate(run.space.experts):
        model: Any = transformer_of(run.lab.pipe, "low" if expert == "low" else "main")
        found = model.get_submodule(module)
        with torch.no_grad():
            made.append(found(values[step].to(found.weight.dtype)).float())
    return torch.stack(made)


def test_the_residual_stream_is_what_entered_and_the_gated_updates(kind: str, dtype: str) -> None:
    run = walk(kind, DTYPES[dtype])
    for layer in range(pipelines.LAYERS):
        at = block(run, layer)
        parts = at["resid_pre"] + at["attn_update"] + at["cross_attn_out"] + at["mlp_update"]
        assert_close(parts, at["resid_post"], dtype)
        assert_close(at["resid_pre"] + at["attn_update"], at["resid_mid"], dtype)
        assert_close(at["resid_mid"] + at["cross_attn_out"], at["resid_mid_cross"], dtype)
        for part, update in (("attn", "attn"), ("mlp", "mlp")):
            gate = block(run, layer, f"{part}.")["gate"]
            gate = gate if "ti2v" in kind else gate.unsqueeze(-2)
            assert_close(at[f"{update}_out"] * gate, at[f"{update}_update"], dtype)


@pytest.mark.parametrize("part", ["attn", "cross_attn"])
def test_softmax_of_queries_and_keys_gives_z_and_z_gives_the_output(kind: str, dtype: str, part: str) -> None:
    run = walk(kind, DTYPES[dtype])
    for layer in range(pipelines.LAYERS):
        at, out = block(run, layer, f"{part}."), block(run, layer)[f"{part}_out"]
        queries, keys = (at["rot_q"], at["rot_k"]) if part == "attn" else (at["q"], at["k"])
        scores = torch.einsum("...qhd,...khd->...hqk", queries, keys) * pipelines.HEAD_DIM**-0.5
        pattern = scores.softmax(-1)
        assert_close(at["attn_scores"], scores, "fp32")
        assert_close(at["pattern"], pattern, "fp32")
        z = torch.einsum("...hqk,...khd->...qhd", pattern, at["v"])
        assert_close(z + at["z_img"] if "z_img" in at else z, at["z"], dtype)
        path = f"blocks.{layer}.attn{1 if part == 'attn' else 2}.to_out.0"
        assert_close(by_expert(run, path, at["z"].flatten(-2)), out, dtype)
        bias = by_expert(run, path, torch.zeros_like(at["z"].flatten(-2)))
        assert_close(at["result"].sum(-2) + bias, out, dtype)


def test_the_head_gives_the_velocity_and_the_last_x0_is_the_result(kind: str, dtype: str) -> None:
    run = walk(kind, DTYPES[dtype])
    got, latents = run.got, {name.removeprefix("latents.hook_"): value for name, value in run.got.items()}
    tokens = got["head.hook_velocity_tok"]
    assert torch.equal(unpatchify(tokens, run.space.grid), got["hook_velocity"])
    cond, uncond = tokens[:, 0], tokens[:, 1]
    assert torch.equal(cond, latents["velocity_cond"][:, 0])
    assert torch.equal(uncond, latents["velocity_uncond"][:, 0])
    assert_close(uncond + GUIDANCE * (cond - uncond), latents["velocity_cfg"][:, 0], dtype)
    sigmas = torch.tensor(run.space.sigmas[: run.space.steps]).view(-1, 1, 1)
    for branch in ("cond", "uncond", "cfg"):
        x0 = latents["x0" if branch == "cfg" else f"x0_{branch}"][:, 0]
        assert_close(latents["in"][:, 0] - sigmas * latents[f"velocity_{branch}"][:, 0], x0, "fp32")
    assert_close(latents["x0"][-1], latents["out"][-1], dtype)
    assert torch.equal(latents["in"][1:], latents["out"][:-1])
    result = run.trajectory.result
    later = slice(1, None) if kind == "ti2v image" else slice(None)  # there the first frame is given, not made
    assert_close(unpatchify(latents["out"][-1, 0], run.space.grid)[:, later], result[:, later], "fp32")


def test_modulation_is_the_table_plus_the_time_embedding(kind: str, dtype: str) -> None:
    run = walk(kind, DTYPES[dtype])
    mod = run.got["time_embed.hook_mod"]
    for layer in range(pipelines.LAYERS):
        for step, expert in enumerate(run.space.experts):
            model: Any = transformer_of(run.lab.pipe, "low" if expert == "low" else "main")
            table = model.blocks[layer].scale_shift_table.detach()[0].float()
            for row, name in enumerate(f"{part}.hook_{op}" for part in ("attn", "mlp") for op in OPS):
                assert_close(run.got[f"blocks.{layer}.{name}"][step], table[row] + mod[step][..., row, :], "fp32")


OPS = ("shift", "scale", "gate")
