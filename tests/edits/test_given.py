"""Prompts, pictures, experts, gates, single heads and strengths that change over the run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interp import edits, select
from interp.errors import InterpError, SelectionError
from interp.replay import record, replay
from tests import pipelines
from tests.edits.labs import lab_and_runs, results


def with_other(runs: Any, **changes: Any) -> Any:
    """A run of another sample with the seed and settings of the first."""
    return dataclasses.replace(runs[0], sample=dataclasses.replace(runs[0].sample, key="other", **changes))


@pytest.mark.parametrize("kind", ["i2v two experts", "t2v", "ti2v image"])
def test_a_prompt_changed_at_every_step_is_that_prompt(kind: str) -> None:
    lab, runs = lab_and_runs(kind, steps=2)
    other = with_other(runs, prompt="a red square")
    got = lab.run(runs[0], edits=edits.prompt(other))
    whole, late = lab.run([runs[0], other]), lab.run(runs[0], edits=edits.prompt(other, step=1))
    torch.testing.assert_close(results(got)[0], results(whole)[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(late.trajectory.latents[1], whole[0].trajectory.latents[1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(results(late)[0], results(whole)[0], atol=1e-5)


@pytest.mark.parametrize("kind", ["i2v two experts", "ti2v image"])
def test_a_picture_changed_at_every_step_is_that_picture(kind: str) -> None:
    lab, runs = lab_and_runs(kind, steps=2)
    size = runs[0].sample.image.size[0]
    other = with_other(runs, image=pipelines.picture(5, size))
    whole = lab.run([runs[0], other])
    got = lab.run(runs[0], edits=edits.picture(other))
    late = lab.run(runs[0], edits=edits.picture(other, step=1))
    frames = slice(1, None) if kind == "ti2v image" else slice(None)  # TI2V puts the given frame back at the end
    torch.testing.assert_close(results(got)[0][:, frames], results(whole)[1][:, frames], atol=1e-5, rtol=1e-5)
    one, two = late.trajectory.latents[1], whole[0].trajectory.latents[1]
    torch.testing.assert_close(one[:, frames], two[:, frames], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(results(late)[0], results(whole)[0], atol=1e-5)


def test_a_text_to_video_model_has_no_picture() -> None:
    lab, runs = lab_and_runs("t2v", steps=1)
    with pytest.raises(InterpError, match="text-to-video"):
        lab.run(runs[:2], edits=edits.picture(1, rows=0))
    elsewhere = dataclasses.replace(edits.picture(1, rows=0), selection=select("latents.hook_in"))
    with pytest.raises(SelectionError, match="picture is at hook_latent_in"):
        lab.run(runs[:2], edits=elsewhere)


def test_the_boundary_between_experts_can_be_moved_by_an_edit() -> None:
    lab, runs = lab_and_runs(steps=4)
    own = lab.schedule(runs[0].settings).experts
    for first_low in (1, 4):
        moved: Any = edits.use_expert("high", step=slice(0, first_low))
        if first_low < 4:
            moved = moved | edits.use_expert("low", step=slice(first_low, 4))
        wanted = ("high",) * first_low + ("low",) * (4 - first_low)
        assert wanted != own
        ratio = lab.schedule(runs[0].settings).timesteps[first_low - 1] / 1000 - 1e-3
        settings = dataclasses.replace(runs[0].settings, boundary_ratio=ratio)
        assert lab.schedule(settings).experts == wanted
        got = lab.run(runs[0], edits=moved)
        assert torch.equal(results(got), results(lab.run(dataclasses.replace(runs[0], settings=settings))))
        assert [one.expert for one in got.edited.fired] == list(wanted)
    late = edits.use_expert("high", step=3)
    again = replay(lab, record(lab, runs[0]), late)
    assert torch.equal(results(again), results(lab.run(runs[0], edits=late)))


def test_experts_that_cannot_be_chosen_are_refused() -> None:
    lab, runs = lab_and_runs("t2v", steps=1)
    with pytest.raises(InterpError, match="single transformer"):
        lab.run(runs[0], edits=edits.use_expert("low"))
    with pytest.raises(InterpError, match=r"expert='hig'.*did you mean high"):
        edits.use_expert("hig")
    two, its_runs = lab_and_runs(steps=1)
    with pytest.raises(InterpError, match="leave rows"):
        two.run(its_runs[:2], edits=dataclasses.replace(edits.use_expert("low"), rows=(0,)))


def test_a_closed_gate_is_an_update_of_zero() -> None:
    lab, runs = lab_and_runs(steps=1, guidance=1.0)
    ends = ["blocks.0.hook_resid_pre", "blocks.0.hook_resid_mid"]
    out = edits.run_with(lab, runs[0], edits.zero("blocks.0.attn.hook_gate"), ends)
    assert torch.equal(out.captured[ends[0]], out.captured[ends[1]])
    whole = lab.run(runs[0], edits=edits.scale("blocks.1.mlp.hook_gate", 2.0))
    same = lab.run(runs[0], edits=edits.scale("blocks.1.hook_mlp_update", 2.0))
    torch.testing.assert_close(results(whole), results(same), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("part", ["attn", "cross_attn"])
def test_what_a_head_adds_can_be_written(part: str) -> None:
    lab, runs = lab_and_runs(steps=1, guidance=1.0)
    site, z, end = f"blocks.1.{part}.hook_result", f"blocks.1.{part}.hook_z", f"blocks.1.hook_{part}_out"
    clean = lab.run(runs[0])
    assert torch.equal(results(lab.run(runs[0], edits=edits.scale(site, 1.0))), results(clean))
    by_result = lab.run(runs[0], edits=edits.zero(site, head=1, frames=-1))
    by_z = lab.run(runs[0], edits=edits.zero(z, head=1, frames=-1))
    torch.testing.assert_close(results(by_result), results(by_z), atol=1e-5, rtol=1e-5)
    assert float((results(by_z) - results(clean)).abs().max()) > 1e-4
    both = edits.scale(z, 2.0) | edits.zero(site)  # the result is that of the edited z
    out = edits.run_with(lab, runs[0], both, end).captured[end][0, 0]
    block = lab.pipe.transformer.blocks[1]
    bias = (block.attn1 if part == "attn" else block.attn2).to_out[0].bias.detach()
    torch.testing.assert_close(out, bias.expand_as(out), atol=1e-5, rtol=0)


def test_an_attention_map_is_taken_from_another_run() -> None:
    """Reference: the source's pattern times the target's values."""
    lab, (target, source, _) = lab_and_runs(steps=1, guidance=1.0)
    pattern, v, z = (f"blocks.0.attn.hook_{op}" for op in ("pattern", "v", "z"))
    maps = edits.run_with(lab, source, (), pattern)
    out = edits.run_with(lab, target, edits.patch(pattern, maps, head=1, frames=-1), [v, z])
    wanted = edits.run_with(lab, target, (), z).captured[z][0, 0].clone()
    wanted[8:, 1] = maps.captured[pattern][0, 0, 1, 8:] @ out.captured[v][0, 0, :, 1]
    torch.testing.assert_close(out.captured[z][0, 0], wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("over", ["step", "sigma"])
def test_strength_follows_its_curve(over: str) -> None:
    lab, runs = lab_and_runs(steps=4, guidance=1.0)
    site = "blocks.0.hook_resid_post"
    ramp = edits.curve({0: 0.0, 2: 1.0} if over == "step" else {0.5: 1.0, 1.0: 0.0}, over)
    sigmas = lab.schedule(runs[0].settings).sigmas
    values = [min(1.0, k / 2) if over == "step" else min(1.0, 2 * (1 - sigmas[k])) for k in range(4)]
    by_curve = lab.run(runs[0], edits=edits.add(site, torch.ones(24), ramp))
    by_hand = edits.EditGraph(tuple(edits.add(site, torch.ones(24), v, step=k) for k, v in enumerate(values)))
    torch.testing.assert_close(results(by_curve), results(lab.run(runs[0], edits=by_hand)), atol=1e-6, rtol=1e-6)


def test_every_strength_may_be_a_curve() -> None:
    lab, runs = lab_and_runs(steps=1, guidance=1.0)
    site, none, one = "blocks.0.hook_resid_post", edits.curve({0: 0.0}), edits.curve({0: 1.0})
    graph = (
        edits.scale(site, one)
        | edits.add(site, 1.0, none)
        | edits.interpolate(site, 0.0, none)
        | edits.project_out(site, torch.ones(24), none)
        | edits.noise(site, scale=none)
        | edits.random_change(site, 0.0, none)
    )
    assert [fired.change for fired in lab.run(runs[0], edits=graph).edited.fired] == [0.0] * 6


def test_curves_are_saved_and_malformed_ones_refused(tmp_path: Path) -> None:
    graph = edits.add("latents.hook_in", 1.0, edits.curve({0: 0, 3: 1.5}, "step")) | edits.use_expert("low", step=1)
    assert edits.load(graph.save(tmp_path / "g.json")) == graph
    assert "step 0: 0, 3: 1.5" in str(graph)
    bad: tuple[tuple[Any, str], ...] = (({}, "points"), ({0: float("nan")}, "points"))
    for points, message in bad:
        with pytest.raises(InterpError, match=message):
            edits.curve(points)
    with pytest.raises(InterpError, match="over='layer'"):
        edits.curve({0: 1}, "layer")


@pytest.mark.parametrize("what", ["in", "velocity_cfg", "x0", "out"])
@pytest.mark.parametrize(("into", "match"), [("all", None), ("first", "norm"), ("all", "variance")])
def test_seeds_are_averaged_by_anything(what: str, into: str, match: str | None) -> None:
    """Initial noise, velocity, x0_hat and final latents; reference: numbers of a clean run, averaged by hand."""
    lab, runs = lab_and_runs(steps=1, guidance=4.0)
    site = f"latents.hook_{what}"
    clean = edits.run_with(lab, runs, (), site)
    got = edits.run_with(lab, runs, edits.mean_over_worlds(site, into=into, match=match), site)
    values = torch.stack([run.captured[site][0, 0] for run in clean])
    mean = values.mean(0)
    if match == "norm":
        mean = mean * values.norm(dim=-1, keepdim=True).mean(0) / mean.norm(dim=-1, keepdim=True)
    if match == "variance":
        wanted = values.var(1, correction=0).mean(0).sqrt()
        mean = mean.mean(0) + (mean - mean.mean(0)) * wanted / mean.std(0, correction=0)
    after = torch.stack([run.captured[site][0, 0] for run in got])
    expected: Tensor = mean.expand_as(after) if into == "all" else torch.cat([mean[None], values[1:]])
    torch.testing.assert_close(after, expected, atol=1e-4, rtol=1e-4)


def test_two_graphs_beside_each_other(tmp_path: Path) -> None:
    a, b, c = edits.zero("blocks.0.hook_mlp_out"), edits.scale("latents.hook_in", 2), edits.swap("latents.hook_out")
    found = edits.diff(a | b | c, a | c | edits.zero("blocks.1.hook_mlp_out"))
    assert [sign for sign, _ in found.lines] == [" ", "-", " ", "+"]
    assert found.removed == (b,)
    assert not found.same
    assert edits.diff(a | b, a | b).same
    assert str(found).splitlines()[1] == f"- {b}"
    picture = edits.draw(a | b | edits.patch("blocks.*.hook_resid_post", 1, rows=0), tmp_path / "graph.png")
    assert picture.read_bytes()[:4] == b"\x89PNG"
