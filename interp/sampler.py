"""Our own denoising loop over the components of a stock diffusers pipeline.

Every tensor operation of the loop is diffusers' own, in the order of ``WanPipeline``, ``WanImageToVideoPipeline`` and
``WanVideoToVideoPipeline``, so that latents are bit-equal to the bare pipeline's at equal batch size. What the loop
adds: rows of a batch may be different samples and seeds, every step is visible, and it can start from any
`SolverState`. The pipeline itself is never changed; the scheduler is a copy.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from interp.conditioning import Conditioning, encode, transformer_input, velocity_of
from interp.errors import InterpError
from interp.fingerprint import fingerprint_now
from interp.modules import execution_device
from interp.runspec import RunSpec, SamplerSettings
from interp.schedule import build_scheduler, described, schedule_of
from interp.trajectory import Schedule, SolverState


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


def transformer_of(pipe: Any, expert: str) -> Any:
    """The transformer behind an expert's name."""
    return getattr(pipe, "transformer_2", None) if expert == "low" else pipe.transformer


def check_model(pipe: Any, specs: Sequence[RunSpec]) -> None:
    """Whether a model is the one that runs were planned with.

    Raises:
        InterpError: its weights have changed since.
    """
    now = fingerprint_now(pipe)
    if any(spec.model_hash != now for spec in specs):
        raise InterpError(
            "the model is not the one these runs were planned with: its weights have changed since (a LoRA loaded?), "
            "or it is another; plan the runs again with lab.plan(...)"
        )


@torch.no_grad()
def prepare(pipe: Any, specs: Sequence[RunSpec], *, checked: bool = False) -> Plan:
    """Encode prompts and first frames, draw the noise, set the schedule.

    Args:
        pipe: the pipeline whose components are used.
        specs: the runs.
        checked: whether `check_model` was asked just before.

    Raises:
        InterpError: no runs, runs that cannot share a batch (other settings, size or number of frames), or a sample
            that lacks what the pipeline needs, or a model or scheduler that has changed since the runs were planned.
    """
    if not specs:
        raise InterpError("no runs were given")
    if any(spec.edits for spec in specs):
        raise InterpError(
            "this is the description of an edited run, as a store has it; to run it, give the clean run and edits="
        )
    settings = specs[0].settings
    sizes = {(s.settings, s.sample.height, s.sample.width, s.sample.num_frames) for s in specs}
    if len(sizes) > 1:
        raise InterpError(
            f"{len(specs)} runs of {len(sizes)} kinds (settings, height, width, num_frames) cannot share one batch; "
            "group them by kind, as Lab.capture does"
        )
    if not checked:
        check_model(pipe, specs)
    device = execution_device(pipe)
    scheduler = build_scheduler(pipe, settings)
    if any(spec.scheduler_config not in ("{}", described(scheduler)) for spec in specs):
        raise InterpError(
            "the pipeline's scheduler is not the one these runs were planned with; plan the runs again with "
            "lab.plan(...), or say which they should have with scheduler= and shift="
        )
    schedule = schedule_of(pipe, scheduler, settings, device)
    conditioning, latents = encode(pipe, specs, settings, scheduler, device)
    return Plan(tuple(specs), settings, conditioning, schedule, SolverState(0, latents, scheduler))


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
    x, timestep = transformer_input(pipe, given, latents, t)
    found: list[Tensor] = []
    for branch in settings.branches:
        with plan.on_call(Call(expert, index, branch, sigma)):
            velocity = velocity_of(model, given, branch, x, timestep)
        found.append(velocity if editor is None else editor.on_velocity(branch, index, latents, velocity))
    cond, uncond = found if len(found) > 1 else (found[0], None)
    guided = cond if uncond is None else uncond + scale * (cond - uncond)
    guided = guided.float() if given.modular else guided
    if editor is not None:
        guided = editor.on_velocity("guided", index, latents, guided)
        editor.on_solver(scheduler, latents, guided)
    following = scheduler.step(guided, t, latents, return_dict=False)[0]
    x0_hat = latents.float() - sigma * guided.float()
    if editor is not None:
        editor.on_clean(x0_hat)
        following = editor.on_latents("latents.hook_out", index, following)
    return Step(index, sigma, expert, latents, cond, uncond, guided, x0_hat, following)


def finish(plan: Plan, latents: Tensor) -> Tensor:
    """Latents ready for the VAE: TI2V image-to-video puts the given frame back."""
    mask, condition = plan.conditioning.frame_mask, plan.conditioning.condition
    return latents if mask is None or condition is None else (1 - mask) * condition + mask * latents
