"""The head of the transformer on any residual stream, while the run goes on.

Everything the last block hands on goes through one norm, the modulation of the step and one projection. The same can be
asked of any earlier residual stream: what would the velocity be if the computation ended here? This is the logit lens
(nostalgebraist 2020), with a velocity in the place of logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp.errors import InterpError, SelectionError
from interp.hooks import Clock, tapped
from interp.lab import Lab
from interp.patches import unpatchify
from interp.runspec import RunSpec
from interp.sampler import Call, Plan, Step, prepare, run_steps, transformer_of

BRANCHES = ("guided", "cond", "uncond")
Positions = int | slice | Sequence[int]
Translate = Callable[[str, int, Tensor], Tensor]
"""(expert, layer, residual stream [batch, token, d_model]) to what is given to the head in its place."""


@dataclass(frozen=True)
class Estimate:
    """What one place of the network holds to be the clean video.

    Attributes:
        step, sigma, expert: where in the run.
        branch: "cond", "uncond", or "guided" for both passes put together as the sampler does.
        layer: block after which the residual stream was read; -1: the embedded patches, before the first block; None:
            the model's own output.
        velocity: what the head makes of it [batch, channel, latent_frame, row, col].
        x0_hat: x_t - sigma velocity, fp32, the same axes.
        error: how far the velocity is from the model's own of the same branch, over the length of that: [batch].
    """

    step: int
    sigma: float
    expert: str
    branch: str
    layer: int | None
    velocity: Tensor
    x0_hat: Tensor
    error: Tensor


@torch.no_grad()
def head_velocity(model: Any, resid: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Velocity tokens [batch, token, feature] that the model's head makes of a residual stream.

    The operations are diffusers', in its order, so the last block's residual stream gives the model's velocity to the
    bit.

    Args:
        model: the transformer.
        resid: [batch, token, d_model], in the model's dtype.
        shift, scale: "head.hook_shift" and "head.hook_scale" of the step: [batch, d_model] or [batch, token, d_model].
    """
    shift, scale = (v if v.ndim == resid.ndim else v.unsqueeze(1) for v in (shift, scale))
    # .forward passes by hooks that somebody else may have on these modules, and not by adapters or offloading.
    normed = model.norm_out.forward(resid.float()) * (1 + scale.to(resid.device)) + shift.to(resid.device)
    found: Tensor = model.proj_out.forward(normed.type_as(resid))
    return found


def estimates(
    lab: Lab,
    runs: Sequence[RunSpec],
    *,
    layers: Sequence[int] = (),
    steps: Positions | None = None,
    branches: str | Sequence[str] = ("guided",),
    hook: str = "hook_resid_post",
    translate: Translate | None = None,
) -> Iterator[Estimate]:
    """Run a batch once, and give the estimates of every step, branch and layer asked for, step by step.

    Nothing is kept but the step's own estimates, so memory does not grow with steps. The run stops after the last step
    asked for.

    Args:
        lab: the model.
        runs: one batch: same settings, same size.
        layers: blocks to read; -1 for the embedded patches. The model's own output always comes last.
        steps: steps to read: one, a slice, or a list (negative ones count from the end); all if None.
        branches: of "cond", "uncond" and "guided".
        hook: residual stream to read in each block.
        translate: what is done to a residual stream before the head: see `interp.lenses.AffineLens`.

    Raises:
        SelectionError: a step, branch or layer that the runs do not have.
    """
    plan = prepare(lab.pipe, runs)
    wanted = positions(steps, plan.schedule.steps)
    branches = [branches] if isinstance(branches, str) else branches
    passes = _passes(branches, plan.settings.branches)
    depth = len(transformer_of(lab.pipe, "main").blocks)
    sites = sites_of(layers, depth, hook)
    reader = _Reader(lab.pipe, plan, sites, wanted, passes, translate)
    grid = lab.grid(runs[0].sample)
    clock = Clock()
    plan.on_call = clock.enter
    with tapped(lab.pipe, reader.hooked, clock, reader.on_site):
        for step in run_steps(lab.pipe, plan, stop=max(wanted) + 1):
            if step.index not in wanted:
                continue
            for branch in dict.fromkeys(branches):
                own = _own(step, branch)
                for layer in (*sites.values(), None):
                    velocity = own
                    if layer is not None:
                        found = {b: unpatchify(reader.tokens[b, layer], grid) for b in _needed(branch, passes)}
                        velocity = _together(branch, found, reader.guidance(step.expert))
                    yield Estimate(
                        step.index, step.sigma, step.expert, branch, layer, velocity,
                        step.latents.float() - step.sigma * velocity.float(), _distance(velocity, own),
                    )  # fmt: skip
            reader.tokens.clear()


