"""What L-BFGS remembers, for many fits at once.

The two-loop recursion walks pairs of steps and changes of gradient one at a time, which for small fits is all calls and
no work. With R the upper triangle of products ``s_i y_j`` (i not after j), its first loop is ``u = R^-1 S g`` and its
second ``R^-T (D u - Y r)``, so that a direction is four products of small matrices (Byrd, Nocedal & Schnabel 1994,
"Representations of quasi-Newton matrices", section 2). R is kept inverted: a new pair adds a column to the inverse, and
the oldest leaves by its row.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from probes.forms import take

MEMORY = 10


class History:
    """The last pairs of B cells x P fits, in slots; vectors [B, Q, D] of a fit's K outputs lie in one row."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, step: Tensor, change: Tensor, acts: Tensor, weight: Float[Tensor, "B P"]) -> None:
        """Remember a step and the change of gradient along it, which comes as a vector and as what acts on vectors.

        ``weight``: one over the inner product of the two; 0 where the pair is to be ignored.
        """
        fits = weight.shape
        rows = [v.reshape(*fits, -1) for v in (step, change, acts)]
        if self.count == 0:
            shape = (*fits, MEMORY, rows[0].shape[2])
            self.steps, self.changes = step.new_zeros(shape), step.new_zeros(shape)
            self.acts = self.changes if acts is change else step.new_zeros(shape)
            self.inverse, self.bent = step.new_zeros(*fits, MEMORY, MEMORY), step.new_zeros(*fits, MEMORY)
        slot = self.count % MEMORY
        self.count += 1
        self.steps[:, :, slot], self.changes[:, :, slot] = rows[0], rows[1]
        if acts is not change:
            self.acts[:, :, slot] = rows[2]
        self.inverse[:, :, slot] = 0
        self.inverse[:, :, :, slot] = 0
        steps, inverse = self._filled(self.steps), self._filled(self.inverse)[..., : self.size]
        along = torch.bmm(rows[2].flatten(0, 1)[:, None], steps.mT)
        column = torch.bmm(along, inverse.mT).view(*fits, -1).mul_(-weight[..., None])
        column[..., slot] = weight
        self.inverse[:, :, : self.size, slot] = column
        self.bent[:, :, slot] = torch.where(weight > 0, 1 / weight, 0.0)

    @property
    def size(self) -> int:
        """Pairs held."""
        return min(self.count, MEMORY)

    def _filled(self, value: Tensor) -> Tensor:
        return value[:, :, : self.size].flatten(0, 1)

    def apply(self, g: Tensor, g_acts: Tensor, precondition: Callable[[Tensor], Tensor]) -> Tensor:
        """The estimate of inverse Hessian times gradient [B, Q, D], from that estimate without a history."""
        if self.count == 0:
            return precondition(g)
        fits = self.bent.shape[0] * self.bent.shape[1]
        steps, acts = self._filled(self.steps), self._filled(self.acts)
        changes = acts if self.acts is self.changes else self._filled(self.changes)
        inverse, bent = self._filled(self.inverse)[..., : self.size], self.bent[..., : self.size].flatten(0, 1)
        first = torch.bmm(torch.bmm(g_acts.reshape(fits, 1, -1), steps.mT), inverse.mT)
        q = precondition(torch.baddbmm(g.reshape(fits, 1, -1), first, changes, alpha=-1).view(g.shape))
        rest = q.reshape(fits, 1, -1)
        second = torch.bmm(first.mul_(bent[:, None]).sub_(torch.bmm(rest, acts.mT)), inverse)
        return torch.baddbmm(rest, second, steps).view(g.shape)

    def keep(self, b: Tensor | None, p: Tensor | None) -> None:
        """Retire cells and fits that are not among the numbers given (None: all stay)."""
        if self.count == 0:
            return
        same = self.acts is self.changes
        self.steps, self.changes = take(self.steps, b, p), take(self.changes, b, p)
        self.acts = self.changes if same else take(self.acts, b, p)
        self.inverse, self.bent = take(self.inverse, b, p), take(self.bent, b, p)
