"""Every pipeline, solver, guidance and precision, watched at every hook point.

Not a bit changes, each hook point fires once a step, branch and expert, and the pipeline is given back as it was.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from diffusers import ClassifierFreeGuidance
from diffusers.guiders import SkipLayerGuidance

from interp.errors import InterpError, ModelError
from interp.kinds import ordinary
from interp.lab import Lab, load
from interp.sites import DEFAULT_FAMILIES, concrete_sites, site_named
from tests import pipelines
from tests.tracer.runs import MODULAR, RUN, arguments_of, bare_latents, call, sample_of, seeds_of, specs_of
from tests.tracer.state import state_of
from tests.tracer.walk import everything

EVERYTHING = everything()
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


QUICK = (("euler", 5.0, "fp32"), ("unipc", 1.0, "fp32"), ("unipc", 5.0, "bf16"))
"""What the quick suite tries of every pipeline; ``slow`` tries the rest."""
SETTINGS = [
    pytest.param(*setting, marks=() if setting in QUICK else pytest.mark.slow, id="-".join(map(str, setting)))
    for setting in itertools.product(("euler", "unipc"), (1.0, 5.0), DTYPES)
]


@pytest.mark.parametrize(("scheduler", "guidance", "dtype"), SETTINGS)
@pytest.mark.parametrize("kind", RUN)
def test_watching_every_hook_point_of_a_call(kind: str, scheduler: str, guidance: float, dtype: str) -> None:
    pipe = RUN[kind](scheduler=scheduler, dtype=DTYPES[dtype])
    arguments = arguments_of(kind, pipe, guidance=guidance)
    expected = call(pipe, arguments, seeds_of(kind))
    before = state_of(pipe)
    with load(pipe).observe(EVERYTHING) as seen:
        latents = call(pipe, arguments, seeds_of(kind))
    assert torch.equal(latents, expected)
    assert state_of(pipe) == before
    branches = ["cond", "uncond"] if guidance > 1 else ["cond"]
    steps = range(len(seen.calls) // len(branches))
    assert [(c.step, c.branch) for c in seen.calls] == [(step, branch) for step in steps for branch in branches]
    wanted = set()
    config = pipe.transformer.config
    more = {"image"} if config.image_dim is not None else {"vace"} if "vace" in kind else set()
    vace = len(config.get("vace_layers") or ())
    for name in concrete_sites(pipelines.LAYERS, DEFAULT_FAMILIES | more, vace_layers=vace):
        own = site_named(name).branch
        there = branches if own is None else [own] if own in (*branches, "guided") else []
        wanted |= {(name, step, branch) for step in steps for branch in there}
    assert set(seen.tensors) == wanted
    two = getattr(pipe, "transformer_2", None) is not None
    assert {c.expert for c in seen.calls} == ({"high", "low"} if two else {"main"})


@pytest.mark.parametrize("kind", RUN)
def test_a_run_that_breaks_off_leaves_nothing_behind(kind: str) -> None:
    pipe = RUN[kind](scheduler="unipc")
    arguments = arguments_of(kind, pipe, guidance=5.0)
    fired: list[int] = []

    def explode(*_: Any) -> None:
        fired.append(1)
        if len(fired) == 3:
            raise RuntimeError("boom")

    def breaks_off(run: Any) -> dict[str, Any]:
        fired.clear()
        with pytest.raises(RuntimeError, match="boom"):
            run()
        return state_of(pipe)

    def watched() -> None:
        with load(pipe).observe(EVERYTHING):
            call(pipe, arguments, [3])

    pipe.transformer.blocks[1].ffn.register_forward_hook(explode)
    breaks_off(lambda: call(pipe, arguments, [3]))  # diffusers' schedulers remember a call before
    bare = breaks_off(lambda: call(pipe, arguments, [3]))
    assert breaks_off(watched) == bare
    lab = load(pipe)
    (run,) = specs_of(lab, arguments, [3])
    assert breaks_off(lambda: lab.run(run, EVERYTHING)) == bare


@pytest.mark.parametrize("kind", RUN)
def test_a_run_of_the_lab_leaves_a_fresh_pipeline_as_it_was(kind: str) -> None:
    pipe = RUN[kind]()
    pipe.vae.clear_cache()  # which it makes at its first call, whoever calls
    if "clip" in kind:  # and its modules note theirs
        ordinary(pipe).encode_image(pipelines.picture(), "cpu")
    before = state_of(pipe)
    lab = load(pipe)
    lab.run(specs_of(lab, arguments_of(kind, pipe, guidance=5.0), [3])[0], EVERYTHING)
    assert state_of(pipe) == before


@pytest.mark.parametrize("kind", MODULAR)
def test_a_modular_call_has_the_tensors_of_the_ordinary_one(kind: str) -> None:
    """In fp32; in bf16 modular pipelines round the timestep too."""
    patterns = ["blocks.*.hook_resid_post", "latents.*", "hook_timestep"]
    seen = []
    for name in (kind, kind.removeprefix("modular ")):
        pipe = RUN[name](scheduler="unipc")
        with load(pipe).observe(patterns) as one:
            call(pipe, arguments_of(name, pipe, guidance=5.0), [3])
        seen.append(one)
    assert seen[0].calls == seen[1].calls
    assert set(seen[0].tensors) == set(seen[1].tensors)
    for key, tensor in seen[0].tensors.items():
        assert torch.equal(tensor, seen[1].tensors[key]), key


def other_guider(pipe: Any) -> None:
    pipe.update_components(guider=SkipLayerGuidance(guidance_scale=4.0, skip_layer_guidance_layers=[1]))


def late_guidance(pipe: Any) -> None:
    pipe.update_components(guider_2=ClassifierFreeGuidance(guidance_scale=4.0, start=0.5))


def other_block(pipe: Any) -> None:
    loop = pipe._blocks.sub_blocks["denoise"].sub_blocks["denoise"]
    loop.sub_blocks["after_denoiser"] = type("Louder", (type(loop.sub_blocks["after_denoiser"]),), {})()


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (other_guider, {"guidance_scale": 4.0}, r"guider of this \w+ is a SkipLayerGuidance.*lab\.observe"),
        (late_guidance, {"guidance_scale": 4.0}, r"'start': 0\.5.*lab\.observe"),
        (other_block, {}, r"blocks of this \w+ are not those of diffusers.*lab\.observe"),
        (lambda pipe: None, {"guidance_scale": 4.0, "guidance_scale_2": 1.0}, "makes one pass where the scale is 1"),
    ],
)
def test_a_modular_pipeline_of_other_parts_is_watched_not_run(
    change: Any, settings: dict[str, Any], message: str
) -> None:
    pipe = RUN["modular t2v two experts"]()
    change(pipe)
    lab = load(pipe)
    sample = sample_of(arguments_of("modular t2v two experts", pipe))
    with pytest.raises(ModelError, match=message):
        lab.plan(sample, 1, **settings)
    if "guidance_scale" in settings:
        assert lab.plan(sample, 1, steps=1)  # without guidance nobody asks a guider


def test_a_modular_run_is_guided_as_it_was_planned_whatever_the_guiders_say() -> None:
    """Reference: the ordinary pipeline of the same components, with a scale for each expert."""
    pipe = RUN["modular t2v two experts"](scheduler="unipc")
    arguments = arguments_of("modular t2v two experts", pipe)
    scales = {"guidance_scale": 3.0, "guidance_scale_2": 6.0}
    lab = load(pipe)
    (run,) = lab.plan(sample_of(arguments), [3], steps=3, max_sequence_length=16, **scales)
    assert set(lab.space(run).experts) == {"high", "low"}
    expected = bare_latents(ordinary(pipe), arguments | scales | {"negative_prompt": ""}, [3])
    assert torch.equal(lab.run(run).trajectory.result, expected[0])


def test_a_picture_that_a_modular_pipeline_would_make_another_video_of() -> None:
    pipe = RUN["modular i2v two experts"]()
    lab = load(pipe)
    arguments = arguments_of("modular i2v two experts", pipe)
    (run,) = lab.plan(sample_of(arguments | {"image": pipelines.picture().resize((64, 32))}), 1, steps=1)
    with pytest.raises(InterpError, match=r"keeps a picture's proportions.*\(16, 32\) \(height, width\), not one of"):
        lab.run(run)
    with pytest.raises(InterpError, match="leave last_image out"):
        lab.run(lab.plan(sample_of(arguments | {"last_image": pipelines.picture(1)}), 1, steps=1))
    (run,) = lab.plan(sample_of(arguments | {"image": pipelines.picture(0, 64)}), [3], steps=2, max_sequence_length=16)
    expected = call(pipe, arguments | {"image": pipelines.picture(0, 64), "num_inference_steps": 2}, [3])
    assert torch.equal(lab.run(run).trajectory.result, expected[0])  # it is made smaller, as the pipeline does


@pytest.mark.parametrize("name", ["WanAnimatePipeline", "Wan22VaceModularPipeline", "FluxPipeline"])
def test_what_is_not_supported_is_refused_by_name(name: str) -> None:
    with pytest.raises(ModelError, match=f"{name} is not"):
        Lab(type(name, (), {})(), "stranger")
