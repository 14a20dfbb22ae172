"""What is known of runs before they run: their specs, token grids and addresses."""

from __future__ import annotations

import dataclasses
import operator
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from interp.conditioning import IMAGE_TOKENS
from interp.errors import InterpError, TaskError, suggest
from interp.fingerprint import fingerprint
from interp.grid import TokenGrid
from interp.kinds import check_loop
from interp.lora import adapters_of
from interp.presets import preset_named
from interp.runspec import RunSpec, SamplerSettings
from interp.sampler import transformer_of
from interp.schedule import build_scheduler, described, settings_for
from interp.selection import AddressSpace
from interp.tasks.sample import Sample
from interp.trajectory import Schedule


def planned(
    pipe: Any, name: str, samples: Sequence[Sample], seeds: Sequence[int], preset: str | None, said: Mapping[str, Any]
) -> list[RunSpec]:
    """Runs of every sample with every seed; see `interp.Lab.plan`."""
    known = [f.name for f in dataclasses.fields(SamplerSettings)]
    for setting in said:
        if setting not in known:
            raise InterpError(
                f"{setting} is not a sampler setting{suggest(setting, known)}; there are {', '.join(known)}"
            )
    settings = settings_for(pipe, SamplerSettings(**((preset_named(preset) if preset else {}) | dict(said))))
    check_loop(pipe, settings)
    config = described(build_scheduler(pipe, settings))
    now, adapters = fingerprint(pipe), adapters_of(pipe)
    return [RunSpec(name, now, sample, seed, settings, config, adapters) for sample in samples for seed in seeds]


def samples_of(asked: Any) -> list[Sample]:
    """One sample or several, as a list.

    Raises:
        TaskError: something else was given.
    """
    try:
        many: list[Any] = [asked] if isinstance(asked, Sample | str) else list(asked)
    except TypeError:
        many = [asked]
    for each in many:
        if not isinstance(each, Sample):
            said = textwrap.shorten(repr(each), 60)
            raise TaskError(
                f"plan was given {said} ({type(each).__name__}) where it needs samples; pass what a task makes, as "
                "lab.plan(task.sample(4, seed=0)), or your own interp.Sample"
            )
    return many


def seeds_of(asked: Any) -> list[int]:
    """A number of seeds, 0 to n - 1, or the seeds themselves, as a list.

    Raises:
        InterpError: they are no whole numbers.
    """
    try:
        return list(range(operator.index(asked))) if np.ndim(asked) == 0 else [operator.index(seed) for seed in asked]
    except TypeError as error:
        raise InterpError(
            f"seeds={asked!r} is neither a number of seeds nor a list of seeds; pass seeds=3, or seeds=[3, 7]"
        ) from error


def grid_of(pipe: Any, sample: Sample) -> TokenGrid:
    """The token grid of a sample's video."""
    patch = transformer_of(pipe, "main").config.patch_size
    t, s = pipe.vae_scale_factor_temporal, pipe.vae_scale_factor_spatial
    return TokenGrid(
        frames=((sample.num_frames - 1) // t + 1) // patch[0],
        rows=sample.height // s // patch[1],
        cols=sample.width // s // patch[2],
        patch=tuple(patch),
        vae_spatial=s,
        vae_temporal=t,
    )


def space_of(pipe: Any, specs: Sequence[RunSpec], schedule: Schedule) -> AddressSpace:
    """Every address of runs that share settings and size; see `interp.Lab.space`."""
    spec, sample = specs[0], specs[0].sample
    alike = all(one.sample is sample or _problem(one.sample) == _problem(sample) for one in specs)
    return AddressSpace.of_model(
        transformer_of(pipe, "main").config,
        grid_of(pipe, sample),
        sigmas=schedule.sigmas[: schedule.steps],
        experts=schedule.experts,
        branches=spec.settings.branches,
        text_tokens=spec.settings.max_sequence_length,
        image_tokens=IMAGE_TOKENS * (1 if sample.last_image is None else 2),
        per_token_time=bool(pipe.config.get("expand_timesteps")),
        sample=sample if alike else None,
    )


def _problem(sample: Sample) -> tuple[Any, ...]:
    """What says which problem a sample is."""
    return sample.task, sample.key, sample.prompt, dict(sample.meta)
