"""Watching an unmodified call sees the same tensors under the same addresses as the step loop."""

from __future__ import annotations

import pytest
import torch

from interp.errors import InterpError, SelectionError
from interp.lab import load
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
