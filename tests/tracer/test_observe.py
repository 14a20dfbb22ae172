"""Watching an unmodified call sees the same tensors under the same addresses as the step loop."""

from __future__ import annotations

import pytest
import torch

from interp.errors import InterpError, SelectionError
from interp.lab import load
from interp.selection import select
from tests import pipelines
from tests.tracer.runs import RUN, arguments_of, bare_latents, call, specs_of


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("kind", RUN)
def test_both_ways_in_see_the_same_tensors(kind: str, guidance: float) -> None:
    pipe = RUN[kind](scheduler="unipc")
    arguments = arguments_of(kind, pipe, guidance=guidance, steps=4)
    lab = load(pipe)
    patterns = ["blocks.*.hook_resid_post", "blocks.1.attn.hook_z", "blocks.0.hook_mlp_out"]
    result = lab.run(specs_of(lab, arguments, [3])[0], patterns)
    with lab.observe(patterns) as seen:
        latents = call(pipe, arguments, [3])
    assert torch.equal(latents[0].float(), result.trajectory.result)
    assert {site for site, _, _ in seen.tensors} == set(result.captured)
    branches = ["cond", "uncond"][: 1 + (guidance > 1)]
    for site, kept in result.captured.items():
        for b, branch in enumerate(branches):
            assert torch.equal(seen.stack(site, branch)[:, 0], kept[:, b]), (site, branch)
    experts = [forward.expert for forward in seen.calls if forward.branch == "cond"]
    assert experts == list(result.trajectory.schedule.experts)


def test_steps_and_tokens_are_chosen() -> None:
    pipe = pipelines.tiny_i2v()
    arguments = pipelines.call_arguments(pipe, steps=4)
    lab = load(pipe)
    with lab.observe("blocks.0.hook_resid_post", step=slice(1, 3), frames=-1) as some:
        bare_latents(pipe, arguments, [3])
    with lab.observe("blocks.0.hook_resid_post") as everything:
        bare_latents(pipe, arguments, [3])
    assert sorted(some.tensors) == [("blocks.0.hook_resid_post", step, "cond") for step in (1, 2)]
    whole = everything.stack("blocks.0.hook_resid_post")
    assert torch.equal(some.stack("blocks.0.hook_resid_post"), whole[1:3, :, 8:])


def test_nothing_observed_is_an_error() -> None:
    lab = load(pipelines.tiny_i2v())
    with pytest.raises(SelectionError, match="no forward ran"), lab.observe("blocks.0.hook_resid_post"):
        pass
    with pytest.raises(SelectionError, match="uncond"), lab.observe("blocks.0.hook_resid_post", branch="uncond"):
        bare_latents(lab.pipe, pipelines.call_arguments(lab.pipe), [0])


def test_a_second_call_does_not_overwrite_the_first() -> None:
    lab = load(pipelines.tiny_i2v())
    arguments = pipelines.call_arguments(lab.pipe)

    def twice() -> None:
        with lab.observe("blocks.0.hook_resid_post"):
            bare_latents(lab.pipe, arguments, [0])
            bare_latents(lab.pipe, arguments, [1])

    with pytest.raises(InterpError, match="one pipeline call"):
        twice()


def test_calls_can_be_watched_by_two_at_once() -> None:
    """And by whoever else wraps the scheduler's step and takes any arguments."""
    lab = load(pipelines.tiny_t2v())
    arguments = pipelines.call_arguments(lab.pipe)
    with lab.observe(["blocks.0.hook_resid_post", "latents.hook_x0"]) as outer, lab.observe("latents.*") as inner:
        bare_latents(lab.pipe, arguments, [3])
    assert outer.calls == inner.calls
    assert torch.equal(outer.stack("latents.hook_x0", "guided"), inner.stack("latents.hook_x0", "guided"))


def test_regions_are_those_of_the_sample_that_is_named() -> None:
    from interp.tasks import get

    lab = load("wan-maze-mini")
    sample = get("maze", size=4).sample(1, seed=0)[0]
    run = lab.plan(sample, [3], steps=1)[0]
    size = {"height": sample.height, "width": sample.width, "num_frames": sample.num_frames}
    seed = torch.Generator().manual_seed(3)
    given = {"image": sample.image, "prompt": sample.prompt, "num_inference_steps": 1, "guidance_scale": 1.0} | size
    with lab.observe("blocks.1.hook_resid_post", samples=sample, region="goal") as seen:
        lab.pipe(**given, generator=seed, output_type="latent")
    expected = lab.run(run, select("blocks.1.hook_resid_post", region="goal")).captured["blocks.1.hook_resid_post"]
    assert torch.equal(seen.stack("blocks.1.hook_resid_post")[:, 0], expected[:, 0])
    with (
        pytest.raises(SelectionError, match=r"lab\.observe takes it as samples="),
        lab.observe("blocks.1.hook_resid_post", region="goal"),
    ):
        lab.pipe(**given, output_type="latent")


def test_facts_that_disagree_are_an_error() -> None:
    """Somebody puts the scheduler's own step back: the clock stands still while diffusers counts on."""
    pipe = pipelines.tiny_t2v()
    lab = load(pipe)

    def stopped_clock() -> None:
        with lab.observe("blocks.0.hook_resid_post"):
            pipe.scheduler.step = type(pipe.scheduler).step.__get__(pipe.scheduler)
            bare_latents(pipe, pipelines.call_arguments(pipe), [0])

    with pytest.raises(InterpError, match="says this is step 1"):
        stopped_clock()
