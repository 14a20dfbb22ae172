"""The placebo of a patch: a change as large as the patch would make, in a random direction."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from interp.edits.curve import Curve, strength
from interp.edits.op import Moment, Op


@dataclass(frozen=True)
class RandomChange(Op):
    """Moves every vector along the last axis as far as ``share`` of the way to the source, in a random direction.

    Attributes:
        share: as in `interp.edits.interpolate`; 1 is as far as a patch goes.
        seed: another seed, another direction.
    """

    share: float | Curve = 1.0
    seed: int = 0

    name = "random_change"
    sources = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "share", strength(self.share, "share"))

    def apply(self, part: Tensor, given: tuple[Tensor, ...], moment: Moment) -> Tensor:
        x = part.float()
        size = moment.of(self.share) * (given[0].to(x.device).float() - x).norm(dim=-1, keepdim=True)
        rows = []
        for run in moment.seeds:
            text = f"{self.seed}/{run}/{moment.site}/{moment.step}/{moment.branch}"
            digest = hashlib.sha256(text.encode()).digest()
            draw = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
            rows.append(torch.randn(part.shape[1:], generator=draw, dtype=torch.float32))
        eps = torch.stack(rows).to(x.device)
        return x + size * eps / eps.norm(dim=-1, keepdim=True)
