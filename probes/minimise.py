"""Batched preconditioned L-BFGS for logistic losses: many cells x many fits at a time, exact to a given tolerance.

Every fit of a cell is a row of one product with the cell's matrix, and cells are stacked: an iteration is two batched
products whatever the number of fits. The line search needs none, since it moves along stored decision values and looks
at slopes only (which, unlike values of the loss, keep their digits near the minimum). Fits that have converged stand
still and are retired.

Shapes: B cells, n rows, D unknowns, P fits with K outputs each, Q = P K (outputs fastest). Fits come before rows and
unknowns: a product of few fits with a large matrix is up to four times faster that way round.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probes.forms import Form, take, wide

MEMORY = 4
"""Steps remembered. More cost more and hardly save an iteration: what is left is the change of curvature on the way."""

LEAST_STEPS = 2
ALL = slice(None)
CURVATURE = 0.5
"""Accept a step once the slope along it has fallen to this share."""
NEAR = 0.01
"""The same of the first step, which is also not to end short of it: it goes far where fits are hardly regularised."""


@dataclass(frozen=True)
class Loss:
    """What each fit loses on the rows: ``sum_i rows_i loss(z_i, target_i)``.

    ``rows`` hold C times weight, 0 off the training set; ``target`` is 0/1 (one output) or one-hot; ``absent`` is -1e9
    for classes a fit has never seen. Where cells share them, the first axis is 1.
    """

    rows: Float[Tensor, "b P n"]
    target: Float[Tensor, "b2 Q n"]
    absent: Float[Tensor, "b3 Q"] | None = None


@dataclass(frozen=True)
class Minimum:
    """``v`` [B, Q, D], decision values ``z`` [B, Q, n], ``converged`` [B, P], ``iterations`` of the batch."""

    v: Float[Tensor, "B Q D"]
    z: Float[Tensor, "B Q n"]
    converged: Bool[Tensor, "B P"]
    iterations: int


@dataclass(frozen=True)
class _Pair:
    """One step, as a vector and as what acts on vectors, and the change of gradient along it; ``weight`` [B, P]."""

    s: Tensor
    s_acts: Tensor
    y: Tensor
    weight: Tensor

    def keep(self, b: Tensor | None, p: Tensor | None, q: Tensor | None) -> _Pair:
        s = take(self.s, b, q)
        s_acts = s if self.s_acts is self.s else take(self.s_acts, b, q)
        return _Pair(s, s_acts, take(self.y, b, q), take(self.weight, b, p))


def minimise(form: Form, loss: Loss, *, tol: float = 1e-4, max_iter: int = 300) -> Minimum:
    """Minimise every fit.

    A fit has converged when its Newton decrement, measured with the curvature met so far, falls to ``tol`` times
    ``sqrt(1 + |coef|^2)``; relative errors of coefficients are then about as large. Less than eight units in the last
    place cannot be asked.
    """
    tol = max(tol, 8 * torch.finfo(loss.rows.dtype).eps)
    cells, n, d = form.size
    fits, outputs = form.c.shape[1], form.outputs
    v, z = (loss.rows.new_zeros(cells, fits * outputs, width) for width in (d, n))
    converged = torch.zeros(cells, fits, dtype=torch.bool, device=v.device)
    state = _State(form, loss)
    step = 0
    while True:
        done = state.look(step, tol)
        finished, batch = done.all(dim=0), done.all(dim=1)
        last = step == max_iter or bool(finished.all())
        if last or 4 * int(finished.sum()) >= len(finished) or 4 * int(batch.sum()) >= len(batch):
            at = state.cells[:, None]
            converged[at, state.fits] = done
            v[at, wide(state.fits, outputs)] = state.v
            z[at, wide(state.fits, outputs)] = state.z
            if last:
                return Minimum(v, z, converged, step)
            state.keep(~batch, ~finished)
        state.advance(first=step == 0)
        step += 1


class _State:
    """What goes from one iteration to the next, for cells and fits still running (``cells``, ``fits``: their
    numbers)."""

    def __init__(self, form: Form, loss: Loss) -> None:
        self.form, self.k = form, form.outputs
        b, n, d = form.size
        p = form.c.shape[1]
        self.rows, self.target, self.absent = self.spread(loss.rows), loss.target, loss.absent
        self.cells, self.fits = torch.arange(b, device=self.rows.device), torch.arange(p, device=self.rows.device)
        self.v = torch.zeros(b, p * self.k, d, dtype=self.rows.dtype, device=self.rows.device)
        self.z = torch.zeros(b, p * self.k, n, dtype=self.rows.dtype, device=self.rows.device)
        self.residual = self.residuals(self.z)
        self.history: list[_Pair] = []
        self.g: Tensor | None = None
        self.step = self.step_acts = self.direction = self.acts = self.v
        self.slope = self.size = torch.zeros_like(form.c)
        self.done = torch.zeros_like(form.c, dtype=torch.bool)
        self.bend = self.rows

    def spread(self, value: Tensor) -> Tensor:
        """[cell, P, ...] as [cell, Q, ...]."""
        if self.k == 1:
            return value
        return value.unsqueeze(2).expand(-1, -1, self.k, *value.shape[2:]).flatten(1, 2)

    def fold(self, value: Tensor) -> Tensor:
        """Sums over the outputs of each fit: [cell, Q] as [cell, P]."""
        return value if self.k == 1 else value.unflatten(1, (-1, self.k)).sum(dim=2)

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """Inner products [cell, P] of two [cell, Q, ...]."""
        return self.fold((a * b).sum(dim=2))

    def probabilities(self, z: Tensor, absent: Tensor | None) -> Tensor:
        if self.k == 1:
            return torch.sigmoid(z)
        z = z if absent is None else z + absent[..., None]
        return torch.softmax(z.unflatten(1, (-1, self.k)), dim=2).flatten(1, 2)

    def residuals(self, z: Tensor, at: Tensor | slice = ALL) -> Tensor:
        """Slope of the loss at each row: weighted probability less target, of fits ``at`` [Q].

        Taken from the probability of being wrong, which keeps its digits where the right class is all but certain.
        """
        target, rows = self.target[:, at], self.rows[:, at]
        if self.k == 1:
            sign = 1 - 2 * target
            return torch.sigmoid(z * sign).mul_(sign).mul_(rows)
        p = self.probabilities(z, None if self.absent is None else self.absent[:, at])
        wrong = (p * (1 - target)).unflatten(1, (-1, self.k))
        right = target.unflatten(1, (-1, self.k)) * wrong.sum(dim=2, keepdim=True)
        return (wrong - right).flatten(1, 2).mul_(rows)

    def look(self, step: int, tol: float) -> Tensor:
        """Gradient and direction at the present point; mask [cell, fit] of what has converged."""
        g = self.form.gradient(self.v, self.residual)
        if step == 0 or step in self.form.renew_at:
            p = self.probabilities(self.z, self.absent)
            bend = p.sub_(p * p).mul_(self.rows)
            if self.k > 1:
                # Slopes of outputs sum to 0, so the curvature met is that of the other k - 1 directions.
                bend = bend.unflatten(1, (-1, self.k)).sum(dim=2).div_(self.k - 1)
            self.bend = bend
            self.form.prepare(bend)
        if self.g is not None:
            y = g - self.g
            bent = self.dot(self.step_acts, y)
            least = 1e-12 * (self.dot(self.step_acts, self.step_acts) * self.dot(y, y)).sqrt()
            weight = torch.where(bent > least, 1 / bent.clamp_min(1e-30), 0.0)
            self.history = [*self.history[-(MEMORY - 1) :], _Pair(self.step, self.step_acts, y, weight)]
        self.g = g
        self.direction, self.acts = self.quasi_newton(g)
        self.slope = self.dot(g, self.acts)
        self.descend()
        if step >= LEAST_STEPS:
            self.done = self.done | (-self.slope <= tol**2 * (1 + self.size))
        return self.done

    def quasi_newton(self, g: Tensor) -> tuple[Tensor, Tensor]:
        """Minus the L-BFGS estimate of inverse Hessian times gradient (two-loop recursion), and what acts on vectors as
        the inner product with it: which is carried along, so that it costs one product a step."""
        q, pending = -g, []
        for pair in reversed(self.history):
            a = self.spread(self.dot(pair.s_acts, q) * pair.weight)[..., None]
            pending.append(a)
            q.addcmul_(a, pair.y, value=-1)
        q = self.form.precondition(q)
        acts = self.form.lower(q)
        for pair, a in zip(self.history, reversed(pending), strict=True):
            more = a - self.spread(self.dot(pair.y, acts) * pair.weight)[..., None]
            q.addcmul_(more, pair.s)
            if acts is not q:
                acts.addcmul_(more, pair.s_acts)
        return q, acts

    def descend(self) -> None:
        """Fall back on the gradient where the direction leads up. The preconditioner takes other training sets for a
        fit's own, which may be too coarse where rows differ vastly in curvature."""
        assert self.g is not None
        up = ~(self.slope <= 0) & ~self.done
        if bool(up.any()):
            where = self.spread(up)[..., None]
            plain = self.acts is self.direction
            self.direction = torch.where(where, -self.g, self.direction)
            self.acts = self.direction if plain else torch.where(where, -self.form.lower(self.g), self.acts)
            self.history = [replace(pair, weight=pair.weight.masked_fill(up, 0.0)) for pair in self.history]
            self.slope = self.dot(self.g, self.acts)

    def advance(self, *, first: bool) -> None:
        """Step along the direction to where the slope there has mostly gone."""
        d, dz = self.direction, self.form.decide(self.direction, self.acts)
        pull = self.form.pull(d, self.acts)
        bent, base = self.dot(pull, d), self.dot(pull, self.v)
        down = -self.slope
        t = (~self.done).to(d.dtype)
        first = first and self.form.far_first
        most, least = (NEAR, -NEAR) if first else (CURVATURE, -torch.inf)
        if first:
            t *= down / (bent + self.dot(self.spread(self.bend) * dz, dz)).clamp_min(1e-30)
        short, short_slope = torch.zeros_like(t), self.slope
        z = torch.addcmul(self.z, self.spread(t)[..., None], dz)
        residual = self.residuals(z)
        for _ in range(20):
            # Monotone in t, as the objective is convex.
            slope = self.dot(residual, dz) + base + t * bent
            off = ((slope > most * down) | (slope < least * down)) & ~self.done
            if not bool(off.any()):
                break
            # The secant between this point and the last found to be short of the minimum.
            more = torch.nan_to_num((t - short) * slope / (short_slope - slope))
            beyond = slope > 0
            short, short_slope = torch.where(beyond, short, t), torch.where(beyond, short_slope, slope)
            t = torch.where(off, (t + more).clamp(min=0.1 * t, max=4 * t), t)
            some = wide(off.any(dim=0).nonzero().flatten(), self.k)
            part = torch.addcmul(self.z[:, some], self.spread(t)[:, some, None], dz[:, some])
            z[:, some] = part
            residual[:, some] = self.residuals(part, some)
        self.size = self.size + t * (2 * base + t * bent)
        length = self.spread(t)[..., None]
        self.step = d * length
        self.step_acts = self.step if self.acts is d else self.acts * length
        self.v = self.v + self.step
        self.z, self.residual = z, residual

    def keep(self, cells: Tensor, fits: Tensor) -> None:
        """Retire cells and fits outside the masks."""
        b = None if bool(cells.all()) else cells.nonzero().flatten()
        p = None if bool(fits.all()) else fits.nonzero().flatten()
        q = None if p is None else wide(p, self.k)
        self.form.keep(b, p)
        self.history = [pair.keep(b, p, q) for pair in self.history]
        self.cells = self.cells if b is None else self.cells[b]
        self.fits = self.fits if p is None else self.fits[p]
        same = self.acts is self.direction
        for name in ("v", "z", "residual", "g", "direction", "rows", "target", "absent"):
            value = getattr(self, name)
            setattr(self, name, None if value is None else take(value, b, q))
        self.acts = self.direction if same else take(self.acts, b, q)
        for name in ("slope", "size", "done"):
            setattr(self, name, take(getattr(self, name), b, p))
