"""Captures of a run with edits show what the edits left, views of attention included."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from interp import edits, views
from interp.errors import SelectionError
from interp.lab import Lab, load
from interp.runspec import RunSpec
from interp.selection import select
from tests import pipelines
from tests.tracer.runs import specs_of

ATTN, CROSS, RESID_MID = "blocks.0.attn", "blocks.0.cross_attn", "blocks.0.hook_resid_mid"


@cache
def tiny() -> tuple[Lab, list[RunSpec]]:
    lab = load(pipelines.tiny_i2v())
    return lab, specs_of(lab, pipelines.call_arguments(lab.pipe, guidance=5.0, steps=2), [0, 1])


def run(capture: Any, edit: Any = (), given: Any = None) -> dict[str, Tensor]:
    """What is captured of one run: name to [step, branch, <axes>]."""
    lab, runs = tiny()
    return lab.run(runs[0], capture, edits=edit, views=given).captured


@pytest.mark.parametrize("part", ["attn", "cross_attn"])
def test_a_result_by_head_is_that_much_of_the_output(part: str) -> None:
    """Dropping what one head adds is dropping the head, at the tokens and in the branch it was asked for."""
    at, out = f"blocks.0.{part}", f"blocks.0.hook_{part}_out"
    where = {"head": 1, "frames": 1, "branch": "uncond", "step": 0}
    names = [f"{at}.hook_result", out]
    clean, got = run(names), run(names, edits.zero(f"{at}.hook_result", **where))
    same = run(names, edits.zero(f"{at}.hook_z", **where))
    expected = clean[names[0]].clone()
    expected[0, 1, 4:8, 1] = 0
    torch.testing.assert_close(got[names[0]][0], expected[0])
    torch.testing.assert_close(got[out][0], same[out][0], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(got[out][0, 1, 4:8], clean[out][0, 1, 4:8])
    assert torch.equal(got[out][0, 1, :4], clean[out][0, 1, :4])
    assert torch.equal(got[out][0, 0], clean[out][0, 0])


@pytest.mark.parametrize("op", ["rot_q", "rot_k"])
def test_a_pattern_is_of_edited_queries_and_keys(op: str) -> None:
    given = ["full", views.attention_mass("frames", "frames"), "attention_entropy"]
    names = [f"{ATTN}.hook_rot_q", f"{ATTN}.hook_rot_k"]
    edit = edits.scale(f"{ATTN}.hook_{op}", -2.0, step=0, head=0)
    clean, parts = run(names), run(names, edit)
    got = run(f"{ATTN}.hook_pattern", edit, given)
    torch.testing.assert_close(parts[f"{ATTN}.hook_{op}"][0, :, :, 0], -2 * clean[f"{ATTN}.hook_{op}"][0, :, :, 0])
    q, k = (parts[name] for name in names)
    pattern = torch.einsum("...qhd,...khd->...hqk", q * q.shape[-1] ** -0.5, k).softmax(-1)
    torch.testing.assert_close(got[f"{ATTN}.hook_pattern"], pattern, rtol=1e-4, atol=1e-6)
    mass = pattern.unflatten(-1, (3, 4)).sum(-1).unflatten(-2, (3, 4)).mean(-2)
    torch.testing.assert_close(got[f"{ATTN}.hook_pattern@attention_mass-frames-to-frames"], mass, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(pattern, run(f"{ATTN}.hook_pattern")[f"{ATTN}.hook_pattern"], atol=1e-3)


def test_a_pattern_is_of_edited_scores_and_rows_are_chosen() -> None:
    edit = edits.set_to(f"{CROSS}.hook_attn_scores", 0.0, head=1, frames=0, step=1)
    chosen = select(f"{CROSS}.hook_{{attn_scores,pattern}}", frames="0:2", head=1)
    got, clean = run(chosen, edit), run(chosen)
    for name, wanted in ((f"{CROSS}.hook_attn_scores", 0.0), (f"{CROSS}.hook_pattern", 1 / 512)):
        assert got[name].shape == (2, 2, 1, 8, 512)
        torch.testing.assert_close(got[name][1, :, :, :4], torch.full_like(got[name][1, :, :, :4], wanted))
        assert not torch.allclose(got[name][1, :, :, 4:], got[name][1, :, :, :4], atol=1e-4)
        assert torch.equal(got[name][0], clean[name][0])


@pytest.mark.parametrize(
    "edit",
    [
        edits.scale("blocks.*.attn.hook_rot_q", 1.5, step=1),
        edits.scale("blocks.1.hook_attn_update", 0.5, branch="cond"),
        edits.add("blocks.1.cross_attn.hook_attn_scores", 1.0, head=0, tokens=3)
        | edits.zero("blocks.0.hook_resid_mid"),
        edits.scale("blocks.0.attn.hook_result", 2.0, head=1),
    ],
    ids=["rot_q", "attn_update", "scores and resid_mid", "result"],
)
def test_looking_at_an_edited_run_changes_nothing(edit: Any) -> None:
    lab, runs = tiny()
    looked_at = ["blocks.*.{attn,cross_attn}.hook_{pattern,attn_scores,result}", "**"]
    bare = lab.run(runs, edits=edit)
    seen = lab.run(runs, looked_at, edits=edit)
    for one, other in zip(bare, seen, strict=True):
        assert torch.equal(one.trajectory.latents, other.trajectory.latents)


def test_a_knock_out_elsewhere_does_not_stand_in_the_way() -> None:
    site = f"{ATTN}.hook_pattern"
    edit = edits.knockout(ATTN, keys=select(frames=0), step=1)
    got = run(select(site, step=0, tokens=[3, 7]), edit, ["full", "attention_entropy"])
    clean = run(site)[site][:1, :, :, [3, 7]]
    torch.testing.assert_close(got[site], clean)
    torch.testing.assert_close(got[f"{site}@attention_entropy"], -(clean * clean.log()).sum(-1))


def test_views_of_an_edited_site_are_of_the_edited_tensor() -> None:
    site = "blocks.1.hook_mlp_update"
    got = run(site, edits.zero(site, frames=-1), ["full", "frame_mean", "norm"])
    assert (got[f"{site}@norm"][:, :, 8:] == 0).all()
    assert (got[f"{site}@norm"][:, :, :8] > 0).all()
    torch.testing.assert_close(got[f"{site}@frame_mean"], got[site].unflatten(2, (3, 4)).mean(3))


@pytest.mark.parametrize(
    ("edit", "given"),
    [
        (edits.knockout(ATTN, keys=select(frames=0)), "full"),
        (edits.knockout(ATTN, keys=select(frames=0)), "attention_entropy"),
        (edits.add(f"{ATTN}.hook_attn_scores", 1.0), "attention_entropy"),
        (edits.scale(f"{ATTN}.hook_pattern", 0.5, step=1), "attention_top-2"),
    ],
)
def test_what_would_show_attention_before_the_edit_is_refused(edit: Any, given: str) -> None:
    with pytest.raises(SelectionError, match="as it was before the edit"):
        run(f"{ATTN}.hook_pattern", edit, given)
    run(f"{CROSS}.hook_pattern", edit, given)
