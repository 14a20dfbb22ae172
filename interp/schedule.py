"""Which solver a run uses, at which noise levels, and which expert runs each of them."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import torch
from torch import Tensor

from interp.address.shapes import TEXT_TOKENS
from interp.errors import InterpError, ModelError
from interp.kinds import kind_of
from interp.runspec import SamplerSettings
from interp.trajectory import Schedule

STRENGTH = 0.8  # of video-to-video, where none is given; diffusers' own


def settings_for(pipe: Any, settings: SamplerSettings) -> SamplerSettings:
    """The settings with what this kind of pipeline adds, so that provenance has it.

    Raises:
        InterpError: a strength, hints' scales, or a setting of two experts for a pipeline that has none; not one scale
            a control block; guidance of one expert alone; a number of text tokens at which the model would take some
            of the picture for text.
    """
    kind, name = kind_of(pipe), type(pipe).__name__
    if kind.control:
        settings = _with_scales(pipe, settings)
    elif settings.conditioning_scale is not None:
        raise InterpError(f"conditioning_scale={settings.conditioning_scale} is for VACE; {name} has no control blocks")
    if kind.video:
        settings = settings if settings.strength is not None else dataclasses.replace(settings, strength=STRENGTH)
    elif settings.strength is not None:
        raise InterpError(f"strength={settings.strength} is for video-to-video; {name} runs every step of its schedule")
    transformer = pipe.transformer if pipe.transformer is not None else pipe.transformer_2
    if transformer.config.get("image_dim") is not None and settings.max_sequence_length != TEXT_TOKENS:
        raise InterpError(
            f"max_sequence_length={settings.max_sequence_length}: the attention of this model, which has an image "
            f"encoder, takes the last {TEXT_TOKENS} tokens for the text and all before for the picture; leave it out"
        )
    return _with_boundary(pipe, settings)


def _with_boundary(pipe: Any, settings: SamplerSettings) -> SamplerSettings:
    """Where the experts change, which is the pipeline's to say if nobody did."""
    own = pipe.config.get("boundary_ratio")
    if own is None:
        for setting in ("boundary_ratio", "guidance_scale_2"):
            said = getattr(settings, setting)
            if said is not None:
                raise InterpError(
                    f"{setting}={said} is for two experts, but the model has a single transformer; leave it out "
                    f"({setting}=None takes it out of a preset)"
                )
        return settings
    if settings.guidance_scale <= 1 < (settings.guidance_scale_2 or 0):
        raise InterpError(
            f"guidance_scale_2={settings.guidance_scale_2} would do nothing: with guidance_scale="
            f"{settings.guidance_scale} no step has an uncond pass, as in diffusers; set both above 1"
        )
    return settings if settings.boundary_ratio is not None else dataclasses.replace(settings, boundary_ratio=own)


def _with_scales(pipe: Any, settings: SamplerSettings) -> SamplerSettings:
    """One scale for every control block of a VACE pipeline."""
    transformer = pipe.transformer if pipe.transformer is not None else pipe.transformer_2
    scales, blocks = settings.conditioning_scale, len(transformer.config.vace_layers)
    if scales is None or isinstance(scales, int | float):
        scales = (1.0 if scales is None else float(scales),) * blocks
    if len(scales) != blocks:
        raise InterpError(
            f"conditioning_scale= has {len(scales)} numbers, and the model {blocks} control blocks; give one number "
            "for all, or one each"
        )
    return dataclasses.replace(settings, conditioning_scale=scales)


def build_scheduler(pipe: Any, settings: SamplerSettings) -> Any:
    """A fresh scheduler for one run: the pipeline's own kind, or the one asked for, with the shift asked for.

    Raises:
        ModelError: the pipeline's scheduler has no shift that could be set.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

    own = pipe.scheduler
    shift = settings.shift if settings.shift is not None else _shift_of(own)
    if settings.scheduler in ("euler", "diffsynth"):
        return FlowMatchEulerDiscreteScheduler(shift=shift if shift is not None else 1.0)
    if settings.scheduler == "unipc":
        return UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift if shift is not None else 1.0
        )
    if settings.shift is None:
        return copy.deepcopy(own)
    for name in ("flow_shift", "shift"):
        if name in own.config:
            return type(own).from_config(own.config, **{name: settings.shift})
    raise ModelError(f"{type(own).__name__} has no shift to set; choose scheduler='euler' or 'unipc' with shift=")


def described(scheduler: Any) -> str:
    """A scheduler's configuration as canonical JSON."""
    config = {name: value for name, value in scheduler.config.items() if not name.startswith("_")}
    return json.dumps(config, sort_keys=True, default=str)


def _shift_of(scheduler: Any) -> float | None:
    for name in ("flow_shift", "shift"):
        value = scheduler.config.get(name)
        if value is not None:
            return float(value)
    return None


def boundary_timestep(pipe: Any) -> float | None:
    """Timestep from which the low-noise expert takes over, or None with a single transformer."""
    ratio = pipe.config.get("boundary_ratio")
    return None if ratio is None else ratio * pipe.scheduler.config.num_train_timesteps


def experts_of(timesteps: Tensor, boundary: float | None) -> tuple[str, ...]:
    """Which expert runs each timestep, given the one from which the low-noise expert takes over."""
    if boundary is None:
        return ("main",) * len(timesteps)
    return tuple("high" if high else "low" for high in (timesteps >= boundary).tolist())


def schedule_of(pipe: Any, scheduler: Any, settings: SamplerSettings, device: torch.device | str = "cpu") -> Schedule:
    """Set the scheduler's timesteps and say which expert runs each.

    Video-to-video leaves out the noisiest steps; the scheduler then knows only those that are run, so that step 0 is
    the first of the run everywhere.

    Raises:
        ModelError: a boundary was asked for, but there is only one transformer.
        InterpError: the strength leaves no step to run.
    """
    if settings.scheduler == "diffsynth":
        grid = [1 - i / settings.steps for i in range(settings.steps)]
        scheduler.set_timesteps(sigmas=grid, device=device)
    else:
        scheduler.set_timesteps(settings.steps, device=device)
    if settings.strength is not None:
        _leave_out(scheduler, settings)
    boundary = boundary_timestep(pipe)
    if settings.boundary_ratio is not None:
        if boundary is None:
            raise ModelError(
                f"boundary_ratio={settings.boundary_ratio} was asked for, but the model has a single transformer"
            )
        boundary = settings.boundary_ratio * pipe.scheduler.config.num_train_timesteps
    return Schedule(
        sigmas=tuple(float(s) for s in scheduler.sigmas),
        timesteps=tuple(float(t) for t in scheduler.timesteps),
        experts=experts_of(scheduler.timesteps, boundary),
    )


def _leave_out(scheduler: Any, settings: SamplerSettings) -> None:
    """Drop the steps that start above the strength, as ``WanVideoToVideoPipeline.get_timesteps`` counts them."""
    if scheduler.order != 1 or len(scheduler.sigmas) != len(scheduler.timesteps) + 1:
        raise ModelError(
            f"{type(scheduler).__name__} does not make one step a timestep, so strength= cannot cut its schedule; "
            "choose scheduler='euler' or 'unipc'"
        )
    kept = min(int(settings.steps * (settings.strength or 0)), settings.steps)
    if kept < 1:
        raise InterpError(
            f"strength={settings.strength} of {settings.steps} steps leaves none to run; "
            f"it needs at least {1 / settings.steps:.3g}"
        )
    scheduler.sigmas = scheduler.sigmas[settings.steps - kept :]
    scheduler.timesteps = scheduler.timesteps[settings.steps - kept :]
