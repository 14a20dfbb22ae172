"""The step loop against the bare pipeline: equal to the bit, and the pipeline as it was."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from interp.errors import InterpError, ModelError
from interp.lab import Lab, load
from interp.runspec import SamplerSettings
from interp.sampler import SolverState, prepare, run_steps
from tests import pipelines
from tests.tracer.runs import RUN, arguments_of, bare_latents, call, sample_of, seeds_of, specs_of


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("scheduler", ["euler", "unipc"])
@pytest.mark.parametrize("kind", RUN)
def test_latents_are_bit_equal_to_the_bare_pipeline(
    kind: str, scheduler: str, guidance: float, dtype: torch.dtype
) -> None:
    pipe = RUN[kind](scheduler=scheduler, dtype=dtype)
    arguments, seeds = arguments_of(kind, pipe, guidance=guidance), seeds_of(kind)
    expected = call(pipe, arguments, seeds)
    lab = load(pipe)
    got = torch.stack([t.result for t in lab.run_batch(specs_of(lab, arguments, seeds))])
    assert torch.equal(got, expected.float())


@pytest.mark.parametrize("scheduler", ["euler", "unipc"])
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_hooks_on_every_layer_change_nothing(scheduler: str, guidance: float) -> None:
    pipe = pipelines.tiny_i2v(scheduler=scheduler, two_experts=True)
    arguments = pipelines.call_arguments(pipe, guidance=guidance)
    expected = bare_latents(pipe, arguments, [3])
    lab = load(pipe)
    result = lab.run(specs_of(lab, arguments, [3])[0], "blocks.*.hook_resid_post")
    assert torch.equal(result.trajectory.result, expected[0])


def test_different_samples_share_a_batch_exactly() -> None:
    """Reference: the stock ``__call__`` itself, given the stacked conditions of two pictures."""
    pipe = pipelines.tiny_i2v(scheduler="unipc")
    arguments = pipelines.call_arguments(pipe, guidance=3.0)
    lab = load(pipe)
    first, second = sample_of(arguments), sample_of(arguments | {"image": pipelines.picture(7)})
    second = dataclasses.replace(second, key="other")
    settings = {"steps": 3, "guidance_scale": 3.0, "negative_prompt": "static camera"}
    runs = [lab.plan(s, [seed], **settings)[0] for s, seed in ((first, 3), (second, 4))]
    got = torch.stack([t.result for t in lab.run_batch(runs)])

    conditions = []
    original = pipe.prepare_latents
    for sample in (first, second):
        image = pipe.video_processor.preprocess(sample.image, height=sample.height, width=sample.width)
        size = (sample.height, sample.width, sample.num_frames)
        conditions.append(original(image, 1, 16, *size, latents=torch.zeros(1))[1])
    noise = torch.cat([torch.randn(1, 16, 3, 4, 4, generator=torch.Generator().manual_seed(s)) for s in (3, 4)])
    pipe.prepare_latents = lambda *a, **k: (noise, torch.cat(conditions))
    try:
        expected = pipe(**(arguments | {"num_videos_per_prompt": 2, "generator": None})).frames
    finally:
        del pipe.prepare_latents
    assert torch.equal(got, expected)


@pytest.mark.parametrize("scheduler", ["euler", "unipc"])
def test_a_run_goes_on_from_any_step_to_the_bit(scheduler: str) -> None:
    pipe = pipelines.tiny_i2v(scheduler=scheduler, two_experts=True)
    lab = load(pipe)
    plan = prepare(pipe, specs_of(lab, pipelines.call_arguments(pipe, steps=6, guidance=4.0), [1, 2]))
    whole = list(run_steps(pipe, plan))
    for cut in (1, 3, 5):
        scheduler_state = copy.deepcopy(plan.start.scheduler)
        for step in whole[:cut]:
            scheduler_state.step(step.velocity, scheduler_state.timesteps[step.index], step.latents, return_dict=False)
        tail = list(run_steps(pipe, plan, SolverState(cut, whole[cut].latents, scheduler_state)))
        assert [s.index for s in tail] == list(range(cut, 6))
        assert torch.equal(tail[-1].next_latents, whole[-1].next_latents)


def test_trajectory_obeys_the_flow_equations() -> None:
    pipe = pipelines.tiny_i2v(scheduler="euler")
    lab = load(pipe)
    run = specs_of(lab, pipelines.call_arguments(pipe, steps=5), [0])[0]
    path = lab.run(run).trajectory
    for i in range(5):
        now, then = path.schedule.sigmas[i], path.schedule.sigmas[i + 1]
        torch.testing.assert_close(path.x0_hat[i], path.latents[i] - now * path.velocity[i])
        torch.testing.assert_close(path.latents[i + 1], path.latents[i] + (then - now) * path.velocity[i])
    torch.testing.assert_close(path.x0_hat[-1], path.result)


def test_captured_tensors_equal_plain_hooks() -> None:
    pipe = pipelines.tiny_i2v(scheduler="euler")
    arguments = pipelines.call_arguments(pipe, guidance=5.0)
    seen: list[torch.Tensor] = []
    handle = pipe.transformer.blocks[1].register_forward_hook(lambda m, a, out: seen.append(out.clone()))
    bare_latents(pipe, arguments, [3])
    handle.remove()
    lab = load(pipe)
    kept = lab.run(specs_of(lab, arguments, [3])[0], "blocks.1.hook_resid_post").captured["blocks.1.hook_resid_post"]
    assert kept.shape == (3, 2, 12, pipelines.WIDTH)
    assert torch.equal(kept.flatten(0, 1), torch.cat(seen))


def test_runs_of_different_kinds_are_not_batched_silently() -> None:
    lab = load(pipelines.tiny_i2v())
    arguments = pipelines.call_arguments(lab.pipe)
    runs = [*specs_of(lab, arguments, [0]), *specs_of(lab, arguments | {"num_inference_steps": 4}, [0])]
    with pytest.raises(InterpError, match="cannot share one batch"):
        lab.run(runs)


def test_spec_keys_are_content_hashes() -> None:
    lab = load(pipelines.tiny_i2v())
    arguments = pipelines.call_arguments(lab.pipe)
    one, same, other = (specs_of(lab, arguments, [seed])[0] for seed in (0, 0, 1))
    assert one.key == same.key != other.key
    assert specs_of(Lab(lab.pipe, "renamed"), arguments, [0])[0].key == one.key
    assert specs_of(load(pipelines.tiny_i2v(seed=9)), arguments, [0])[0].key != one.key


def test_settings_are_checked_at_the_edge() -> None:
    with pytest.raises(InterpError, match="at least one"):
        SamplerSettings(steps=0)
    with pytest.raises(InterpError, match="euler"):
        SamplerSettings(scheduler="ddim")  # what a user might type


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("wan-maze-mni", "no model is called"),
        ("docs", "no model_index.json"),
        ("README.md", "is a file"),
    ],
)
def test_a_wrong_model_is_one_clear_sentence(source: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load(source)
