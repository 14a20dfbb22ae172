"""The two forms in which `probes.minimise` sees a linear probe: coefficients of features, or coefficients of rows.

Each form says how to go from unknowns to decision values and back, and holds the preconditioner: the inverse of
``mean curvature of the loss * Gram matrix + penalty``, one for each value of C, shared by all training sets.

Shapes: B cells, n rows, D unknowns with the intercept last, P fits with K outputs each, Q = P K (outputs fastest).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.factor import Factors

INVERT_UP_TO = 257
"""Unknowns up to which inverses, applied many times, are cheaper than factors."""

STALE = 1.4
"""Renew a preconditioner once its curvature is off by more than this factor."""


class Form(ABC):
    """Unknowns v [B, Q, D]. Gradients come twice, as vectors of the same kind as v and as what acts on such a vector;
    where the inner product is the plain one the two are the same tensor."""

    def __init__(self, c: Float[Tensor, "B P"], outputs: int) -> None:
        self.c, self.outputs = c, outputs
        self.solvers: list[_Solver] = []

    @property
    @abstractmethod
    def size(self) -> tuple[int, int, int]:
        """B, n, D."""

    @abstractmethod
    def gradient(self, v: Tensor, z: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient at v, whose decision values are z and whose loss has slope ``residual`` [B, Q, n] there; as a vector
        and as what acts on vectors."""

    @abstractmethod
    def decide(self, v: Tensor) -> Float[Tensor, "B Q n"]:
        """Decision values of unknowns."""

    @abstractmethod
    def lower(self, v: Tensor, z: Tensor) -> Tensor:
        """What acts on vectors as the inner product with ``v``, whose decision values are ``z``."""

    @abstractmethod
    def pull(self, v: Tensor, z: Tensor) -> Tensor:
        """Slope of the penalty at ``v``: what acts on vectors."""

    @abstractmethod
    def precondition(self, g: Tensor) -> Tensor:
        """About the inverse Hessian times a gradient."""

    @abstractmethod
    def factor(self, kind: Tensor, mask: Tensor, curve: Float[Tensor, "B n"]) -> Tensor | Factors:
        """The solver of one kind, for fits in the mask [B, P] with that curvature at each row, on average."""

    def kinds(self) -> list[tuple[Tensor, Tensor]]:
        """Fits [B, P] that share a preconditioner, by what they share."""
        return [(value, self.c == value) for value in torch.unique(self.c)]

    def prepare(self, bend: Float[Tensor, "B P n"]) -> None:
        """Renew the preconditioners that assume another curvature of the loss, at each row, than ``bend``."""
        old, self.solvers = self.solvers, []
        for kind, mask in self.kinds():
            share = mask.to(bend.dtype) / mask.sum(dim=1, keepdim=True).clamp_min(1)
            curve = torch.bmm(share[:, None], bend.expand(len(mask), -1, -1))[:, 0]
            for solver in old:
                if torch.equal(solver.mask, mask) and not self.stale(solver.curve, curve):
                    self.solvers.append(solver)
                    break
            else:
                self.solvers.append(_Solver(mask, curve, self.factor(kind, mask, curve)))

    def stale(self, old: Float[Tensor, "B n"], new: Float[Tensor, "B n"]) -> bool:
        """Is a preconditioner for one curvature no good for another?"""
        ratio = new.sum(dim=1) / old.sum(dim=1).clamp_min(1e-30)
        return not bool(((ratio < STALE) & (ratio > 1 / STALE) | (ratio == 0)).all())

    def keep(self, b: Tensor | None, p: Tensor | None) -> None:
        """Retire cells and fits that are not among the numbers given (None: all stay)."""
        self.c = take(self.c, b, p)
        kept = (solver.keep(b, p) for solver in self.solvers)
        self.solvers = [solver for solver in kept if bool(solver.mask.any())]


@dataclass(frozen=True)
class _Solver:
    """A preconditioner: for which fits, for which curvature, and a matrix that `factor` made."""

    mask: Bool[Tensor, "B P"]
    curve: Float[Tensor, "B n"]
    matrix: Tensor | Factors

    def keep(self, b: Tensor | None, p: Tensor | None) -> _Solver:
        mask = take(self.mask, b, p)
        if b is None:
            return _Solver(mask, self.curve, self.matrix)
        matrix = self.matrix.keep(b) if isinstance(self.matrix, Factors) else self.matrix[b]
        return _Solver(mask, self.curve[b], matrix)


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


