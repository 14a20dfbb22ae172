"""The kernel form of linear probes: coefficients of rows instead of features, where features outnumber rows.

Shapes: B cells, n rows, S training sets, D = n + 1 unknowns with the intercept last, P fits with K outputs each, Q =
P K (outputs fastest).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.forms import STALE, Definite, Form, Solver


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
        super().__init__(c, outputs, which, by_set=uneven)
        self.kernels = kernels
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

    def gradient(self, v: Tensor, residual: Tensor) -> Tensor:
        return torch.cat([v[..., :-1] + residual, residual.sum(dim=2, keepdim=True)], dim=2)

    def lower(self, v: Tensor) -> Tensor:
        return torch.cat([self.times(v[..., :-1]), v[..., -1:]], dim=2)

    def decide(self, v: Tensor, acts: Tensor) -> Float[Tensor, "B Q n"]:
        return acts[..., :-1] + acts[..., -1:]

    def pull(self, v: Tensor, acts: Tensor) -> Tensor:
        out = acts.clone()
        out[..., -1] = 0
        return out

    def factor(self, at: int, mask: Bool[Tensor, "B P"], curve: Float[Tensor, "B n"]) -> Solver:
        return Newton.of(self.mean[:, at], curve)

    def stale(self, old: Float[Tensor, "B n"], new: Float[Tensor, "B n"]) -> bool:
        return bool(((new - old).abs().sum(dim=1) > (STALE - 1) * old.sum(dim=1)).any())

    def keep(self, b: Tensor | None, p: Tensor | None) -> None:
        super().keep(b, p)
        if b is not None:
            self.kernels, self.mean = self.kernels[b], self.mean[b]
        if p is not None:
            self._slices()


@dataclass(frozen=True)
class Newton:
    """Solver of ``H (a, b) = g`` with H = [[1 + W K, w], [w' K, sum w]], where W has the diagonal w [B, n].

    ``inner`` solves with ``1 + root K root``, where ``root`` squared is w; ``reach`` [B, 1, n]: (1 + W K)^-1 w.
    """

    inner: Definite
    root: Float[Tensor, "B 1 n"]
    reach: Float[Tensor, "B 1 n"]

    @staticmethod
    def of(kernel: Float[Tensor, "B n n"], w: Float[Tensor, "B n"]) -> Newton:
        root = torch.maximum(w, 1e-6 * w.amax(dim=1, keepdim=True)).clamp_min(1e-30).sqrt()
        matrix = root[:, :, None] * kernel * root[:, None]
        matrix.diagonal(dim1=1, dim2=2).add_(1)
        made = Newton(Definite.of(matrix), root[:, None], w[:, None])
        return replace(made, reach=made.rows(made.reach))

    def rows(self, part: Float[Tensor, "B Q n"]) -> Float[Tensor, "B Q n"]:
        """(1 + W K)^-1 of every row."""
        return self.inner(part / self.root).mul_(self.root)

    def __call__(self, g: Float[Tensor, "B Q D"]) -> Tensor:
        """The first row of H gives a = (1 + W K)^-1 (g_a - w b); the sum of the first less the second says 1'a =
        1'g_a - g_b, which gives b."""
        part = g[..., :-1]
        solved = self.rows(part)
        off = g[..., -1:] - (part - solved).sum(dim=2, keepdim=True)
        b = off / self.reach.sum(dim=2, keepdim=True).clamp_min(1e-30)
        return torch.cat([solved.addcmul_(b, self.reach, value=-1), b], dim=2)

    def keep(self, b: Tensor) -> Newton:
        """The solvers of some cells."""
        return Newton(self.inner.keep(b), self.root[b], self.reach[b])
