"""Attribution patching: what patching every address would do, to first order, from two forwards and one backward.

The effect of patching a part of a tensor from a source run is about the gradient of the metric at the clean run times
the difference of the two. It is a map of where to patch in earnest, not a result: where the metric bends (softmax,
saturation) it misleads, so compare it with a sweep of true patches. The integrated variant averages the gradient over
points between the two runs, at one forward and backward a point.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.conditioning import transformer_input, velocity_of
from interp.errors import InterpError
from interp.hooks import Clock, tapped
from interp.instrument import innermost, replaced
from interp.replay import Recording
from interp.sampler import Call, transformer_of
from interp.selection import Selection, select
from interp.sites import layer_of

if TYPE_CHECKING:
    import polars as pl

    from interp.lab import Lab

Metric = Callable[[Tensor], Tensor]
Key = tuple[str, str]  # site, branch


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
    checkpoint: bool = False,
) -> Attribution:
    """Estimate the effect on a metric of x0_hat of patching every address of one step.

    Args:
        lab: the pipeline.
        clean, source: recordings of one run each.
        sites: hook points that plain module hooks reach, as in `interp.select`.
        metric: differentiable, x0_hat [1, channel, latent_frame, row, col] of the step to one number.
        step: where to patch, and where x0_hat is read.
        points: 1 is the gradient at the clean run; more average it over points on the way to the source, all sites
            moved at once (integrated gradients).
        checkpoint: compute every block again in the backward pass in place of keeping what is in it: memory of one
            block for the time of one more forward.

    Raises:
        SelectionError: the selection matches nothing in this step.
        InterpError: recordings of several runs, or a metric that is not one number.
    """
    if len(clean.specs) != 1 or len(source.specs) != 1:
        raise InterpError("attribution compares one run with one run; use recording.rows([i]) to take one of several")
    resolution = (select(sites) & select(step=step)).resolve(lab.space(clean.specs[0]))
    sites = resolution.sites
    shares = [(point + 0.5) / points for point in range(points)] if points > 1 else [0.0]
    with _forward(lab, source, step, sites) as (there, _):
        pass
    here: dict[Key, Tensor] = {}
    if points > 1:
        with _forward(lab, clean, step, sites) as (here, _):
            pass
    sums: dict[Key, Tensor] = {}
    for share in shares:
        shifts: dict[Key, Tensor] = {}
        mixed = {key: torch.lerp(x.float(), there[key].float(), share).to(x.dtype) for key, x in here.items()}
        with _forward(lab, clean, step, sites, mixed, shifts, checkpoint=checkpoint) as (seen, x0_hat):
            for key, gradient in _gradients(_number(metric(x0_hat)), shifts).items():
                sums[key] = sums.get(key, 0) + gradient / points
        here = here or seen
    effects = {}
    for key, gradient in sums.items():
        if resolution.contains(key[0], step, key[1]):
            effects[key] = ((there[key].float() - here[key].float()) * gradient)[0].sum(-1).cpu()
    clean_x0 = clean.steps[step].x0_hat
    return Attribution(step, effects, float(_number(metric(clean_x0)).detach()))


def _gradients(score: Tensor, shifts: dict[Key, Tensor]) -> dict[Key, Tensor]:
    """Of the score by every site, in fp32; zeros where the score does not depend on it."""
    found = torch.autograd.grad(score, list(shifts.values()), allow_unused=True)
    return {
        key: torch.zeros_like(shift, dtype=torch.float32) if gradient is None else gradient.float()
        for (key, shift), gradient in zip(shifts.items(), found, strict=True)
    }


def _number(score: Tensor) -> Tensor:
    if score.numel() != 1:
        raise InterpError(f"the metric gave {tuple(score.shape)}, and attribution needs one number")
    return score.reshape(())


@contextlib.contextmanager
def _forward(
    lab: Lab,
    recording: Recording,
    step: int,
    sites: Sequence[str],
    values: dict[Key, Tensor] | None = None,
    shifts: dict[Key, Tensor] | None = None,
    *,
    checkpoint: bool = False,
) -> Iterator[tuple[dict[Key, Tensor], Tensor]]:
    """The tensors at sites, (site, branch) to [1, <site axes>], and one step's x0_hat; hooks stay while it is used.

    ``values`` take the tensors' place, with gradients passing as if they did not: a site's gradient is that of all that
    comes after it, later sites included. ``shifts`` is filled with zeros that are added: their gradients are the
    sites'.
    """
    plan, pipe, clock = recording.plan, lab.pipe, Clock()
    schedule, given, settings = plan.schedule, plan.conditioning, plan.settings
    expert, sigma = schedule.experts[step], schedule.sigmas[step]
    model, state = transformer_of(pipe, expert), recording.states[step]
    seen: dict[Key, Tensor] = {}

    def emit(site: str, call: Call, tensor: Tensor) -> Tensor | None:
        key = (site, call.branch)
        seen[key] = tensor.detach()
        if shifts is None:
            return None
        if values:
            tensor = tensor + (values[key] - tensor).detach()
        if key not in shifts:
            shifts[key] = torch.zeros_like(tensor, requires_grad=True)
        return tensor + shifts[key]

    scale = settings.guidance_scale
    if expert == "low" and settings.guidance_scale_2 is not None:
        scale = settings.guidance_scale_2
    again = _checkpointed(model, clock) if checkpoint else contextlib.nullcontext()
    with torch.set_grad_enabled(shifts is not None), tapped(pipe, sites, clock, emit), again:
        x, timestep = transformer_input(pipe, given, state.latents, state.scheduler.timesteps[step])

        def velocity(branch: str) -> Tensor:
            with clock.enter(Call(expert, step, branch, sigma)):
                return velocity_of(model, given, branch, x, timestep)

        guided = velocity("cond")
        if len(settings.branches) > 1:
            uncond = velocity("uncond")
            guided = uncond + scale * (guided - uncond)
        yield seen, state.latents.float() - sigma * guided.float()


@contextlib.contextmanager
def _checkpointed(model: Any, clock: Clock) -> Iterator[None]:
    """Blocks are checkpointed; computed again, their hooks are told the call that they belong to."""
    from torch.utils.checkpoint import checkpoint

    def wrapped(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(*args: Any, **kwargs: Any) -> Tensor:
            call = clock.call
            assert call is not None

            def block(*inner: Any, **named: Any) -> Tensor:
                with clock.enter(call):
                    return forward(*inner, **named)

            out: Tensor = checkpoint(block, *args, use_reentrant=False, **kwargs)
            clock.call = call
            return out

        return run

    with contextlib.ExitStack() as stack:
        for one in model.blocks:
            owner, name = innermost(one)
            stack.enter_context(replaced(owner, name, wrapped(getattr(owner, name))))
        yield


__all__ = ["Attribution", "attribute"]
