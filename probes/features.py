"""The plain form of linear probes: coefficients of features.

Shapes: B cells, n rows, D unknowns with the intercept last, P fits with K outputs each, Q = P K (outputs fastest).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.forms import STALE, Definite, Form, Solver, take, wide


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
        super().__init__(c, outputs, which, by_set=grams.shape[1] > 1)
        self.x, self.grams = x, grams
        self.penalty = penalty if outputs == 1 else penalty.repeat_interleave(outputs, dim=1)
        self.alive = alive if alive is None or outputs == 1 else alive.repeat_interleave(outputs, dim=1)

    @property
    def size(self) -> tuple[int, int, int]:
        b, n, d = self.x.shape
        return b, n, d

    def gradient(self, v: Tensor, residual: Tensor) -> Tensor:
        g = torch.baddbmm(self.penalty * v, residual, self.x)
        return g if self.alive is None else g * self.alive

    def lower(self, v: Tensor) -> Tensor:
        return v

    def decide(self, v: Tensor, acts: Tensor) -> Float[Tensor, "B Q n"]:
        return v @ self.x.transpose(1, 2)

    def pull(self, v: Tensor, acts: Tensor) -> Tensor:
        return self.penalty * v

    def factor(self, at: int, mask: Bool[Tensor, "B P"], curve: Float[Tensor, "B n"]) -> Solver:
        """Of the Gram matrix times mean curvature: weighing each row by its own would cost a Gram matrix a kind."""
        share = mask.to(curve.dtype) / mask.sum(dim=1, keepdim=True).clamp_min(1)
        matrix = self.grams[:, at] * curve.sum(dim=1)[:, None, None]
        diagonal = matrix.diagonal(dim1=1, dim2=2)
        diagonal += torch.einsum("bp,bpd->bd", share, self.penalty[:, :: self.outputs])
        diagonal += 1e-6 * diagonal.mean(dim=1, keepdim=True) + 1e-30
        idle = ~mask.any(dim=1)  # cells without such fits
        if bool(idle.any()):
            matrix[idle] = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
        return Definite.of(matrix)

    def stale(self, old: Float[Tensor, "M B n"], new: Float[Tensor, "B n"]) -> Bool[Tensor, " M"]:
        ratio = new.sum(dim=1) / old.sum(dim=2).clamp_min(1e-30)
        return ~((ratio < STALE) & (ratio > 1 / STALE) | (ratio == 0)).all(dim=1)

    def precondition(self, g: Tensor) -> Tensor:
        out = super().precondition(g)
        return out if self.alive is None else out * self.alive

    def keep(self, b: Tensor | None, p: Tensor | None) -> None:
        super().keep(b, p)
        q = None if p is None else wide(p, self.outputs)
        self.penalty = take(self.penalty, b, q)
        self.alive = None if self.alive is None else take(self.alive, b, q)
        if b is not None:
            self.x, self.grams = self.x[b], self.grams[b]
