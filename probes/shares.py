"""Training sets are unions of folds, so there are few kinds of rows: those that lie in the same sets. Sums over a set
are sums over its shares, and each is taken once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.factor import products

FAR = 8
"""How many times larger squares may be in what is left out of a sum than in the sum, if the one is to be subtracted."""


@dataclass(frozen=True)
class Shares:
    """Rows that lie in the same training sets: ``rows``, the numbers of those of each share; ``order``, the same in one
    piece; ``onehot`` [share, row]; ``member``, which sets each share lies in; ``left_out``, by set, the numbers of the
    shares that it lacks; ``most``, rows of the largest set."""

    rows: tuple[Tensor, ...]
    order: Int[Tensor, " row"]
    onehot: Bool[Tensor, "share row"]
    member: Bool[Tensor, "share set"]
    left_out: tuple[tuple[int, ...], ...]
    most: int

    @cached_property
    def takes(self) -> Float[Tensor, "set share"]:
        """What turns sums over shares to sums over sets, in float64."""
        return self.member.T.to(torch.float64)

    def split(self, x: Float[Tensor, "row ..."]) -> tuple[Tensor, ...]:
        """The rows of each share."""
        return x.index_select(0, self.order).split([len(rows) for rows in self.rows])


def shares(train: Bool[Tensor, "row set"]) -> Shares:
    """The shares of some training sets. The cells of a grid have theirs in common, so the last answers are kept."""
    held = train.cpu().numpy()
    return _shares(held.tobytes(), held.shape, train.device)


@lru_cache(maxsize=16)
def _shares(held: bytes, shape: tuple[int, int], device: torch.device) -> Shares:
    train = np.frombuffer(held, dtype=bool).reshape(shape)
    member, code = np.unique(train, axis=0, return_inverse=True)
    onehot = code.reshape(-1) == np.arange(len(member))[:, None]
    rows = tuple(torch.from_numpy(np.flatnonzero(own)).to(device) for own in onehot)
    return Shares(
        rows,
        torch.cat(rows),
        torch.from_numpy(onehot).to(device),
        torch.from_numpy(member).to(device),
        tuple(tuple(np.flatnonzero(~own).tolist()) for own in member.T),
        int(train.sum(axis=0).max()),
    )


@dataclass(frozen=True)
class Sums:
    """Sums of features over the rows of each share of ``held``, rows counted by their weight: ``mass``; ``total``;
    ``gram`` of products, of which nothing is said below the diagonal. ``parts`` are the features of each share."""

    held: Shares
    parts: tuple[Float[Tensor, "_ feature"], ...]
    mass: Float[Tensor, " share"]
    total: Float[Tensor, "share feature"]
    gram: Float[Tensor, "share feature feature"] | None

    @staticmethod
    def of(
        x: Float[Tensor, "row feature"],
        held: Shares,
        weights: Float[Tensor, " row"] | None = None,
        *,
        gram: bool = True,
    ) -> Sums:
        """Sums of features over some shares; ``mass`` is float64, the rest as precise as ``x``."""
        parts = weighed = held.split(x)
        if weights is None:
            mass = held.onehot.sum(dim=1, dtype=torch.float64)
            total = torch.stack([part.sum(dim=0) for part in parts])
        else:
            each = held.split(weights.to(x.dtype))
            mass = torch.stack([weight.sum(dtype=torch.float64) for weight in each])
            total = torch.stack([weight @ part for part, weight in zip(parts, each, strict=True)])
            if gram:
                weighed = tuple(part * weight.sqrt()[:, None] for part, weight in zip(parts, each, strict=True))
        return Sums(held, parts, mass, total, products(weighed) if gram else None)

    @cached_property
    def squares(self) -> Float[Tensor, "share feature"]:
        """Sums of squares: the diagonals, in one piece, for they lie far apart."""
        assert self.gram is not None
        return self.gram.diagonal(dim1=1, dim2=2).contiguous()

    @cached_property
    def whole(self) -> Float[Tensor, "feature feature"]:
        """Products over all rows."""
        assert self.gram is not None
        return self.gram.sum(dim=0)

    @cached_property
    def subtracts(self) -> list[bool]:
        """For which sets the whole less what they lack is less to read than the sum, and costs no digits."""
        takes, squares = self.held.takes, self.squares.to(torch.float64)
        less = takes.sum(dim=1) > len(squares) / 2
        near = (takes @ squares * FAR >= (1 - takes) @ squares).all(dim=1)
        return (less & near).tolist()

    def gram_of(
        self, place: int, out: Float[Tensor, "feature feature"] | None = None
    ) -> Float[Tensor, "feature feature"]:
        """Products over the shares of one set, in ``out`` if given: their sum, or the whole less what the set lacks."""
        assert self.gram is not None
        lacking = self.held.left_out[place]
        if self.subtracts[place]:
            first, more, sign = self.whole, lacking, -1
        else:
            held = [share for share in range(len(self.gram)) if share not in lacking]
            first, more, sign = self.gram[held[0]], tuple(held[1:]), 1
        out = torch.empty_like(first) if out is None else out
        if not more:
            return out.copy_(first)
        torch.add(first, self.gram[more[0]], alpha=sign, out=out)
        for share in more[1:]:
            out.add_(self.gram[share], alpha=sign)
        return out
