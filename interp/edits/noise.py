"""Noise, on any site: drawn on the CPU from the edit's seed, the run's seed, the site, the step and the branch.

A run therefore gets the same noise alone and in a batch, on every machine.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from interp.edits.curve import Curve, strength
from interp.edits.op import Moment, Op
from interp.errors import InterpError, suggest

KINDS = ("add", "replace", "renoise")


@dataclass(frozen=True)
class Noise(Op):
    """Gaussian noise eps.

    Attributes:
        kind: "add": x + scale eps. "replace": scale eps. "renoise", on latents.hook_in only: (1 - sigma) x0_hat + sigma
            eps with the x0_hat of the step before, which is a sample of the right noise level.
        scale: standard deviation; with ``relative``, as a multiple of that of the part in each run.
        relative: see ``scale``.
        seed: another seed, other noise.
    """

    kind: str = "add"
    scale: float | Curve = 1.0
    relative: bool = False
    seed: int = 0

    name = "noise"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InterpError(f"kind={self.kind!r} is not known{suggest(self.kind, KINDS)}; use {', '.join(KINDS)}")
        object.__setattr__(self, "scale", strength(self.scale, "scale"))

    def apply(self, part: Tensor, given: tuple[Tensor, ...], moment: Moment) -> Tensor:
        eps = self.draw(part, moment)
        x = part.float()
        if self.kind == "renoise":
            return self._renoise(eps, moment)
        scale = moment.of(self.scale)
        size: float | Tensor = scale
        if self.relative:
            size = scale * x.flatten(1).std(1, correction=0).reshape(-1, *[1] * (x.ndim - 1))
        return x + size * eps if self.kind == "add" else size * eps

    def draw(self, part: Tensor, moment: Moment) -> Tensor:
        """Standard normal noise in the part's shape, fp32."""
        rows = [
            torch.randn(part.shape[1:], generator=_generator(self.seed, seed, moment), dtype=torch.float32)
            for seed in moment.seeds
        ]
        return torch.stack(rows).to(part.device)

    def _renoise(self, eps: Tensor, moment: Moment) -> Tensor:
        if moment.x0_before is None:
            if moment.sigma < 0.999:
                raise InterpError(
                    f"renoising at step {moment.step} (sigma {moment.sigma:.3f}) needs x0_hat of the step before, "
                    "which a run that starts there does not have; start one step earlier"
                )
            return moment.of(self.scale) * moment.sigma * eps
        return (1 - moment.sigma) * moment.x0_before.to(eps.device).float() + moment.of(self.scale) * moment.sigma * eps


def _generator(seed: int, run: int, moment: Moment) -> torch.Generator:
    text = f"{seed}/{run}/{moment.site}/{moment.step}/{moment.branch}"
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
