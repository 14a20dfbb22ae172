"""Presets, DiffSynth's grid and the movable boundary, against the formulas they stand for."""

from __future__ import annotations

import pytest
import torch

from interp.errors import InterpError, ModelError
from interp.lab import load
from interp.presets import PRESETS
from interp.runspec import SamplerSettings
from tests import pipelines
from tests.tracer.runs import sample_of


def test_diffsynth_grid_is_the_papers() -> None:
    lab = load(pipelines.tiny_i2v(two_experts=True))
    run = lab.plan(sample_of(pipelines.call_arguments(lab.pipe)), preset="vbvr-diffsynth")[0]
    schedule = lab.schedule(run.settings)
    s = [1 - i / 50 for i in range(51)]
    torch.testing.assert_close(torch.tensor(schedule.sigmas), torch.tensor([5 * x / (1 + 4 * x) for x in s]))
    assert schedule.experts.index("low") == 21  # the paper's first low-noise step at boundary 0.875


def test_boundary_moves_the_switch() -> None:
    lab = load(pipelines.tiny_i2v(two_experts=True))
    sample = sample_of(pipelines.call_arguments(lab.pipe))
    firsts = {}
    for ratio in (0.875, 0.9):
        run = lab.plan(sample, preset="vbvr-diffsynth", boundary_ratio=ratio)[0]
        firsts[ratio] = lab.schedule(run.settings).experts.index("low")
    assert firsts == {0.875: 21, 0.9: 18}  # facts of the schedule: sigma_i >= ratio
    only_high = lab.plan(sample, steps=4, boundary_ratio=0.0)[0]
    assert set(lab.schedule(only_high.settings).experts) == {"high"}


def test_moved_boundary_equals_the_pipeline_with_that_boundary() -> None:
    arguments = pipelines.call_arguments(pipelines.tiny_i2v(), steps=6)
    pipe = pipelines.tiny_i2v(two_experts=True)
    sample = sample_of(arguments)
    lab = load(pipe)
    run = lab.plan(sample, [3], steps=6, boundary_ratio=0.6, negative_prompt=arguments["negative_prompt"])[0]
    got = lab.run(run).trajectory.result
    pipe.register_to_config(boundary_ratio=0.6)
    expected = pipe(**(arguments | {"generator": torch.Generator().manual_seed(3)})).frames
    assert torch.equal(got, expected[0])


@pytest.mark.parametrize("name", PRESETS)
def test_presets_run(name: str) -> None:
    lab = load(pipelines.tiny_i2v(two_experts=True))
    run = lab.plan(sample_of(pipelines.call_arguments(lab.pipe)), preset=name, steps=2)[0]
    said = run.provenance()
    assert said["settings"].items() >= {**PRESETS[name], "steps": 2}.items()
    shift = {"wan22-official": "flow_shift", "vbvr-diffsynth": "shift"}[name]
    assert said["scheduler_config"][shift] == PRESETS[name]["shift"] == 5.0
    assert torch.isfinite(lab.run(run).trajectory.result).all()


def test_mistakes_are_named() -> None:
    lab = load(pipelines.tiny_i2v())
    sample = sample_of(pipelines.call_arguments(lab.pipe))
    with pytest.raises(InterpError, match="vbvr-diffsynth"):
        lab.plan(sample, preset="vbvr-difsynth")
    with pytest.raises(InterpError, match="did you mean guidance_scale"):
        lab.plan(sample, guidance=3.0)
    for setting in ({"boundary_ratio": 0.5}, {"guidance_scale": 3.0, "guidance_scale_2": 3.0}):
        with pytest.raises(InterpError, match="for two experts, but the model has a single transformer"):
            lab.plan(sample, **setting)
    with pytest.raises(ModelError, match="single transformer"):
        lab.schedule(SamplerSettings(boundary_ratio=0.5))
    assert lab.plan(sample, preset="vbvr-diffsynth", boundary_ratio=None)
    with pytest.raises(InterpError, match=r"guidance_scale_2=3\.0 would do nothing"):
        load(pipelines.tiny_i2v(two_experts=True)).plan(sample, guidance_scale_2=3.0)


def test_text_of_a_model_with_an_image_encoder_has_its_length() -> None:
    """Diffusers' attention takes the last 512 tokens for the text, whatever was asked for."""
    lab = load(pipelines.tiny_i2v_clip())
    sample = sample_of(pipelines.call_arguments(lab.pipe))
    with pytest.raises(InterpError, match="max_sequence_length=16: the attention of this model"):
        lab.plan(sample, max_sequence_length=16)
    assert lab.plan(sample)[0].settings.max_sequence_length == 512


def test_what_was_planned_is_what_runs_whatever_is_set_on_the_pipeline_later() -> None:
    pipe = pipelines.tiny_i2v(two_experts=True, scheduler="unipc")
    lab = load(pipe)
    run = lab.plan(sample_of(pipelines.call_arguments(pipe)), [3], steps=6)[0]
    assert run.provenance()["settings"]["boundary_ratio"] == 0.9
    expected = lab.run(run).trajectory
    pipe.register_to_config(boundary_ratio=0.1)
    got = lab.run(run).trajectory
    assert got.schedule == expected.schedule
    assert torch.equal(got.result, expected.result)
    assert lab.plan(run.sample, [3], steps=6)[0].key != run.key
    pipe.scheduler = pipelines.tiny_scheduler("unipc", shift=3.0)
    with pytest.raises(InterpError, match="scheduler is not the one these runs were planned with; plan the runs again"):
        lab.run(run)
