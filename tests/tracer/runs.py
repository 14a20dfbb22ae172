"""The same run two ways: arguments of a bare pipeline call, and the `RunSpec` that means it."""

from __future__ import annotations

from typing import Any

import torch

from interp.lab import Lab
from interp.runspec import RunSpec
from interp.tasks.sample import Sample
from tests import pipelines

KINDS: dict[str, Any] = {
    "i2v": pipelines.tiny_i2v,
    "i2v two experts": lambda **k: pipelines.tiny_i2v(two_experts=True, **k),
    "i2v last frame": pipelines.tiny_i2v,
    "i2v two experts, last frame": lambda **k: pipelines.tiny_i2v(two_experts=True, **k),
    "i2v clip": pipelines.tiny_i2v_clip,
    "i2v clip, last frame": lambda **k: pipelines.tiny_i2v_clip(last_frame=True, **k),
    "t2v": pipelines.tiny_t2v,
    "t2v two experts": lambda **k: pipelines.tiny_t2v(two_experts=True, **k),
    "ti2v image": pipelines.tiny_ti2v,
    "ti2v text": lambda **k: pipelines.tiny_ti2v(image=False, **k),
    "v2v": pipelines.tiny_v2v,
    "vace": pipelines.tiny_vace,
    "vace two experts": lambda **k: pipelines.tiny_vace(two_experts=True, **k),
}
"""Every ordinary pipeline."""


def _modular(kind: str) -> Any:
    return lambda **k: pipelines.tiny_modular(KINDS[kind](**k))


MODULAR: dict[str, Any] = {
    "modular t2v": _modular("t2v"),
    "modular t2v two experts": _modular("t2v two experts"),
    "modular i2v two experts": _modular("i2v two experts"),
    "modular i2v clip": _modular("i2v clip"),
}
"""Modular pipelines, whose hook points are those of their siblings."""
RUN = KINDS | MODULAR
"""Every pipeline that the step loop runs."""


def arguments_of(kind: str, pipe: Any, **options: Any) -> dict[str, Any]:
    """Arguments of a small call of a pipeline of this kind."""
    found = pipelines.call_arguments(pipe, **options)
    if "clip" not in kind:  # whose text is 512 tokens; few are most of the time saved
        found["max_sequence_length"] = 16
    return found | ({"last_image": pipelines.picture(1)} if kind.endswith("last frame") else {})


def seeds_of(kind: str) -> list[int]:
    """Two seeds, or one where the stock call makes one video only."""
    return [3] if any(word in kind for word in ("clip", "v2v", "vace", "modular")) else [3, 11]


def bare_latents(pipe: Any, arguments: dict[str, Any], seeds: list[int]) -> torch.Tensor:
    """What the stock call gives: [seed, channel, latent_frame, row, col]."""
    generators = [torch.Generator().manual_seed(s) for s in seeds]
    call = arguments | {
        "generator": generators if len(seeds) > 1 else generators[0],
        "num_videos_per_prompt": len(seeds),
    }
    return pipe(**call).frames


def call(pipe: Any, arguments: dict[str, Any], seeds: list[int]) -> torch.Tensor:
    """What a call of any pipeline gives, modular ones too: their guidance is a component, not an argument."""
    if not hasattr(pipe, "guider"):
        return bare_latents(pipe, arguments, seeds)
    for guider in (pipe.components[name] for name in ("guider", "guider_2") if name in pipe.components):
        if arguments["guidance_scale"] > 1:
            guider.guidance_scale = arguments["guidance_scale"]
        else:  # guided at no step: switched off, the text encoder's step of diffusers 0.42.1 fails
            guider._start = guider._stop = 1.0
        guider._step = guider._num_inference_steps = None  # of the call before
    own = {k: v for k, v in arguments.items() if k not in ("guidance_scale", "output_type", "generator")}
    generators = [torch.Generator().manual_seed(s) for s in seeds]
    own |= {"generator": generators if len(seeds) > 1 else generators[0], "num_videos_per_prompt": len(seeds)}
    return pipe(**own, output="latents")


def sample_of(arguments: dict[str, Any]) -> Sample:
    """The problem behind a bare call."""
    return Sample(
        task="",
        key="tiny",
        prompt=arguments["prompt"],
        image=arguments.get("image"),
        problem=None,
        height=arguments["height"],
        width=arguments["width"],
        num_frames=arguments.get("num_frames", pipelines.FRAMES),
        meta={},
        last_image=arguments.get("last_image"),
        video=tuple(arguments["video"]) if "video" in arguments else None,
        mask=tuple(arguments["mask"]) if "mask" in arguments else None,
    )


def specs_of(lab: Lab, arguments: dict[str, Any], seeds: list[int]) -> list[RunSpec]:
    """One spec a seed, with the call's settings."""
    return lab.plan(
        sample_of(arguments),
        seeds,
        steps=arguments["num_inference_steps"],
        guidance_scale=arguments["guidance_scale"],
        negative_prompt=arguments["negative_prompt"],
        max_sequence_length=arguments.get("max_sequence_length", 512),
        **{name: arguments[name] for name in ("strength", "conditioning_scale") if name in arguments},
    )
