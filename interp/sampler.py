"""Our own denoising loop over the components of a stock diffusers pipeline.

Every tensor operation of the loop is diffusers' own, in the order of ``WanPipeline`` and ``WanImageToVideoPipeline``,
so that latents are bit-equal to the bare pipeline's at equal batch size. What the loop adds: rows of a batch may be
different samples and seeds, every step is visible, and it can start from any `SolverState`. The pipeline itself is
never changed; the scheduler is a copy.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from interp.errors import InterpError, ModelError
from interp.runspec import RunSpec, SamplerSettings
from interp.trajectory import Schedule, SolverState


@dataclass(frozen=True)
class Conditioning:
    """What the transformer is given beside the noisy latents, one row a run.

    Attributes:
        prompt: text states of the cond pass [batch, text_token, text_dim].
        negative: text states of the uncond pass, or None without guidance.
        condition: channels appended to the latents, or mixed in with ``frame_mask``:
            [batch, channel, latent_frame, row, col]; None for text-to-video.
        frame_mask: 0 on latent frames that are given, 1 elsewhere (TI2V: per-token timesteps), else None.
        image: CLIP states of Wan 2.1 image-to-video [batch, image_token, image_dim], else None.
    """

    prompt: Tensor
    negative: Tensor | None
    condition: Tensor | None = None
    frame_mask: Tensor | None = None
    image: Tensor | None = None


@dataclass(frozen=True)
class Call:
    """One forward of a transformer: where in the run it happens. This is the address every hook is given."""

    expert: str
    step: int
    branch: str
    sigma: float


@dataclass(frozen=True)
class Step:
    """What one step computed, rows as in the batch: [batch, channel, latent_frame, row, col] each."""

    index: int
    sigma: float
    expert: str
    latents: Tensor
    velocity_cond: Tensor
    velocity_uncond: Tensor | None
    velocity: Tensor
    x0_hat: Tensor
    next_latents: Tensor


@runtime_checkable
class StepEditor(Protocol):
    """Changes the sampler's own tensors, [batch, channel, latent_frame, row, col] each, by returning others."""

    def on_latents(self, site: str, step: int, latents: Tensor) -> Tensor:
        """Latents at "latents.hook_in" or "latents.hook_out"."""

    def on_velocity(self, branch: str, step: int, latents: Tensor, velocity: Tensor) -> Tensor:
        """The velocity of a pass ("cond", "uncond") or the "guided" one."""

    def on_solver(self, scheduler: Any, latents: Tensor, velocity: Tensor) -> None:
        """The solver is about to step."""

    def on_clean(self, x0_hat: Tensor) -> None:
        """The step's x0_hat."""


@dataclass
class Plan:
    """A batch of runs, prepared: everything before the first step."""

    specs: tuple[RunSpec, ...]
    settings: SamplerSettings
    conditioning: Conditioning
    schedule: Schedule
    start: SolverState
    on_call: Callable[[Call], contextlib.AbstractContextManager[None]] = field(
        default=lambda call: contextlib.nullcontext()
    )
    editor: StepEditor | None = None


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


def schedule_of(pipe: Any, scheduler: Any, settings: SamplerSettings, device: torch.device | str = "cpu") -> Schedule:
    """Set the scheduler's timesteps and say which expert runs each.

    Raises:
        ModelError: a boundary was asked for, but there is only one transformer.
    """
    if settings.scheduler == "diffsynth":
        grid = [1 - i / settings.steps for i in range(settings.steps)]
        scheduler.set_timesteps(sigmas=grid, device=device)
    else:
        scheduler.set_timesteps(settings.steps, device=device)
    boundary = boundary_timestep(pipe)
    if settings.boundary_ratio is not None:
        if boundary is None:
            raise ModelError(
                f"boundary_ratio={settings.boundary_ratio} was asked for, but the model has a single transformer"
            )
        boundary = settings.boundary_ratio * pipe.scheduler.config.num_train_timesteps

    def expert(t: Tensor) -> str:
        return "main" if boundary is None else "high" if bool(t >= boundary) else "low"

    return Schedule(
        sigmas=tuple(float(s) for s in scheduler.sigmas),
        timesteps=tuple(float(t) for t in scheduler.timesteps),
        experts=tuple(expert(t) for t in scheduler.timesteps),
    )


def transformer_of(pipe: Any, expert: str) -> Any:
    """The transformer behind an expert's name."""
    return pipe.transformer_2 if expert == "low" else pipe.transformer


