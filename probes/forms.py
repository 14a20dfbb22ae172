"""A form in which `probes.minimise` sees linear probes: coefficients of features (`probes.features`) or of rows
(`probes.kernels`).

Each says how to go from unknowns to decision values and back, and holds the preconditioner: about the inverse of
``mean curvature of the loss * Gram matrix + penalty``, one for each value of C, shared by training sets.

Shapes: B cells, n rows, D unknowns with the intercept last, P fits with K outputs each, Q = P K (outputs fastest).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.factor import Factors

INVERT_UP_TO = 257
"""Unknowns up to which inverses, applied many times, are cheaper than factors."""

STALE = 1.4
"""Renew a preconditioner once its curvature is off by more than this factor."""


@runtime_checkable
class Solver(Protocol):
    """Takes gradients [B, Q, D] of fits that share it to steps; ``keep``: that of the cells numbered."""

    def __call__(self, rows: Tensor, /) -> Tensor: ...

    def keep(self, b: Tensor) -> Solver: ...


class Form(ABC):
    """Unknowns v [B, Q, D], with an inner product: what acts on vectors as the product with v is called its ``acts``
    [B, Q, D]. Where the product is the plain one, that is v itself, the same tensor.

    ``which`` [P] is the training set of each fit; ``by_set``: preconditioners are not shared by training sets.
    """

    def __init__(self, c: Float[Tensor, "B P"], outputs: int, which: Int[Tensor, " P"], *, by_set: bool) -> None:
        self.c, self.outputs, self.which, self.by_set = c, outputs, which, by_set
        self.shared: list[_Shared] = []

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
    def stale(self, old: Float[Tensor, "B n"], new: Float[Tensor, "B n"]) -> bool:
        """Is a preconditioner for one curvature no good for another?"""

    def prepare(self, bend: Float[Tensor, "B P n"]) -> None:
        """Renew the preconditioners that assume another curvature of the loss, at each row, than ``bend``."""
        old, self.shared = self.shared, []
        for at, mask in self._kinds():
            share = mask.to(bend.dtype) / mask.sum(dim=1, keepdim=True).clamp_min(1)
            curve = torch.bmm(share[:, None], bend.expand(len(mask), -1, -1))[:, 0]
            for one in old:
                if torch.equal(one.mask, mask) and not self.stale(one.curve, curve):
                    self.shared.append(one)
                    break
            else:
                self.shared.append(_Shared(mask, curve, self.factor(at, mask, curve)))

    def _kinds(self) -> list[tuple[int, Bool[Tensor, "B P"]]]:
        """Fits that share a preconditioner, by C and perhaps by training set."""
        if not self.by_set:
            return [(0, self.c == value) for value in torch.unique(self.c)]
        pairs = torch.stack([self.which.expand_as(self.c).to(self.c.dtype), self.c]).flatten(1)
        return [(int(at), (self.c == value) & (self.which == at)) for at, value in torch.unique(pairs.T, dim=0)]

    def precondition(self, g: Tensor) -> Tensor:
        """About the inverse Hessian times a gradient. Kinds differ between fits and, seldom, between cells."""
        if len(self.shared) == 1:
            return self.shared[0].solver(g)
        out = torch.zeros_like(g)
        for one in self.shared:
            some = one.mask.any(dim=0)
            at = wide(some.nonzero().flatten(), self.outputs)
            solved = one.solver(g[:, at])
            own = one.mask[:, some]
            if bool(own.all()):
                out[:, at] = solved
            else:
                own = own if self.outputs == 1 else own.repeat_interleave(self.outputs, dim=1)
                out[:, at] += solved * own[..., None].to(g.dtype)
        return out

    def keep(self, b: Tensor | None, p: Tensor | None) -> None:
        """Retire cells and fits that are not among the numbers given (None: all stay)."""
        self.c = take(self.c, b, p)
        self.which = self.which if p is None else self.which[p]
        kept = (one.keep(b, p) for one in self.shared)
        self.shared = [one for one in kept if bool(one.mask.any())]


@dataclass(frozen=True)
class _Shared:
    """A preconditioner, the fits it is for and the curvature of the loss at each row that it assumes."""

    mask: Bool[Tensor, "B P"]
    curve: Float[Tensor, "B n"]
    solver: Solver

    def keep(self, b: Tensor | None, p: Tensor | None) -> _Shared:
        mask = take(self.mask, b, p)
        if b is None:
            return _Shared(mask, self.curve, self.solver)
        return _Shared(mask, self.curve[b], self.solver.keep(b))


@dataclass(frozen=True)
class Definite:
    """Solves with positive definite matrices: by the inverses of small ones, by the factors of large ones."""

    held: Tensor | Factors

    @staticmethod
    def of(matrix: Float[Tensor, "B D D"]) -> Definite:
        """Of matrices of which nothing below the diagonal is read; they are used up."""
        factors = Factors.of(matrix)
        return Definite(factors.inverse() if matrix.shape[1] <= INVERT_UP_TO else factors)

    def __call__(self, rows: Float[Tensor, "B Q D"]) -> Float[Tensor, "B Q D"]:
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