class _Reader:
    """Takes the head's modulation and the residual streams as they fire, and keeps velocity tokens."""

    def __init__(
        self,
        pipe: Any,
        plan: Plan,
        sites: dict[str, int],
        steps: Sequence[int],
        passes: Sequence[str],
        translate: Translate | None,
    ) -> None:
        self.pipe, self.sites, self.translate = pipe, sites, translate
        self.settings, self.steps, self.passes = plan.settings, frozenset(steps), frozenset(passes)
        self.modulation: dict[str, Tensor] = {}
        self.tokens: dict[tuple[str, int], Tensor] = {}

    @property
    def hooked(self) -> list[str]:
        """Sites to listen to."""
        return ["head.hook_shift", "head.hook_scale", *self.sites] if self.sites else []

    def on_site(self, site: str, call: Call, tensor: Tensor) -> None:
        """A site fired: the modulation first, since the embedders run before the blocks."""
        if call.step not in self.steps or call.branch not in self.passes:
            return
        if site not in self.sites:
            self.modulation[site] = tensor
            return
        layer = self.sites[site]
        resid = tensor if self.translate is None else self.translate(call.expert, layer, tensor)
        shift, scale = self.modulation["head.hook_shift"], self.modulation["head.hook_scale"]
        self.tokens[call.branch, layer] = head_velocity(transformer_of(self.pipe, call.expert), resid, shift, scale)

    def guidance(self, expert: str) -> float:
        """Guidance scale of a step's expert."""
        other = self.settings.guidance_scale_2
        return self.settings.guidance_scale if expert != "low" or other is None else other


def positions(steps: Positions | None, count: int) -> list[int]:
    """Steps that are asked for, of so many, in order.

    Raises:
        SelectionError: there is no such step.
    """
    if steps is None:
        return list(range(count))
    if isinstance(steps, slice):
        chosen = list(range(count))[steps]
    else:
        chosen = [steps] if isinstance(steps, int) else list(steps)
    wrong = [step for step in chosen if not -count <= step < count]
    if wrong or not chosen:
        raise SelectionError(f"steps={steps}: the runs have steps 0 to {count - 1}")
    return sorted({step % count for step in chosen})


def _passes(branches: Sequence[str], there: Sequence[str]) -> list[str]:
    """Passes of the transformer that the branches are made of."""
    for branch in branches:
        if branch not in BRANCHES or (branch == "uncond" and branch not in there):
            raise SelectionError(
                f"branch {branch!r} is not in these runs, which have {', '.join(('guided', *there))}"
                f"{'; without guidance there is no uncond pass' if branch == 'uncond' else ''}"
            )
    if not branches:
        raise SelectionError("no branch was asked for; name one of cond, uncond, guided")
    return [b for b in there if any(b in _needed(branch, there) for branch in branches)]


def _needed(branch: str, there: Sequence[str]) -> tuple[str, ...]:
    return tuple(there) if branch == "guided" else (branch,)


def sites_of(layers: Sequence[int], depth: int, hook: str) -> dict[str, int]:
    """Hook points of layers; -1 is the embedded patches.

    Raises:
        SelectionError: there is no such layer, or two layers are the same place.
    """
    found = {_site(layer, depth, hook): layer for layer in dict.fromkeys(layers)}
    if len(found) < len(set(layers)):
        raise SelectionError(f"{hook} of block 0 is the embedded patches themselves; leave out layer -1 or layer 0")
    return found


def _site(layer: int, depth: int, hook: str) -> str:
    if not -1 <= layer < depth:
        raise SelectionError(
            f"layer {layer}: the model has blocks 0 to {depth - 1}, and -1 stands for the embedded patches"
        )
    return "blocks.0.hook_resid_pre" if layer < 0 else f"blocks.{layer}.{hook}"


def _own(step: Step, branch: str) -> Tensor:
    if branch == "guided":
        return step.velocity
    if branch == "cond":
        return step.velocity_cond
    if step.velocity_uncond is None:
        raise InterpError("the step has no uncond pass")
    return step.velocity_uncond


def _together(branch: str, found: dict[str, Tensor], scale: float) -> Tensor:
    """Both passes as the sampler puts them together."""
    if branch != "guided" or "uncond" not in found:
        return found["uncond" if branch == "uncond" else "cond"]
    return found["uncond"] + scale * (found["cond"] - found["uncond"])


def _distance(velocity: Tensor, own: Tensor) -> Tensor:
    apart = (velocity.float() - own.float()).flatten(1).norm(dim=1)
    return (apart / own.float().flatten(1).norm(dim=1).clamp_min(1e-12)).cpu()
