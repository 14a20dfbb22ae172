"""The kernel form of linear probes: coefficients of rows instead of features, where features outnumber rows.

Shapes: B cells, n rows, S training sets, D = n + 1 unknowns with the intercept last, P fits with K outputs each, Q =
P K (outputs fastest).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.by_set import BySet
from probes.factor import Factors, times
from probes.forms import STALE, Form, Solver

LOOSE = 3.0
"""How many times the curvature that there is a preconditioner may assume: steps are short then, not long."""

AT_FIRST = 12.0
"""Curvature of the loss, times the mean of the kernel's diagonal, that preconditioners assume at most before the first
step. Fits of weak regularisation end near it, whatever their C: they tell the rows apart, and curvature falls. So they
share a preconditioner that is not far off."""


class Kernels(Form):
    """Coefficients of rows: ``w = sum_i a_i x_i``, so that decision values are ``kernel a + b`` and the penalty is
    ``a kernel a / 2``.

    The unknowns are (a, b) with inner product ``a kernel a' + b b'``, in which nothing is worse conditioned than the
    problem itself, however alike rows are. ``kernels`` [B, S, n, n], one for each training set, since each scales
    features its own way; fit p takes number ``which[p]``, ascending, and has coefficients of its rows ``train`` [S, n].
    With ``uneven`` each set has a preconditioner of its own; otherwise their mean serves all.
    """

    renew_at = (1, 5, 15, 45)
    far_first = True

    def __init__(
        self,
        kernels: Float[Tensor, "B S n n"],
        c: Float[Tensor, "B P"],
        outputs: int,
        which: Int[Tensor, " P"],
        train: Bool[Tensor, "S n"],
        *,
        uneven: bool,
    ) -> None:
        super().__init__(c, outputs, which, by_set=uneven)
        self.kernels, self.own = kernels, train[which].to(kernels.dtype)  # rows of each fit's training set
        # Where sets share a preconditioner, and for one output: of several, iterations cost more, and few are saved.
        self.left_out = LeftOut.of(train) if outputs == 1 and not uneven else None
        self.loose = LOOSE if outputs == 1 else STALE
        self.mean = kernels if uneven else kernels.mean(dim=1, keepdim=True)
        self.columns = self.columns_of(which)

    def columns_of(self, which: Int[Tensor, " P"]) -> BySet:
        """Columns of some fits."""
        return BySet.of(which.repeat_interleave(self.outputs), self.kernels.shape[1])

    @property
    def size(self) -> tuple[int, int, int]:
        b, _, n, _ = self.kernels.shape
        return b, n, n + 1

    def gradient(self, v: Tensor, residual: Tensor) -> Tensor:
        return torch.cat([v[..., :-1] + residual, residual.sum(dim=2, keepdim=True)], dim=2)

    def lower(self, v: Tensor) -> Tensor:
        return torch.cat([self.columns.times(v[..., :-1], self.kernels), v[..., -1:]], dim=2)

    def decide(self, v: Tensor, acts: Tensor) -> Float[Tensor, "B Q n"]:
        return acts[..., :-1] + acts[..., -1:]

    def pull(self, v: Tensor, acts: Tensor) -> Tensor:
        out = acts.clone()
        out[..., -1] = 0
        return out

    def prepare(self, bend: Float[Tensor, "B P n"]) -> None:
        if not self.shared:
            size = self.mean.diagonal(dim1=2, dim2=3).mean(dim=(1, 2))
            bend = torch.minimum(bend, (AT_FIRST / size)[:, None, None])
        super().prepare(bend)

    def curve(self, mask: Bool[Tensor, "B P"], bend: Float[Tensor, "B P n"]) -> Float[Tensor, "B n"]:
        """Of each row, over the fits that train on it, where preconditioners leave out rows."""
        if self.left_out is None:
            return super().curve(mask, bend)
        fits = mask.to(bend.dtype)[:, None]
        return ((fits @ bend) / (fits @ self.own).clamp_min(1))[:, 0]

    def factor(self, at: int, mask: Bool[Tensor, "B P"], curve: Float[Tensor, "B n"]) -> Solver:
        return Newton.of(self.mean[:, at], curve, self.left_out)

    def stale(self, old: Float[Tensor, "M B n"], new: Float[Tensor, "B n"]) -> Bool[Tensor, " M"]:
        before, now = old.sum(dim=2, keepdim=True).clamp_min(1e-30), new.sum(dim=1, keepdim=True).clamp_min(1e-30)
        ratio = now / before
        moved = (new / now - old / before).abs().sum(dim=2, keepdim=True)
        return ((ratio > STALE) | (ratio < 1 / self.loose) | (moved > STALE - 1)).flatten(1).any(dim=1)

    def keep(self, b: Tensor | None, p: Tensor | None) -> None:
        super().keep(b, p)
        if b is not None:
            self.kernels, self.mean = self.kernels[b], self.mean[b]
        if p is not None:
            self.columns, self.own = self.columns_of(self.which), self.own[p]


@dataclass(frozen=True)
class LeftOut:
    """Rows that training sets leave out.

    ``rows`` [S, m]: their numbers (any, where a set leaves out fewer: ``real`` says which are meant); ``corner``: where
    their products lie in a matrix [n, n]; ``unknowns`` [S, m + 1]: theirs, then that of the intercept, n.
    """

    rows: Int[Tensor, "S m"]
    real: Bool[Tensor, "S m"]
    corner: Int[Tensor, " S*m*m"]
    unknowns: Int[Tensor, "S m+1"]

    @staticmethod
    def of(train: Bool[Tensor, "S n"]) -> LeftOut:
        sets, n = train.shape
        count = (~train).sum(dim=1)
        rows = (~train).to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, : max(1, int(count.max()))]
        real = torch.arange(rows.shape[1], device=rows.device) < count[:, None]
        corner = (n * rows[:, :, None] + rows[:, None]).flatten()
        return LeftOut(rows, real, corner, torch.cat([rows, rows.new_full((sets, 1), n)], dim=1))

    def inverse(self, matrix: Float[Tensor, "B n n"]) -> Float[Tensor, "B S m m"]:
        """Inverses of what definite matrices hold for the rows; 0 for others."""
        sets, m = self.rows.shape
        both = self.real[:, :, None] & self.real[:, None]
        found = matrix.flatten(1).index_select(1, self.corner).view(-1, sets, m, m)
        found = found * both + torch.diag_embed((~self.real).to(matrix.dtype))
        return torch.cholesky_inverse(torch.linalg.cholesky_ex(found)[0]) * both


@dataclass(frozen=True)
class Newton:
    """Solver of ``H (a, b) = g`` with H = [[1 + W K, w], [w' K, sum w]], where W has the diagonal w [n], which is 0 off
    a training set; so are a and g.

    The first rows less the last say ``-1' a = g_b - 1' g_a``, in which no w appears. So one ``inverse`` [B, D, D], of H
    for all rows, serves all sets: rows are left out by taking from g what makes a 0 there. Times ``correct`` [B, S, m,
    m + 1], what a would be gives that, and what goes with it for the intercept. Without these, steps
    are as if each set had all rows that w is not 0 for.
    """

    inverse: Float[Tensor, "B D D"]
    left_out: LeftOut | None = None
    correct: Float[Tensor, "B S m m+1"] | None = None

    @staticmethod
    def of(kernel: Float[Tensor, "B n n"], w: Float[Tensor, "B n"], left_out: LeftOut | None) -> Newton:
        b, n = w.shape
        root = torch.maximum(w, 1e-6 * w.amax(dim=1, keepdim=True)).clamp_min(1e-30).sqrt()[:, None]
        matrix = (kernel * root).mul_(root.mT)
        matrix.diagonal(dim1=1, dim2=2).add_(1)
        inner = Factors.of(matrix).inverse()
        e = torch.bmm(root, inner)  # root e: (1 + W K)^-1 w, whose sum is the Schur complement of the intercept
        mass = (root * e).sum(dim=2, keepdim=True).clamp_min(1e-30)
        inner.baddbmm_(e.mT, e / mass, alpha=-1)
        ratio = root / root.mT
        inverse = w.new_empty(b, n + 1, n + 1)
        reach = torch.div(root * e, mass, out=inverse[:, n:, :n]).clone()
        inverse[:, n:, :n] *= -1
        torch.mul(inner, ratio, out=inverse[:, :n, :n])
        inverse[:, :n, :n] += reach
        inverse[:, :n, n:] = ((e / root - 1) / mass).mT
        inverse[:, n, n] = 1 / mass[:, 0, 0]
        if left_out is None:
            return Newton(inverse)
        correct = left_out.inverse(inner)
        correct *= ratio.flatten(1).index_select(1, left_out.corner).view_as(correct)
        return Newton(inverse, left_out, torch.cat([correct, correct.sum(dim=3, keepdim=True)], dim=3))

    def __call__(self, g: Float[Tensor, "B Q D"], columns: BySet) -> Tensor:
        out = times(g, self.inverse)
        if self.left_out is None or self.correct is None:
            return out
        at = self.left_out.unknowns.index_select(0, columns.which).expand(len(g), -1, -1)
        off = columns.times(out.gather(2, at[..., :-1]), self.correct)
        return out.sub_(times(torch.zeros_like(g).scatter_add_(2, at, off), self.inverse))

    def keep(self, b: Tensor) -> Newton:
        """The solvers of some cells."""
        return replace(self, inverse=self.inverse[b], correct=None if self.correct is None else self.correct[b])
