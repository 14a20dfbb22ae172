"""Attribution patching: what patching every address would do, to first order, from two forwards and one backward.

The effect of patching a part of a tensor from a source run is about the gradient of the metric at the clean run times
the difference of the two. It is a map of where to patch in earnest, not a result: where the metric bends (softmax,
saturation) it misleads, so compare it with a sweep of true patches. The integrated variant averages the gradient over
points between the two runs, at one forward and backward a point.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp.conditioning import transformer_input, velocity_of
from interp.errors import InterpError
from interp.hooks import Clock, tapped
from interp.replay import Recording
from interp.sampler import Call, transformer_of
from interp.selection import Selection, select
from interp.sites import layer_of

if TYPE_CHECKING:
    import polars as pl

    from interp.lab import Lab

Metric = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Attribution:
    """First-order effects of patching.

    Attributes:
        step: of the runs.
        effects: (site, branch) to the effect of patching each position, summed over the last axis of the site:
            [<other axes>].
        metric: the metric of the clean run.
    """

    step: int
    effects: dict[tuple[str, str], Tensor]
    metric: float

    @property
    def table(self) -> pl.DataFrame:
        """polars, one row a site and branch: site, layer, branch, step, effect (of patching all of it)."""
        import polars as pl

        rows = [
            {"site": s, "layer": layer_of(s), "branch": b, "step": self.step, "effect": float(e.sum())}
            for (s, b), e in self.effects.items()
        ]
        return pl.DataFrame(rows)


def attribute(
    lab: Lab,
    clean: Recording,
    source: Recording,
    sites: str | Selection | Sequence[str | Selection],
    metric: Metric,
    *,
    step: int = 0,
    points: int = 1,
) -> Attribution:
    """Estimate the effect on a metric of x0_hat of patching every address of one step.

    Args:
        lab: the pipeline.
        clean, source: recordings of one run each.
        sites: hook points that plain module hooks reach, as in `interp.select`.
        metric: differentiable, x0_hat [1, channel, latent_frame, row, col] of the step to one number.
        step: where to patch, and where x0_hat is read.
        points: 1 is the gradient at the clean run; more average it over points on the way to the source, patched all at
            once (integrated gradients).

    Raises:
        SelectionError: the selection matches nothing in this step.
        InterpError: recordings of several runs, or a metric that is not one number.
    """
    if len(clean.specs) != 1 or len(source.specs) != 1:
        raise InterpError("attribution compares one run with one run; use recording.rows([i]) to take one of several")
    resolution = (select(sites) & select(step=step)).resolve(lab.space(clean.specs[0]))
    there, _ = _forward(lab, source, step, resolution.sites, None, grad=False)
    here, first = _forward(lab, clean, step, resolution.sites, None, grad=False)
    value = float(_number(metric(first)))
    sums = {key: torch.zeros_like(tensor, dtype=torch.float32) for key, tensor in here.items()}
    for point in range(points):
        share = 0.0 if points == 1 else (point + 0.5) / points
        mixed = {key: torch.lerp(here[key].float(), there[key].float(), share).to(here[key].dtype) for key in here}
        tracked, x0_hat = _forward(lab, clean, step, resolution.sites, mixed if share else None, grad=True)
        found = torch.autograd.grad(_number(metric(x0_hat)), list(tracked.values()), allow_unused=True)
        for key, gradient in zip(tracked, found, strict=True):
            if gradient is not None:
                sums[key] += gradient.float() / points
    effects = {}
    for key, gradient in sums.items():
        if resolution.contains(key[0], step, key[1]):
            effects[key] = ((there[key].float() - here[key].float()) * gradient)[0].sum(-1).cpu()
    return Attribution(step, effects, value)


def _number(score: Tensor) -> Tensor:
    if score.numel() != 1:
        raise InterpError(f"the metric gave {tuple(score.shape)}, and attribution needs one number")
    return score.reshape(())


def _forward(
    lab: Lab,
    recording: Recording,
    step: int,
    sites: Sequence[str],
    values: dict[tuple[str, str], Tensor] | None,
    *,
    grad: bool,
) -> tuple[dict[tuple[str, str], Tensor], Tensor]:
    """One step's x0_hat, and the tensors at sites: (site, branch) to [1, <site axes>]; ``values`` replace them."""
    plan, pipe, clock = recording.plan, lab.pipe, Clock()
    schedule, given, settings = plan.schedule, plan.conditioning, plan.settings
    expert, sigma = schedule.experts[step], schedule.sigmas[step]
    model, state = transformer_of(pipe, expert), recording.states[step]
    seen: dict[tuple[str, str], Tensor] = {}

    def emit(site: str, call: Call, tensor: Tensor) -> Tensor:
        key = (site, call.branch)
        if values is not None:
            tensor = values[key]
        if grad and not tensor.requires_grad:
            tensor = tensor.detach().requires_grad_()
        seen[key] = tensor if grad else tensor.detach()
        return tensor

    scale = settings.guidance_scale
    if expert == "low" and settings.guidance_scale_2 is not None:
        scale = settings.guidance_scale_2
    with torch.set_grad_enabled(grad), tapped(pipe, sites, clock, emit):
        x, timestep = transformer_input(pipe, model, given, state.latents, state.scheduler.timesteps[step])

        def velocity(branch: str) -> Tensor:
            with clock.enter(Call(expert, step, branch, sigma)):
                return velocity_of(model, given, branch, x, timestep)

        guided = velocity("cond")
        if len(settings.branches) > 1:
            uncond = velocity("uncond")
            guided = uncond + scale * (guided - uncond)
        return seen, state.latents.float() - sigma * guided.float()


__all__ = ["Attribution", "attribute"]
