"""The same run two ways: arguments of a bare pipeline call, and the `RunSpec` that means it."""

from __future__ import annotations

from typing import Any

from interp.lab import Lab
from interp.runspec import RunSpec
from interp.tasks.sample import Sample


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
        num_frames=arguments["num_frames"],
        meta={},
    )


def specs_of(lab: Lab, arguments: dict[str, Any], seeds: list[int]) -> list[RunSpec]:
    """One spec a seed, with the call's settings."""
    return lab.plan(
        sample_of(arguments),
        seeds,
        steps=arguments["num_inference_steps"],
        guidance_scale=arguments["guidance_scale"],
        negative_prompt=arguments["negative_prompt"],
    )
