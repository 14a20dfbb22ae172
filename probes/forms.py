"""A form in which `probes.minimise` sees linear probes: coefficients of features (`probes.features`) or of rows
(`probes.kernels`).

Each says how to go from unknowns to decision values and back, and holds the preconditioner: about the inverse of
``mean curvature of the loss * Gram matrix + penalty``, one for each value of C, shared by training sets.

Shapes: B cells, n rows, D unknowns with the intercept last, P fits with K outputs each, Q = P K (outputs fastest).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.by_set import BySet
from probes.factor import Factors

INVERT_UP_TO = 257
"""Unknowns up to which inverses, applied many times, are cheaper than factors."""

STALE = 1.4
"""Renew a preconditioner once its curvature is off by more than this factor."""


@runtime_checkable
class Solver(Protocol):
    """Takes gradients [B, Q, D] of fits that share it to steps; ``keep``: that of the cells numbered."""

    def __call__(self, rows: Tensor, columns: BySet, /) -> Tensor: ...

    def keep(self, b: Tensor) -> Solver: ...


class Form(ABC):
    """Unknowns v [B, Q, D], with an inner product: what acts on vectors as the product with v is called its ``acts``
    [B, Q, D]. Where the product is the plain one, that is v itself, the same tensor.

    ``which`` [P] is the training set of each fit; ``by_set``: preconditioners are not shared by training sets.
    ``renew_at``: iterations after which preconditioners are held against the curvature met. ``far_first``: the first
    step goes to the minimum along it.
    """

    renew_at: tuple[int, ...] = (3, 9, 27, 81)
    far_first = False

    def __init__(self, c: Float[Tensor, "B P"], outputs: int, which: Int[Tensor, " P"], *, by_set: bool) -> None:
        self.c, self.outputs, self.which, self.by_set = c, outputs, which, by_set
        self.shared: list[_Shared] = []
        self.columns_of_shared: list[BySet] = []

    @property
    @abstractmethod
    def size(self) -> tuple[int, int, int]:
        """B, n, D."""

    @abstractmethod
    def gradient(self, v: Tensor, residual: Tensor) -> Tensor:
        """Gradient at v, where the loss has slope ``residual`` [B, Q, n], as a vector of the same kind."""

    @abstractmethod
    def lower(self, v: Tensor) -> Tensor:
        """What acts on vectors as the inner product with ``v``."""

    @abstractmethod
    def decide(self, v: Tensor, acts: Tensor) -> Float[Tensor, "B Q n"]:
        """Decision values of unknowns."""

    @abstractmethod
    def pull(self, v: Tensor, acts: Tensor) -> Tensor:
        """Slope of the penalty at ``v``: what acts on vectors."""

    @abstractmethod
    def factor(self, at: int, mask: Bool[Tensor, "B P"], curve: Float[Tensor, "B n"]) -> Solver:
        """For the fits in the mask, with that curvature of the loss at each row, on average. ``at``: the number of
        their training set where preconditioners go by it, else 0."""

    @abstractmethod
    def stale(self, old: Float[Tensor, "M B n"], new: Float[Tensor, "B n"]) -> Bool[Tensor, " M"]:
        """Which of M preconditioners, by the curvature that they assume, are no good for another."""

    def prepare(self, bend: Float[Tensor, "B P n"]) -> None:
        """Renew the preconditioners that assume another curvature of the loss, at each row, than ``bend``."""
        found = list[_Shared]()
        for at, mask in self._kinds():
            curve, some = self.curve(mask, bend), mask.any(dim=1)
            held = [one for one in [*found, *self.shared] if one.at == at]
            good = list[int]()
            if held:
                stale = self.stale(torch.stack([one.curve for one in held])[:, some], curve[some])
                good = (~stale).nonzero().flatten().tolist()
            one = held[good[0]] if good else _Shared(at, self.factor(at, mask, curve), curve, mask)
            same = [i for i, other in enumerate(found) if other.solver is one.solver]
            if same:
                found[same[0]] = replace(one, mask=found[same[0]].mask | mask)
            else:
                found.append(replace(one, mask=mask))
        self._share(found)

    def _share(self, found: list[_Shared]) -> None:
        self.shared = found
        self.columns_of_shared = [self.columns_of(self.which[one.fits]) for one in found]

    def columns_of(self, which: Int[Tensor, " P"]) -> BySet:
        """Columns of fits of some training sets."""
        return BySet.of(which.repeat_interleave(self.outputs), 1 + int(which.max()))

    def curve(self, mask: Bool[Tensor, "B P"], bend: Float[Tensor, "B P n"]) -> Float[Tensor, "B n"]:
        """Mean over the fits in the mask."""
        share = mask.to(bend.dtype) / mask.sum(dim=1, keepdim=True).clamp_min(1)
        return torch.bmm(share[:, None], bend.expand(len(mask), -1, -1))[:, 0]

    def _kinds(self) -> list[tuple[int, Bool[Tensor, "B P"]]]:
        """Fits that share a preconditioner, by C (large ones first) and perhaps by training set."""
        if not self.by_set:
            return [(0, self.c == value) for value in torch.unique(self.c).flip(0)]
        pairs = torch.stack([self.which.expand_as(self.c).to(self.c.dtype), self.c]).flatten(1)
        return [(int(at), (self.c == value) & (self.which == at)) for at, value in torch.unique(pairs.T, dim=0).flip(0)]

    def precondition(self, g: Tensor) -> Tensor:
        """About the inverse Hessian times a gradient. Kinds differ between fits and, seldom, between cells."""
        if len(self.shared) == 1:
            return self.shared[0].solver(g, self.columns_of_shared[0])
        out = torch.zeros_like(g)
        for one, columns in zip(self.shared, self.columns_of_shared, strict=True):
            at = wide(one.fits, self.outputs)
            solved = one.solver(g.index_select(1, at), columns)
            own = one.mask[:, one.fits]
            if not bool(own.all()):
                solved *= own.repeat_interleave(self.outputs, dim=1)[..., None]
            out.index_add_(1, at, solved)
        return out

    def keep(self, b: Tensor | None, p: Tensor | None) -> None:
        """Retire cells and fits that are not among the numbers given (None: all stay)."""
        self.c = take(self.c, b, p)
        self.which = self.which if p is None else self.which[p]
        kept = [one.keep(b, p) for one in self.shared]
        self._share([one for one in kept if len(one.fits)])


@dataclass(frozen=True)
class _Shared:
    """A preconditioner, the curvature of the loss at each row that it assumes, and the fits it is for."""

    at: int
    solver: Solver
    curve: Float[Tensor, "B n"]
    mask: Bool[Tensor, "B P"]

    @cached_property
    def fits(self) -> Int[Tensor, " some"]:
        """Numbers of the fits that are of this kind in some cell."""
        return self.mask.any(dim=0).nonzero().flatten()

    def keep(self, b: Tensor | None, p: Tensor | None) -> _Shared:
        mask = take(self.mask, b, p)
        if b is None:
            return replace(self, mask=mask)
        return replace(self, mask=mask, curve=self.curve[b], solver=self.solver.keep(b))


@dataclass(frozen=True)
class Definite:
    """Solves with positive definite matrices: by the inverses of small ones, by the factors of large ones."""

    held: Tensor | Factors

    @staticmethod
    def of(matrix: Float[Tensor, "B D D"]) -> Definite:
        """Of matrices of which nothing below the diagonal is read; they are used up."""
        factors = Factors.of(matrix)
        return Definite(factors.inverse() if matrix.shape[1] <= INVERT_UP_TO else factors)

    def __call__(self, rows: Float[Tensor, "B Q D"], columns: BySet | None = None) -> Float[Tensor, "B Q D"]:
        return self.held.solve(rows.clone()) if isinstance(self.held, Factors) else rows @ self.held

    def keep(self, b: Tensor) -> Definite:
        """Those of some cells."""
        return Definite(self.held.keep(b) if isinstance(self.held, Factors) else self.held[b])


def take(value: Tensor, b: Tensor | None, p: Tensor | None) -> Tensor:
    """Some cells and some fits of [B or 1, P, ...]."""
    if b is not None and len(value) > 1:
        value = value[b]
    return value if p is None else value.index_select(1, p)


def wide(p: Tensor, outputs: int) -> Tensor:
    """Places [Q] of fits [P]."""
    if outputs == 1:
        return p
    return (p[:, None] * outputs + torch.arange(outputs, device=p.device)).flatten()