@torch.no_grad()
def prepare(pipe: Any, specs: Sequence[RunSpec]) -> Plan:
    """Encode prompts and first frames, draw the noise, set the schedule.

    Prompts and first frames are encoded one by one and once each, which is what the bare pipeline does for one sample.

    Raises:
        InterpError: no runs, or runs that cannot share a batch (other settings, size or number of frames).
    """
    if not specs:
        raise InterpError("no runs were given")
    settings = specs[0].settings
    sizes = {(s.settings, s.sample.height, s.sample.width, s.sample.num_frames) for s in specs}
    if len(sizes) > 1:
        raise InterpError(
            f"{len(specs)} runs of {len(sizes)} kinds (settings, height, width, num_frames) cannot share one batch; "
            "group them by kind, as Lab.capture does"
        )
    device = pipe._execution_device
    conditioning, latents = _encode(pipe, specs, settings, device)
    scheduler = build_scheduler(pipe, settings)
    schedule = schedule_of(pipe, scheduler, settings, device)
    return Plan(tuple(specs), settings, conditioning, schedule, SolverState(0, latents, scheduler))


def _encode(pipe: Any, specs: Sequence[RunSpec], settings: SamplerSettings, device: Any) -> tuple[Conditioning, Tensor]:
    dtype = _dtype_of(pipe)
    guided = len(settings.branches) > 1
    texts: dict[str, tuple[Tensor, Tensor | None]] = {}
    images: dict[str, _ImageRow] = {}
    prompts, negatives, rows, noise = [], [], [], []
    for spec in specs:
        sample = spec.sample
        if sample.prompt not in texts:
            texts[sample.prompt] = pipe.encode_prompt(
                prompt=sample.prompt,
                negative_prompt=settings.negative_prompt,
                do_classifier_free_guidance=guided,
                max_sequence_length=settings.max_sequence_length,
                device=device,
            )
        positive, negative = texts[sample.prompt]
        prompts.append(positive.to(dtype))
        if guided and negative is not None:
            negatives.append(negative.to(dtype))
        if sample.key not in images:
            images[sample.key] = _encode_image(pipe, spec, device, dtype)
        rows.append(images[sample.key])
        noise.append(_noise(pipe, spec, device))
    first = rows[0]
    return (
        Conditioning(
            prompt=torch.cat(prompts),
            negative=torch.cat(negatives) if negatives else None,
            condition=None if first.condition is None else torch.cat([r.condition for r in rows]),  # type: ignore[misc]
            frame_mask=first.frame_mask,
            image=None if first.image is None else torch.cat([r.image for r in rows]),  # type: ignore[misc]
        ),
        torch.cat(noise),
    )


@dataclass(frozen=True)
class _ImageRow:
    condition: Tensor | None = None
    frame_mask: Tensor | None = None
    image: Tensor | None = None


def _encode_image(pipe: Any, spec: RunSpec, device: Any, dtype: torch.dtype) -> _ImageRow:
    """Condition channels (and CLIP states, for Wan 2.1) of one first frame, by the pipeline's own methods."""
    if not hasattr(pipe, "image_encoder"):  # text-to-video
        return _ImageRow()
    sample = spec.sample
    image = pipe.video_processor.preprocess(sample.image, height=sample.height, width=sample.width)
    outputs = pipe.prepare_latents(
        image.to(device, dtype=torch.float32),
        1,
        pipe.vae.config.z_dim,
        sample.height,
        sample.width,
        sample.num_frames,
        torch.float32,
        device,
        None,
        _noise(pipe, spec, device),
        None,
    )
    clip = None
    if transformer_of(pipe, "main").config.image_dim is not None:
        clip = pipe.encode_image(sample.image, device).to(dtype)
    frame_mask = outputs[2] if pipe.config.get("expand_timesteps") else None
    return _ImageRow(outputs[1], frame_mask, clip)


def _noise(pipe: Any, spec: RunSpec, device: Any) -> Tensor:
    """Initial latents of one run from a CPU generator: [1, channel, latent_frame, row, col] in float32."""
    from diffusers.utils.torch_utils import randn_tensor

    sample = spec.sample
    channels = pipe.transformer.config.out_channels if pipe.transformer is not None else pipe.vae.config.z_dim
    shape = (
        1,
        channels,
        (sample.num_frames - 1) // pipe.vae_scale_factor_temporal + 1,
        sample.height // pipe.vae_scale_factor_spatial,
        sample.width // pipe.vae_scale_factor_spatial,
    )
    generator = torch.Generator("cpu").manual_seed(spec.seed)
    return randn_tensor(shape, generator=generator, device=torch.device(device), dtype=torch.float32)


