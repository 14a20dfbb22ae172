"""What edits do, against references written out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from interp import edits, select
from interp.capture import patchify
from interp.edits.latents import unpatchify
from interp.edits.op import Moment
from interp.errors import InterpError
from interp.trajectory import SolverState
from tests.edits.labs import lab_and_runs, results

SITE = "blocks.0.hook_resid_post"


@pytest.fixture(scope="module")
def kept() -> tuple[Any, Any, Tensor]:
    """A lab, two runs, and what the edited site holds in the first step without edits: [run, token, d_model]."""
    lab, runs = lab_and_runs(steps=2, guidance=1.0)
    clean = edits.run_with(lab, runs[:2], (), SITE, stop=1)
    return lab, runs[:2], torch.stack([run.captured[SITE][0, 0] for run in clean])


def edited(kept: tuple[Any, Any, Tensor], graph: Any) -> Tensor:
    """The same after an edit."""
    lab, runs, _ = kept
    return torch.stack([run.captured[SITE][0, 0] for run in edits.run_with(lab, runs, graph, SITE, stop=1)])


DIRECTION = torch.linspace(-1, 1, 24)
TOKENS = [1, 5, 6]

WANTED: dict[str, tuple[Any, Any]] = {
    "zero": (edits.zero(SITE, tokens=TOKENS), lambda x: np.zeros_like(x)),
    "set": (edits.set_to(SITE, 2.5, tokens=TOKENS), lambda x: np.full_like(x, 2.5)),
    "scale": (edits.scale(SITE, -3, tokens=TOKENS), lambda x: -3 * x),
    "add": (edits.add(SITE, DIRECTION, 0.5, tokens=TOKENS), lambda x: x + 0.5 * DIRECTION.numpy()),
    "clamp": (edits.clamp(SITE, -0.1, 0.2, tokens=TOKENS), lambda x: np.minimum(np.maximum(x, -0.1), 0.2)),
    "mean": (edits.mean(SITE, tokens=TOKENS), lambda x: x.mean(1, keepdims=True).repeat(3, 1)),
    "function": (edits.function(SITE, torch.cos, tokens=TOKENS), np.cos),
    "swap": (edits.swap(SITE, tokens=TOKENS), lambda x: x[::-1]),
    "world": (edits.patch(SITE, 1, rows=0, tokens=TOKENS), lambda x: x[[1, 1]]),
    "interpolate": (
        edits.interpolate(SITE, 1, 0.25, rows=0, tokens=TOKENS),
        lambda x: np.stack([0.75 * x[0] + 0.25 * x[1], x[1]]),
    ),
    "wire": (
        edits.wire(SITE, [[0.5, 0.25], [0, 2]], tokens=TOKENS),
        lambda x: np.stack([0.5 * x[0] + 0.25 * x[1], 2 * x[1]]),
    ),
    "mean of worlds": (edits.mean_over_worlds(SITE, tokens=TOKENS), lambda x: x.mean(0, keepdims=True).repeat(2, 0)),
    "mean into the first": (
        edits.mean_over_worlds(SITE, into="first", tokens=TOKENS),
        lambda x: np.stack([x.mean(0), x[1]]),
    ),
    "project out": (
        edits.project_out(SITE, DIRECTION * 7, tokens=TOKENS),
        lambda x: (
            x - np.outer(x @ DIRECTION.numpy(), DIRECTION.numpy()).reshape(x.shape) / float(DIRECTION @ DIRECTION)
        ),
    ),
    "resample": (edits.resample(SITE, tokens=TOKENS), lambda x: x[::-1]),
}


@pytest.mark.parametrize("name", WANTED)
def test_operations_against_numpy(kept: tuple[Any, Any, Tensor], name: str) -> None:
    graph, reference = WANTED[name]
    clean, got = kept[2].numpy(), edited(kept, graph).numpy()
    expected = clean.copy()
    expected[:, TOKENS] = reference(clean[:, TOKENS])
    np.testing.assert_allclose(got, expected, atol=2e-6)
    others = [t for t in range(12) if t not in TOKENS]
    assert np.array_equal(got[:, others], clean[:, others])


def test_later_edits_see_what_earlier_ones_left(kept: tuple[Any, Any, Tensor]) -> None:
    double, plus = edits.scale(SITE, 2.0), edits.add(SITE, 1.0)
    torch.testing.assert_close(edited(kept, double | plus), 2 * kept[2] + 1)
    torch.testing.assert_close(edited(kept, plus | double), 2 * (kept[2] + 1))


def test_overlapping_parts_of_one_selection_are_changed_once(kept: tuple[Any, Any, Tensor]) -> None:
    both = select(SITE, tokens=[0, 1]) | select(SITE, tokens=[1, 4])
    got = edited(kept, edits.add(both, 1.0))
    expected = kept[2].clone()
    expected[:, [0, 1, 4]] += 1
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("match", ["norm", "variance"])
def test_matched_means_do_not_shrink(kept: tuple[Any, Any, Tensor], match: str) -> None:
    clean, got = kept[2], edited(kept, edits.mean_over_worlds(SITE, match=match))
    plain = edited(kept, edits.mean_over_worlds(SITE))
    if match == "norm":
        torch.testing.assert_close(got[0].norm(dim=-1), clean.norm(dim=-1).mean(0))
        torch.testing.assert_close(torch.cosine_similarity(got, plain, dim=-1), torch.ones(2, 12))
    else:
        torch.testing.assert_close(got[0].var(0, correction=0), clean.var(1, correction=0).mean(0))
        torch.testing.assert_close(got[0].mean(0), plain[0].mean(0))


def test_heads_are_edited_alone() -> None:
    lab, runs = lab_and_runs(steps=1, guidance=1.0)
    site = "blocks.1.attn.hook_z"
    clean = edits.run_with(lab, runs[0], (), site).captured[site]
    got = edits.run_with(lab, runs[0], edits.zero(site, head=1, frames=0), site).captured[site]
    expected = clean.clone()
    expected[:, :, :4, 1] = 0
    assert torch.equal(got, expected)


def test_noise_is_the_same_alone_and_in_a_batch_and_follows_its_seed() -> None:
    op = edits.noise(scale=0.5, seed=3).op
    part = torch.zeros(3, 12, 24)

    def at(seeds: tuple[int, ...], step: int = 1) -> Tensor:
        moment = Moment("latents.hook_in", step, "guided", "main", 0.7, seeds)
        return op.apply(part[: len(seeds)], (), moment)

    together = at((4, 5, 6))
    assert torch.equal(at((5,))[0], together[1])
    assert not torch.equal(at((5,), step=2), at((5,)))
    assert abs(float(together.std()) - 0.5) < 0.05


@pytest.mark.parametrize("scheduler", ["euler", "unipc"])
def test_renoised_latents_have_the_right_level(scheduler: str) -> None:
    lab, runs = lab_and_runs(scheduler=scheduler, guidance=1.0)
    clean = lab.run(runs[0])
    out = lab.run(runs[0], edits=edits.noise(step=2, kind="renoise"))
    sigma = clean.trajectory.schedule.sigmas[2]
    eps = (out.trajectory.latents[2] - (1 - sigma) * clean.trajectory.x0_hat[1]) / sigma
    assert abs(float(eps.std()) - 1) < 0.1
    assert abs(float(eps.mean())) < 0.1
    assert torch.equal(out.trajectory.latents[:2], clean.trajectory.latents[:2])


def test_edits_of_x0_move_the_velocity() -> None:
    lab, runs = lab_and_runs(guidance=1.0)
    out = lab.run(runs[0], edits=edits.zero("latents.hook_x0", step=1, frames=-1))
    grid = lab.grid(runs[0].sample)
    patches = patchify(out.trajectory.x0_hat[1][None], grid)
    assert float(patches[:, 8:].abs().max()) < 1e-6
    assert float(patches[:, :8].abs().max()) > 0.01
    assert torch.equal(unpatchify(patches, grid)[0], out.trajectory.x0_hat[1])


def test_unipc_restarts_for_replaced_latents_and_for_no_others() -> None:
    """Reference: a fresh UniPC that begins at the edited step, which is what forgetting means."""
    lab, runs = lab_and_runs(scheduler="unipc", steps=5, guidance=1.0)
    clean = lab.run(runs[:2])
    new = torch.randn(12, 64, generator=torch.Generator().manual_seed(0))
    out = lab.run(runs[:2], edits=edits.set_to("latents.hook_in", new, step=2, rows=0))
    assert torch.equal(out[1].trajectory.latents, clean[1].trajectory.latents)

    from interp.schedule import build_scheduler

    fresh = build_scheduler(lab.pipe, runs[0].settings)
    fresh.set_timesteps(5)
    fresh.set_begin_index(2)
    grid = lab.grid(runs[0].sample)
    start = torch.stack([unpatchify(new[None], grid)[0], clean[1].trajectory.latents[2]])
    reference = edits.run_with(lab, runs[:2], (), start=SolverState(2, start, fresh))
    got, wanted = out[0].trajectory, reference[0].trajectory
    torch.testing.assert_close(got.latents[2:4], wanted.latents[:2], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(got.result, wanted.result, atol=2e-3, rtol=0)  # its next correction is of higher order
    kept = clean[0].trajectory.latents[3] - wanted.latents[1]
    assert float(kept.abs().max()) > 0.1


class DenseAttention:
    """Attention as the textbook has it, with a mask of closed ways [query, key] for one head."""

    def __init__(self, head: int, queries: slice, keys: slice) -> None:
        self.head, self.queries, self.keys = head, queries, keys

    def __call__(self, attn: Any, x: Tensor, context: Tensor | None, mask: None, rotary: Any) -> Tensor:
        context = x if context is None else context
        q, k, v = attn.norm_q(attn.to_q(x)), attn.norm_k(attn.to_k(context)), attn.to_v(context)
        q, k, v = (t.unflatten(-1, (attn.heads, -1)).transpose(1, 2).double() for t in (q, k, v))
        if rotary is not None:
            cos, sin = (r.transpose(1, 2).double() for r in rotary)
            q, k = (self.turn(t, cos, sin) for t in (q, k))
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        scores[:, self.head, self.queries, self.keys] = -torch.inf
        z = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return attn.to_out[0](z.to(x.dtype))

    @staticmethod
    def turn(t: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        pair = torch.stack([-t[..., 1::2], t[..., 0::2]], -1).flatten(-2)
        return t * cos + pair * sin


@pytest.mark.parametrize(
    ("part", "keys", "closed"),
    [("attn", select(frames=0), slice(0, 4)), ("cross_attn", range(3), slice(0, 3))],
    ids=["self", "cross"],
)
def test_knock_out_equals_a_textbook_reference(part: str, keys: Any, closed: slice) -> None:
    lab, runs = lab_and_runs(steps=2, guidance=1.0)
    knock = edits.knockout(f"blocks.*.{part}", keys, head=1, frames=-1)
    got = lab.run(runs[0], edits=knock)
    attention = [
        getattr(block, "attn1" if part == "attn" else "attn2")
        for model in (lab.pipe.transformer, lab.pipe.transformer_2)
        for block in model.blocks
    ]
    own = [attn.processor for attn in attention]
    try:
        for attn in attention:
            attn.processor = DenseAttention(1, slice(8, 12), closed)
        expected = lab.run(runs[0])
    finally:
        for attn, processor in zip(attention, own, strict=True):
            attn.processor = processor
    torch.testing.assert_close(results(got), results(expected), atol=1e-5, rtol=1e-4)
    assert float((results(got) - results(lab.run(runs[0]))).abs().max()) > 1e-4


def test_knock_out_leaves_other_queries_heads_and_worlds_to_the_bit() -> None:
    lab, runs = lab_and_runs(steps=1, guidance=1.0)
    site = "blocks.0.attn.hook_z"
    knock = edits.knockout("blocks.0.attn", select(frames=0), head=1, frames=-1, rows=0)
    clean, got = (edits.run_with(lab, runs[:2], g, site) for g in ((), knock))
    old, new = clean[0].captured[site][0, 0], got[0].captured[site][0, 0]
    assert torch.equal(got[1].captured[site], clean[1].captured[site])
    assert torch.equal(new[:, 0], old[:, 0])
    assert torch.equal(new[:8], old[:8])
    assert not torch.equal(new[8:, 1], old[8:, 1])


def test_two_knock_outs_add_up() -> None:
    lab, runs = lab_and_runs(steps=1, guidance=1.0)
    one = edits.knockout("blocks.0.attn", range(6), frames=-1)
    two = edits.knockout("blocks.0.attn", range(3), frames=-1) | edits.knockout("blocks.0.attn", range(3, 6), frames=-1)
    assert torch.equal(results(lab.run(runs[0], edits=one)), results(lab.run(runs[0], edits=two)))


def test_only_the_queries_concerned_are_computed_where_the_mask_would_be_large(monkeypatch: pytest.MonkeyPatch) -> None:
    lab, runs = lab_and_runs(steps=1, guidance=1.0)
    graph = edits.knockout("blocks.*.attn", select(frames=0), head=1, frames=-1) | edits.knockout(
        "blocks.1.attn", [5], tokens=[1, 6]
    )
    dense = results(lab.run(runs[:2], edits=graph))
    monkeypatch.setattr("interp.instrument.knockout.DENSE", 0)
    torch.testing.assert_close(results(lab.run(runs[:2], edits=graph)), dense, atol=1e-6, rtol=1e-5)


SCORES = "blocks.1.attn.hook_attn_scores"
CLOSED = edits.knockout("blocks.1.attn", select(frames=0), head=1, frames=-1, rows=0)
COMPOSED: dict[str, tuple[Any, Any]] = {  # graph, and what it does to scores [head, query, key] of world 0
    "scaled, then closed": (edits.scale(SCORES, 2.0, rows=0) | CLOSED, lambda s, shut: shut(2 * s)),
    "closed, then scaled": (CLOSED | edits.scale(SCORES, 2.0, rows=0), lambda s, shut: shut(2 * s)),
    "closed, then opened": (CLOSED | edits.set_to(SCORES, 0.5, rows=0), lambda s, shut: torch.full_like(s, 0.5)),
    "set, then closed": (edits.set_to(SCORES, 0.5, rows=0) | CLOSED, lambda s, shut: shut(torch.full_like(s, 0.5))),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_knock_outs_and_edits_of_scores_go_in_their_order(name: str) -> None:
    lab, runs = lab_and_runs(steps=1, guidance=1.0)
    graph, wanted = COMPOSED[name]
    sites = [f"blocks.1.attn.hook_{op}" for op in ("rot_q", "rot_k", "v", "z")]
    out = edits.run_with(lab, runs[:2], graph, sites)
    q, k, v, z = (out[0].captured[site][0, 0].double() for site in sites)
    dots = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[-1])

    def shut(scores: Tensor) -> Tensor:
        new = scores.clone()
        new[1, 8:, :4] = -torch.inf
        return new

    expected = torch.einsum("hqk,khd->qhd", wanted(dots, shut).softmax(-1), v)
    torch.testing.assert_close(z, expected, atol=1e-5, rtol=1e-5)
    clean = edits.run_with(lab, runs[:2], (), sites)
    assert torch.equal(out[1].captured[sites[3]], clean[1].captured[sites[3]])
    assert [one.edit for one in out[0].edited.fired] == [0, 1]
    assert all(one.change > 0 for one in out[0].edited.fired)


def test_a_knock_out_and_an_edited_pattern_share_a_forward() -> None:
    lab, runs = lab_and_runs(steps=1, guidance=1.0)
    even = torch.full((12,), 1 / 12)
    graph = CLOSED | edits.set_to("blocks.1.attn.hook_pattern", even, head=0, rows=0)
    z, v = "blocks.1.attn.hook_z", "blocks.1.attn.hook_v"
    out, knocked = (edits.run_with(lab, runs[0], g, [z, v]).captured for g in (graph, CLOSED))
    torch.testing.assert_close(out[z][0, 0, :, 0], out[v][0, 0, :, 0].mean(0).expand(12, -1), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(out[z][0, 0, :, 1], knocked[z][0, 0, :, 1], atol=1e-6, rtol=1e-5)
    rest = edits.knockout("blocks.1.attn", range(4, 12), head=1)
    with pytest.raises(InterpError, match="leave some query no key"):
        lab.run(runs[0], edits=CLOSED | edits.scale(SCORES, 2.0) | rest)


def test_a_pattern_can_be_taken_from_another_world() -> None:
    lab, runs = lab_and_runs(steps=1, guidance=1.0)
    sites = ["blocks.1.attn.hook_z", "blocks.1.attn.hook_v"]
    same_values = edits.patch("blocks.1.attn.hook_v", 1, rows=0)
    out = edits.run_with(lab, runs[:2], same_values | edits.patch("blocks.1.attn.hook_pattern", 1, rows=0), sites)
    torch.testing.assert_close(out[0].captured[sites[0]], out[1].captured[sites[0]])


@pytest.mark.parametrize("scheduler", ["euler", "unipc"])
def test_block_update_adds_what_the_source_block_adds(scheduler: str) -> None:
    lab, runs = lab_and_runs(scheduler=scheduler, guidance=1.0)
    ends = ["blocks.1.hook_resid_pre", "blocks.1.hook_resid_post"]
    out = edits.run_with(lab, runs[:2], edits.block_update(1, 1, rows=0, step=0), ends)
    added = [run.captured[ends[1]][0] - run.captured[ends[0]][0] for run in out]
    torch.testing.assert_close(added[0], added[1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(out[0].captured[ends[0]][0], out[1].captured[ends[0]][0])


def test_a_source_run_joins_the_batch_and_stays_as_it_is() -> None:
    lab, runs = lab_and_runs()
    together = lab.run(runs[:2], edits=edits.patch(SITE, 1, rows=0, step=0))
    joined = lab.run(runs[0], edits=edits.patch(SITE, runs[1], step=0))
    assert torch.equal(results(joined)[0], results(together)[0])


def test_mean_ablation_from_captured_runs() -> None:
    lab, runs = lab_and_runs(steps=1, guidance=1.0)
    kept = edits.run_with(lab, runs, (), SITE)
    out = edits.run_with(lab, runs[0], edits.mean(SITE, kept), SITE)
    torch.testing.assert_close(out.captured[SITE], torch.stack([k.captured[SITE] for k in kept]).mean(0))