class Features(Form):
    """Coefficients of features: for each fit ``sum_i rows_i loss_i(x_i v) + sum_d penalty_d v_d^2 / 2``.

    ``x`` [B, n, D] ends with a column of ones; ``alive`` is 0 for coefficients that must stay 0. ``grams``
    [B, M, D, D] per row of weight, of which fit p takes number ``which[p]``.
    """

    def __init__(
        self,
        x: Float[Tensor, "B n D"],
        penalty: Float[Tensor, "B P D"],
        c: Float[Tensor, "B P"],
        outputs: int,
        grams: Float[Tensor, "B M D D"],
        which: Int[Tensor, " P"],
        alive: Float[Tensor, "B P D"] | None,
    ) -> None:
        super().__init__(c, outputs)
        self.x, self.grams, self.which = x, grams, which
        self.penalty = penalty if outputs == 1 else penalty.repeat_interleave(outputs, dim=1)
        self.alive = alive if alive is None or outputs == 1 else alive.repeat_interleave(outputs, dim=1)

    @property
    def size(self) -> tuple[int, int, int]:
        b, n, d = self.x.shape
        return b, n, d

    def gradient(self, v: Tensor, z: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        g = torch.baddbmm(self.penalty * v, residual, self.x)
        if self.alive is not None:
            g = g * self.alive
        return g, g

    def decide(self, v: Tensor) -> Float[Tensor, "B Q n"]:
        return v @ self.x.transpose(1, 2)

    def lower(self, v: Tensor, z: Tensor) -> Tensor:
        return v

    def pull(self, v: Tensor, z: Tensor) -> Tensor:
        return self.penalty * v

    def kinds(self) -> list[tuple[Tensor, Tensor]]:
        if self.grams.shape[1] == 1:
            return super().kinds()
        return _pairs(self.c, self.which)

    def factor(self, kind: Tensor, mask: Tensor, curve: Float[Tensor, "B n"]) -> Tensor | Factors:
        """Of the Gram matrix times mean curvature: weighing each row by its own would cost a Gram matrix a kind."""
        share = mask.to(curve.dtype) / mask.sum(dim=1, keepdim=True).clamp_min(1)
        matrix = self.grams[:, int(kind[0]) if kind.ndim else 0] * curve.sum(dim=1)[:, None, None]
        diagonal = matrix.diagonal(dim1=1, dim2=2)
        diagonal += torch.einsum("bp,bpd->bd", share, self.penalty[:, :: self.outputs])
        diagonal += 1e-6 * diagonal.mean(dim=1, keepdim=True) + 1e-30
        matrix[~mask.any(dim=1)] = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
        return _factor(matrix)

    def precondition(self, g: Tensor) -> Tensor:
        out = _each_kind(self.solvers, g, self.outputs, _solve)
        return out if self.alive is None else out * self.alive

    def keep(self, b: Tensor | None, p: Tensor | None) -> None:
        super().keep(b, p)
        q = None if p is None else wide(p, self.outputs)
        self.penalty = take(self.penalty, b, q)
        self.alive = None if self.alive is None else take(self.alive, b, q)
        self.which = self.which if p is None else self.which[p]
        if b is not None:
            self.x, self.grams = self.x[b], self.grams[b]


class Kernels(Form):
    """Coefficients of rows: ``w = sum_i a_i x_i``, so that decision values are ``kernel a + b`` and the penalty is
    ``a kernel a / 2``.

    The unknowns are (a, b) with inner product ``a kernel a' + b b'``, in which nothing is worse conditioned than the
    problem itself, however alike rows are. ``kernels`` [B, S, n, n], one for each training set, since each scales
    features its own way; fit p takes number ``which[p]``, ascending. With ``uneven`` each has a preconditioner of its
    own; otherwise their mean serves all.
    """

    def __init__(
        self,
        kernels: Float[Tensor, "B S n n"],
        c: Float[Tensor, "B P"],
        outputs: int,
        which: Int[Tensor, " P"],
        *,
        uneven: bool,
    ) -> None:
        super().__init__(c, outputs)
        self.kernels, self.which = kernels, which
        self.mean = kernels if uneven else kernels.mean(dim=1, keepdim=True)
        self._slices()

    def _slices(self) -> None:
        counts = torch.bincount(self.which, minlength=self.kernels.shape[1])
        self.even = bool((counts == counts[0]).all()) and self.kernels.is_contiguous()
        ends = counts.mul(self.outputs).cumsum(0).tolist()
        self.places = [(s, slice(a, e)) for s, (a, e) in enumerate(zip([0, *ends], ends, strict=False)) if a < e]

    @property
    def size(self) -> tuple[int, int, int]:
        b, _, n, _ = self.kernels.shape
        return b, n, n + 1

    def times(self, a: Float[Tensor, "B Q n"]) -> Float[Tensor, "B Q n"]:
        """Each fit's kernel times its coefficients."""
        b, sets, n, _ = self.kernels.shape
        if self.even:
            return torch.bmm(a.reshape(b * sets, -1, n), self.kernels.reshape(b * sets, n, n)).view(a.shape)
        out = torch.empty_like(a)
        for s, at in self.places:
            out[:, at] = torch.bmm(a[:, at], self.kernels[:, s])
        return out

    def gradient(self, v: Tensor, z: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        last = residual.sum(dim=2, keepdim=True)
        lowered = self.times(residual).add_(z).sub_(v[..., -1:])
        return torch.cat([v[..., :-1] + residual, last], dim=2), torch.cat([lowered, last], dim=2)

    def decide(self, v: Tensor) -> Float[Tensor, "B Q n"]:
        return self.times(v[..., :-1]).add_(v[..., -1:])

    def lower(self, v: Tensor, z: Tensor) -> Tensor:
        return torch.cat([z - v[..., -1:], v[..., -1:]], dim=2)

    def pull(self, v: Tensor, z: Tensor) -> Tensor:
        return torch.cat([z - v[..., -1:], torch.zeros_like(v[..., -1:])], dim=2)

    def kinds(self) -> list[tuple[Tensor, Tensor]]:
        return _pairs(self.c, self.which) if self.mean.shape[1] > 1 else super().kinds()

    def factor(self, kind: Tensor, mask: Tensor, curve: Float[Tensor, "B n"]) -> Tensor:
        """``(1 + W kernel)^-1`` and that times W's diagonal, in one matrix [B, n + 1, n]; W is the curvature."""
        kernel = self.mean[:, int(kind[0]) if kind.ndim else 0]
        root = torch.maximum(curve, 1e-6 * curve.amax(dim=1, keepdim=True)).clamp_min(1e-30).sqrt()
        matrix = root[:, :, None] * kernel * root[:, None]
        matrix.diagonal(dim1=1, dim2=2).add_(1)
        inverse = Factors.of(matrix).inverse()
        inverse = (inverse * root[:, None]).div_(root[:, :, None])  # transposed, as rows are multiplied by it
        return torch.cat([inverse, (curve[:, None] @ inverse)], dim=1)

    def stale(self, old: Float[Tensor, "B n"], new: Float[Tensor, "B n"]) -> bool:
        return bool(((new - old).abs().sum(dim=1) > (STALE - 1) * old.sum(dim=1)).any())

    def precondition(self, g: Tensor) -> Tensor:
        return _each_kind(self.solvers, g, self.outputs, _newton)

    def keep(self, b: Tensor | None, p: Tensor | None) -> None:
        super().keep(b, p)
        if b is not None:
            self.kernels, self.mean = self.kernels[b], self.mean[b]
        if p is not None:
            self.which = self.which[p]
            self._slices()


def _newton(g: Float[Tensor, "B Q D"], solver: Tensor) -> Tensor:
    """(a, b) with ``H (a, b) = g``, H = [[1 + W K, w], [w' K, sum w]], w the diagonal of W.

    The first row gives a = M^-1 (g_a - w b) with M = 1 + W K; the sum of the first less the second says 1'a =
    1'g_a - g_b, which gives b.
    """
    inverse, reach = solver[:, :-1], solver[:, -1:]
    part = g[..., :-1]
    solved = part @ inverse
    off = g[..., -1:] - (part - solved).sum(dim=2, keepdim=True)
    b = off / reach.sum(dim=2, keepdim=True).clamp_min(1e-30)
    return torch.cat([solved.addcmul_(b, reach, value=-1), b], dim=2)


def _pairs(c: Tensor, which: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Fits [B, P] by matrix and value of C."""
    pairs = torch.stack([which.expand_as(c).to(c.dtype), c]).flatten(1)
    return [(kind, (c == kind[1]) & (which == kind[0])) for kind in torch.unique(pairs.T, dim=0)]


def _factor(matrix: Tensor) -> Tensor | Factors:
    """What `_solve` needs: the inverse of small matrices, the factor of large ones."""
    factors = Factors.of(matrix)
    return factors.inverse() if matrix.shape[1] <= INVERT_UP_TO else factors


def _solve(g: Float[Tensor, "B Q D"], solver: Tensor | Factors) -> Tensor:
    return solver.solve(g.clone()) if isinstance(solver, Factors) else g @ solver


def _each_kind(solvers: list[_Solver], g: Tensor, outputs: int, solve: Callable[[Tensor, Any], Tensor]) -> Tensor:
    """Every fit's gradient through the solver of its kind; kinds differ between fits and, seldom, between cells."""
    if len(solvers) == 1:
        return solve(g, solvers[0].matrix)
    out = torch.zeros_like(g)
    for solver in solvers:
        some = solver.mask.any(dim=0)
        at = wide(some.nonzero().flatten(), outputs)
        if len(at):
            solved = solve(g[:, at], solver.matrix)
            own = solver.mask[:, some]
            if bool(own.all()):
                out[:, at] = solved
            else:
                own = own if outputs == 1 else own.repeat_interleave(outputs, dim=1)
                out[:, at] += solved * own[..., None].to(g.dtype)
    return out
