"""Operations between worlds, the rows of a batch: a wire is a small matrix applied at an address.

A row of the matrix that takes one world as it is (a single 1) copies it to the bit; only rows that mix are computed.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

import torch
from torch import Tensor

from interp.edits.op import Moment, Op, number
from interp.errors import InterpError, suggest

MATCHES = ("norm", "variance")


@dataclass(frozen=True)
class Wire(Op):
    """World i of ``worlds`` becomes the sum over j of matrix[i][j] times world j.

    Attributes:
        matrix: one row a world that is written; rows of 1/K average, a permutation swaps, zeros ablate.
        worlds: which worlds the matrix is over, all of the batch if None.
        match: what a mixed row keeps of the worlds it was mixed from. None: nothing; averages shrink. "norm": every
            vector along the last axis gets the weighted mean of the norms it was mixed from. "variance": every channel
            gets, over the selected tokens, the weighted root mean square of the standard deviations.
    """

    matrix: tuple[tuple[float, ...], ...]
    worlds: tuple[int, ...] | None = None
    match: str | None = None

    name = "wire"
    mixes = True

    def __post_init__(self) -> None:
        matrix = tuple(tuple(number(weight, "matrix") for weight in row) for row in self.matrix)
        object.__setattr__(self, "matrix", matrix)
        if not matrix or any(len(row) != len(matrix) for row in matrix):
            shape = f"{len(matrix)} rows of {sorted({len(row) for row in matrix})}"
            raise InterpError(f"matrix: a wire between K worlds is K by K numbers, not {shape}")
        if self.worlds is not None:
            object.__setattr__(self, "worlds", tuple(int(w) for w in self.worlds))
            if len(set(self.worlds)) != len(matrix):
                raise InterpError(f"worlds={self.worlds}: the matrix is over {len(matrix)} different worlds")
        _check_match(self.match)

    def check(self, worlds: int) -> None:
        if self.worlds is None and len(self.matrix) != worlds:
            raise InterpError(
                f"the wire is over {len(self.matrix)} worlds, and the batch has {worlds}; say which, worlds="
            )
        for world in self.worlds or ():
            _check_world(world, worlds)

    def apply(self, part: Tensor, given: tuple[Tensor, ...], moment: Moment) -> Tensor:
        places = self.worlds or tuple(range(len(self.matrix)))
        rows = list(part.unbind(0))
        for place, weights in zip(places, self.matrix, strict=True):
            rows[place] = mixed([part[p] for p in places], weights, self.match)
        return torch.stack(rows)


@dataclass(frozen=True)
class WorldMean(Op):
    """Worlds become the mean of ``worlds`` (all if None); which ones are overwritten, the edit's rows say."""

    worlds: tuple[int, ...] | None = None
    match: str | None = None

    name = "mean_over_worlds"
    mixes = True

    def __post_init__(self) -> None:
        if self.worlds is not None:
            object.__setattr__(self, "worlds", tuple(int(w) for w in self.worlds))
            if not self.worlds:
                raise InterpError("worlds=(): a mean needs at least one world")
        _check_match(self.match)

    def check(self, worlds: int) -> None:
        for world in self.worlds or ():
            _check_world(world, worlds)

    def apply(self, part: Tensor, given: tuple[Tensor, ...], moment: Moment) -> Tensor:
        chosen = [part[w] for w in self.worlds or range(len(part))]
        mean = mixed(chosen, (1 / len(chosen),) * len(chosen), self.match)
        return mean.unsqueeze(0).expand_as(part)


@dataclass(frozen=True)
class Resample(Op):
    """Resampling: every world takes another world's part, or every token another selected token's.

    Attributes:
        over: "world" (no world keeps its own, as long as there are two) or "token" (dimension 1).
        seed: of the permutation; the site and the step enter too.
    """

    over: str = "world"
    seed: int = 0

    name = "resample"
    mixes = True

    def __post_init__(self) -> None:
        if self.over not in ("world", "token"):
            raise InterpError(f"over={self.over!r}: resample over 'world' or 'token'")

    def check(self, worlds: int) -> None:
        if self.over == "world" and worlds < 2:
            raise InterpError("resampling over worlds needs two runs in the batch, and there is one; try over='token'")

    def apply(self, part: Tensor, given: tuple[Tensor, ...], moment: Moment) -> Tensor:
        dimension = 0 if self.over == "world" else 1
        size = part.shape[dimension]
        text = f"{self.seed}/{moment.site}/{moment.step}/{moment.branch}"
        draw = random.Random(hashlib.sha256(text.encode()).digest())
        order = list(range(size))
        draw.shuffle(order)
        taken = [0] * size
        for here, there in zip(order, order[1:] + order[:1], strict=True):  # one cycle: nobody keeps its own
            taken[here] = there
        return part.index_select(dimension, torch.tensor(taken, device=part.device))


def mixed(worlds: list[Tensor], weights: tuple[float, ...], match: str | None) -> Tensor:
    """The weighted sum of worlds, matched as asked; one world with weight 1 is given back as it is."""
    used = [(world, weight) for world, weight in zip(worlds, weights, strict=True) if weight]
    if not used:
        return torch.zeros_like(worlds[0])
    if len(used) == 1 and used[0][1] == 1:
        return used[0][0]
    total = sum(abs(weight) for _, weight in used)
    out = torch.stack([weight * world.float() for world, weight in used]).sum(0)
    if match == "norm":
        wanted = torch.stack([abs(w) * x.float().norm(dim=-1, keepdim=True) for x, w in used]).sum(0) / total
        out = out * (wanted / out.norm(dim=-1, keepdim=True).clamp_min(1e-12))
    elif match == "variance":
        wanted = (torch.stack([abs(w) * x.float().var(0, correction=0) for x, w in used]).sum(0) / total).sqrt()
        middle = out.mean(0, keepdim=True)
        out = middle + (out - middle) * (wanted / out.std(0, correction=0).clamp_min(1e-12))
    return out.to(worlds[0].dtype)


def _check_match(match: str | None) -> None:
    if match is not None and match not in MATCHES:
        raise InterpError(f"match={match!r} is not known{suggest(match, MATCHES)}; use None, 'norm' or 'variance'")


def _check_world(world: int, worlds: int) -> None:
    if not 0 <= world < worlds:
        raise InterpError(f"world {world} is not in the batch: it has {worlds} (0 to {worlds - 1})")
