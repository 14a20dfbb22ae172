"""What samples give to a pipeline: last frames, videos and their strength, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from PIL import Image

from interp.errors import InterpError
from interp.lab import load
from interp.tasks import Sample
from tests import pipelines
from tests.tracer.runs import KINDS, arguments_of, bare_latents, sample_of, specs_of


def run_of(kind: str, **changes: Any) -> Any:
    pipe = KINDS[kind]()
    arguments = arguments_of(kind, pipe)
    lab = load(pipe)
    (run,) = specs_of(lab, arguments, [3])
    return lab, dataclasses.replace(run, sample=dataclasses.replace(run.sample, **changes))


FRAMES = tuple(pipelines.picture(k) for k in range(pipelines.FRAMES))
SMALL = tuple(pipelines.picture(k, 16) for k in range(pipelines.FRAMES))
WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "no first frame": ("i2v", {"image": None}, "starts from a first frame.*set image="),
    "no video": ("v2v", {"video": None}, "starts from a video.*set video="),
    "a short video": ("v2v", {"video": FRAMES[:4]}, "video of 4 frames, not 9"),
    "a first frame for text": ("t2v", {"image": FRAMES[0]}, "does not look at a first frame"),
    "a last frame for text": ("t2v", {"last_image": FRAMES[0]}, "does not look at a last frame"),
    "a video for an image": ("i2v", {"video": FRAMES}, "does not look at a video"),
    "a short mask": ("vace", {"mask": FRAMES[:4]}, "mask of 4 frames, not 9"),
    "a mask of nothing": ("vace", {"video": None}, "mask and no video"),
    "a mask for a video": ("v2v", {"mask": FRAMES}, "does not look at a mask"),
    "a video of another size": ("vace", {"video": SMALL, "mask": None}, r"\(16, 16\) pixels.*it is \(32, 32\)"),
    "a last frame for TI2V": ("ti2v image", {"last_image": FRAMES[0]}, "does not look at a last frame"),
    "a last frame for one picture": ("i2v clip", {"last_image": FRAMES[0]}, "leave last_image out"),
    "one picture for two": ("i2v clip, last frame", {"last_image": None}, "set last_image="),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_sample_that_does_not_fit_the_pipeline_is_refused(mistake: str) -> None:
    kind, changes, words = WRONG[mistake]
    lab, run = run_of(kind, **changes)
    with pytest.raises(InterpError, match=words):
        lab.run(run)


@pytest.mark.parametrize("scheduler", ["euler", "unipc"])
@pytest.mark.parametrize(("strength", "steps"), [(1.0, 4), (0.8, 4), (0.5, 6), (0.34, 3)])
def test_any_strength_runs_the_steps_that_the_stock_call_runs(strength: float, steps: int, scheduler: str) -> None:
    pipe = pipelines.tiny_v2v(scheduler=scheduler)
    arguments = arguments_of("v2v", pipe, steps=steps, guidance=5.0) | {"strength": strength}
    expected = bare_latents(pipe, arguments, [3])
    lab = load(pipe)
    (run,) = specs_of(lab, arguments, [3])
    trajectory = lab.run(run).trajectory
    assert torch.equal(trajectory.result, expected[0])
    assert trajectory.schedule.steps == int(steps * strength)
    assert trajectory.schedule.timesteps == tuple(float(t) for t in pipe.scheduler.timesteps[-int(steps * strength) :])


def test_strength_is_diffusers_own_unless_said_and_part_of_the_run() -> None:
    lab = load(pipelines.tiny_v2v())
    sample = sample_of(arguments_of("v2v", lab.pipe))
    plain, weak = lab.plan(sample, steps=4)[0], lab.plan(sample, steps=4, strength=0.5)[0]
    assert plain.provenance()["settings"]["strength"] == 0.8
    assert plain.key != weak.key
    with pytest.raises(InterpError, match=r"strength=0\.1 of 4 steps leaves none.*0\.25"):
        lab.run(lab.plan(sample, steps=4, strength=0.1))
    with pytest.raises(InterpError, match="share above 0"):
        lab.plan(sample, strength=1.5)
    with pytest.raises(InterpError, match="for video-to-video"):
        load(pipelines.tiny_t2v()).plan(sample, strength=0.5)


def test_pictures_that_the_key_does_not_stand_for_make_another_run() -> None:
    lab, run = run_of("i2v last frame")
    same = dataclasses.replace(run, sample=dataclasses.replace(run.sample, last_image=pipelines.picture(1)))
    other = dataclasses.replace(run, sample=dataclasses.replace(run.sample, last_image=pipelines.picture(2)))
    without = dataclasses.replace(run, sample=dataclasses.replace(run.sample, last_image=None))
    assert run.key == same.key
    assert len({run.key, other.key, without.key}) == 3
    results = [r.trajectory.result for r in lab.run([run, other])]
    assert not torch.equal(*results)
    assert torch.equal(lab.run([run, run])[0].trajectory.result, results[0])


def test_where_a_video_ends_and_its_mask_begins_counts() -> None:
    one, two, three = (pipelines.picture(seed) for seed in range(3))
    red, blue = (Image.new("P", (2, 2)) for _ in range(2))
    red.putpalette([255, 0, 0])
    blue.putpalette([0, 0, 255])
    bare = Sample("", "k", "p", None, None, 8, 8, 5)
    pictures = [
        dataclasses.replace(bare, **given).pictures
        for given in (
            {},
            {"video": (one, two), "mask": (three,)},
            {"video": (one,), "mask": (two, three)},
            {"video": (one, two, three)},
            {"mask": (one, two, three)},
            {"image": one, "video": (two, three)},
            {"image": red},
            {"image": blue},
        )
    ]
    assert pictures[0] is None
    assert len(set(pictures)) == len(pictures)


def test_hints_have_one_scale_each_which_is_part_of_the_run() -> None:
    lab = load(pipelines.tiny_vace())
    sample = sample_of(arguments_of("vace", lab.pipe))
    plain, one, each = (
        lab.plan(sample, steps=1, max_sequence_length=16, **said)[0]
        for said in ({}, {"conditioning_scale": 1}, {"conditioning_scale": [1.0, 0.5]})
    )
    assert plain.settings.conditioning_scale == (1.0, 1.0)
    assert plain.key == one.key != each.key
    arguments = arguments_of("vace", lab.pipe, steps=1) | {"conditioning_scale": 1.0, "mask": None}
    (unmasked,) = specs_of(lab, {k: v for k, v in arguments.items() if k != "mask"}, [3])
    assert torch.equal(lab.run(unmasked).trajectory.result, bare_latents(lab.pipe, arguments, [3])[0])
    with pytest.raises(InterpError, match="has 3 numbers, and the model 2 control blocks"):
        lab.plan(sample, conditioning_scale=(1, 1, 1))
    with pytest.raises(InterpError, match="conditioning_scale=1 is for VACE"):
        load(pipelines.tiny_t2v()).plan(sample, conditioning_scale=1)