def _dtype_of(pipe: Any) -> torch.dtype:
    transformer = pipe.transformer if pipe.transformer is not None else pipe.transformer_2
    return transformer.dtype


def run_steps(pipe: Any, plan: Plan, start: SolverState | None = None, stop: int | None = None) -> Iterator[Step]:
    """Denoise, yielding each `Step` as it ends.

    Args:
        pipe: the pipeline whose components are used.
        plan: what `prepare` returned.
        start: where to begin; the plan's own start otherwise. It is copied, not used up.
        stop: step to stop before; the last one otherwise.
    """
    state = start or plan.start
    scheduler, latents = copy.deepcopy(state.scheduler), state.latents
    for index in range(state.step, plan.schedule.steps if stop is None else stop):
        step = _one_step(pipe, plan, scheduler, index, latents)
        latents = step.next_latents
        yield step


@torch.no_grad()
def _one_step(pipe: Any, plan: Plan, scheduler: Any, index: int, latents: Tensor) -> Step:
    """One step exactly as the Wan pipelines make it; see ``pipeline_wan.py`` and ``pipeline_wan_i2v.py``."""
    settings, schedule, given = plan.settings, plan.schedule, plan.conditioning
    expert, sigma = schedule.experts[index], schedule.sigmas[index]
    model = transformer_of(pipe, expert)
    scale = settings.guidance_scale
    if expert == "low" and settings.guidance_scale_2 is not None:
        scale = settings.guidance_scale_2
    t = scheduler.timesteps[index]
    editor = plan.editor
    if editor is not None:
        latents = editor.on_latents("latents.hook_in", index, latents)
    x, timestep = _transformer_input(pipe, model, given, latents, t)

    def velocity(branch: str, text: Tensor | None) -> Tensor:
        with plan.on_call(Call(expert, index, branch, sigma)), model.cache_context(branch):
            found = model(
                hidden_states=x,
                timestep=timestep,
                encoder_hidden_states=text,
                encoder_hidden_states_image=given.image,
                attention_kwargs=None,
                return_dict=False,
            )[0]
        return found if editor is None else editor.on_velocity(branch, index, latents, found)

    cond = velocity("cond", given.prompt)
    uncond = velocity("uncond", given.negative) if len(settings.branches) > 1 else None
    guided = cond if uncond is None else uncond + scale * (cond - uncond)
    if editor is not None:
        guided = editor.on_velocity("guided", index, latents, guided)
        editor.on_solver(scheduler, latents, guided)
    following = scheduler.step(guided, t, latents, return_dict=False)[0]
    x0_hat = latents.float() - sigma * guided.float()
    if editor is not None:
        editor.on_clean(x0_hat)
        following = editor.on_latents("latents.hook_out", index, following)
    return Step(index, sigma, expert, latents, cond, uncond, guided, x0_hat, following)


def _transformer_input(pipe: Any, model: Any, given: Conditioning, latents: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Latents with their conditioning, and the timestep: per run, or per token for TI2V models."""
    dtype = model.dtype
    if pipe.config.get("expand_timesteps"):
        mask = torch.ones_like(latents, dtype=torch.float32) if given.frame_mask is None else given.frame_mask
        x = latents if given.condition is None else (1 - mask) * given.condition + mask * latents
        per_token = (mask[0][0][:, ::2, ::2] * t).flatten()
        return x.to(dtype), per_token.unsqueeze(0).expand(latents.shape[0], -1)
    x = latents if given.condition is None else torch.cat([latents, given.condition], dim=1)
    return x.to(dtype), t.expand(latents.shape[0])


def finish(plan: Plan, latents: Tensor) -> Tensor:
    """Latents ready for the VAE: TI2V image-to-video puts the given frame back."""
    mask, condition = plan.conditioning.frame_mask, plan.conditioning.condition
    return latents if mask is None or condition is None else (1 - mask) * condition + mask * latents


@torch.no_grad()
def decode(pipe: Any, latents: Tensor) -> Tensor:
    """Decode with the pipeline's VAE.

    From [batch, channel, latent_frame, row, col] to [batch, rgb, frame, row, col] in -1..1.
    """
    vae = pipe.vae
    z = latents.to(device=vae.device, dtype=vae.dtype)
    shape = (1, vae.config.z_dim, 1, 1, 1)
    mean = torch.tensor(vae.config.latents_mean).view(shape).to(z.device, z.dtype)
    std = 1.0 / torch.tensor(vae.config.latents_std).view(shape).to(z.device, z.dtype)
    return vae.decode(z / std + mean, return_dict=False)[0]
