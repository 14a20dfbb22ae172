"""Batched logistic regression: every fold, regularisation value and label set of a cell is a column of one product.

Minimises, for each column, scikit-learn's objective ``C * sum_i w_i loss_i + |coef|^2 / 2`` with a free intercept,
exactly, by preconditioned L-BFGS. One iteration is two matrix products for all columns together; the line search needs
none, since it moves along stored decision values. The preconditioner is the Gram matrix times the mean curvature of the
loss, one Cholesky factor per value of C, renewed once the curvature is known. Columns that have converged are retired.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.space import Block, memberships

REFRESH_AT = 3
LEAST_STEPS = 2
UNEVEN = 2.0  # training sets whose variances differ by more from the whole get a Gram matrix of their own
MEMORY = 8
CURVATURE = 0.5  # accept a step once the slope along it has fallen to this share


@dataclass(frozen=True)
class Columns:
    """The fits of one solve: which training set, which labels and which C each column has. All [column]."""

    set: Int[Tensor, " column"]
    label: Int[Tensor, " column"]
    c: Float[Tensor, " column"]

    def __len__(self) -> int:
        return len(self.c)

    def take(self, index: Tensor) -> Columns:
        return Columns(self.set[index], self.label[index], self.c[index])


@dataclass(frozen=True)
class Fitted:
    """Decision values [row, column, output] on all rows, coefficients [coordinate, column, output] and intercepts
    [column, output]; ``converged`` [column]; ``iterations`` of the whole batch. One output if binary, else one a
    class."""

    decision: Float[Tensor, "row column output"]
    coef: Float[Tensor, "coordinate column output"]
    intercept: Float[Tensor, "column output"]
    converged: Bool[Tensor, " column"]
    iterations: int


def balance(
    labels: Int[Tensor, "row label"], train: Bool[Tensor, "row set"], classes: int
) -> Float[Tensor, "set label klass"]:
    """Weight of each class in each training set, as scikit-learn's "balanced": rows / (classes present * rows of the
    class)."""
    counts = class_counts(labels, train, classes)
    present = (counts > 0).sum(dim=-1, keepdim=True)
    total = counts.sum(dim=-1, keepdim=True)
    return torch.where(counts > 0, total / (present * counts.clamp_min(1)), 0.0)


def class_counts(
    labels: Int[Tensor, "row label"], train: Bool[Tensor, "row set"], classes: int
) -> Float[Tensor, "set label klass"]:
    """Rows of each class in each training set."""
    member = train.to(torch.float64).T
    return torch.stack([member @ (labels == k).to(torch.float64) for k in range(classes)], dim=-1)


def probabilities(z: Tensor, absent: Tensor | None) -> Tensor:
    """Class probabilities [row, column, output]; with one output, of the second class."""
    if z.shape[-1] == 1:
        return torch.sigmoid(z)
    return torch.softmax(z if absent is None else z + absent, dim=-1)


def solve_logistic(
    block: Block,
    labels: Int[Tensor, "row label"],
    train: Bool[Tensor, "row set"],
    columns: Columns,
    *,
    classes: int,
    weights: Float[Tensor, " row"] | None = None,
    class_weights: Float[Tensor, "set label klass"] | None = None,
    tol: float = 1e-4,
    max_iter: int = 300,
) -> Fitted:
    """Fit all columns of one block.

    A training set that lacks classes gives a probe that never predicts them; one with a single class gives the constant
    probe (zero coefficients, an intercept of +-30).

    Args:
        labels: class numbers ``0..classes-1``, one column per labelling (the real one, shuffles).
        train: the whole mask; ``columns.set`` numbers its columns.
        weights: row weights, as ``sample_weight``.
        class_weights: per training set and labelling, from `balance`.
        tol: stop a column when its Newton decrement falls to this share of ``sqrt(1 + |coef|^2)``; relative errors of
            coefficients are then about as large.
    """
    n, dtype, device = len(block.x), block.x.dtype, block.x.device
    outputs = 1 if classes == 2 else classes
    counts = class_counts(labels, train, classes)[columns.set, columns.label]
    state = _State.start(block, train, columns, outputs)
    single = (counts > 0).sum(dim=-1) < 2
    decision = torch.zeros(n, len(columns), outputs, dtype=dtype, device=device)
    coef = torch.zeros(block.x.shape[1], len(columns), outputs, dtype=dtype, device=device)
    intercept = torch.zeros(len(columns), outputs, dtype=dtype, device=device)
    converged = single.clone()
    if single.any():
        only = counts[single].argmax(dim=-1)
        value = (
            (2.0 * only[:, None] - 1) * 30 if outputs == 1 else torch.nn.functional.one_hot(only, classes) * 60.0 - 30
        )
        intercept[single] = value.to(dtype)
        decision[:, single] = value.to(dtype)
        state.keep(~single)
    if len(state.index) == 0:
        return Fitted(decision, coef, intercept, converged, 0)

    rows = train[:, state.columns.set].to(dtype)
    if weights is not None:
        rows = rows * weights[:, None].to(dtype)
    target = labels[:, state.columns.label]
    if class_weights is not None:
        chosen = class_weights[state.columns.set, state.columns.label].to(dtype)  # [column, class]
        rows = rows * chosen.T.gather(0, target)
    state.rows = rows * state.columns.c
    if outputs == 1:
        state.target = target.to(dtype)[..., None]
    else:
        state.target = torch.nn.functional.one_hot(target, classes).to(dtype)
        state.absent = torch.where(counts[state.index] > 0, 0.0, -1e9).to(dtype)
    step = 0
    for step in range(max_iter + 1):
        done = state.iterate(step, tol)
        last = step == max_iter
        finished = torch.ones_like(done) if last else done
        if last or done.all() or (int(done.sum()) >= 8 and 4 * int(done.sum()) >= len(done)):
            where = state.index[finished]
            decision[:, where] = state.z[:, finished]
            coef[:, where] = state.v[:-1, finished]
            intercept[where] = state.v[-1, finished]
            converged[where] = done[finished]
            state.keep(~finished)
            if len(state.index) == 0:
                break
        state.advance()
    if outputs > 1 and state.absent is not None:
        decision = torch.where((counts > 0)[None], decision, torch.full_like(decision, -30.0))
    return Fitted(decision, coef, intercept, converged, step)


class _State:
    """What L-BFGS carries from one iteration to the next, for the columns still running.

    Shapes: ``x`` [row, coordinate + 1] (the last is the intercept), ``v``, ``g`` and directions [coordinate + 1,
        column,
    output], ``z`` and ``target`` [row, column, output], ``rows`` (C times weight, 0 off the training set) [row,
    column].
    """

    rows: Tensor
    target: Tensor

    def __init__(
        self, x: Tensor, penalty: Tensor, columns: Columns, outputs: int, grams: Tensor, which: Tensor
    ) -> None:
        self.x, self.penalty, self.columns, self.outputs = x, penalty, columns, outputs
        self.grams, self.which = grams, which  # [matrix, coordinate + 1, coordinate + 1], [column]
        self.index = torch.arange(len(columns), device=x.device)
        self.v = torch.zeros(x.shape[1], len(columns), outputs, dtype=x.dtype, device=x.device)
        self.z = torch.zeros(len(x), len(columns), outputs, dtype=x.dtype, device=x.device)
        self.history: list[tuple[Tensor, Tensor, Tensor]] = []
        self.absent: Tensor | None = None
        self.alive: Tensor | None = None
        self.residual: Tensor | None = None
        self.factors: list[tuple[Tensor, Tensor]] = []
        self.g = self.direction = self.z_direction = self.slope = torch.empty(0)

    @staticmethod
    def start(block: Block, train: Tensor, columns: Columns, outputs: int) -> _State:
        ones = torch.ones(len(block.x), 1, dtype=block.x.dtype, device=block.x.device)
        x = torch.cat([block.x, ones], dim=1)
        position = {s: i for i, s in enumerate(block.sets)}
        local = torch.tensor([position[int(s)] for s in columns.set], device=x.device, dtype=torch.int64)
        penalty = torch.cat([block.penalty, torch.zeros_like(block.penalty[:1])])[:, local]
        grams, which = _grams(x, train[:, list(block.sets)], local)
        state = _State(x, penalty, columns, outputs, grams, which)
        if block.alive is not None:
            state.alive = torch.cat([block.alive, torch.ones_like(block.alive[:1])])[:, local].to(x.dtype)
        return state

    def keep(self, mask: Tensor) -> None:
        """Retire every column outside the mask [column]."""
        index = mask.nonzero().flatten()
        self.index, self.which, self.columns = self.index[index], self.which[index], self.columns.take(index)
        for name in ("v", "z", "penalty", "alive", "rows", "target", "residual", "g", "direction"):
            value = getattr(self, name, None)
            if value is not None and value.numel():
                setattr(self, name, value.index_select(1, index))
        if self.absent is not None:
            self.absent = self.absent[index]
        self.history = [(s.index_select(1, index), y.index_select(1, index), r[index]) for s, y, r in self.history]
        place = torch.full((len(mask),), -1, device=index.device).scatter(
            0, index, torch.arange(len(index), device=index.device)
        )
        self.factors = [(place[sel][place[sel] >= 0], factor) for sel, factor in self.factors]

    def iterate(self, step: int, tol: float) -> Tensor:
        """Gradient and preconditioned direction at the present point; mask [column] of the columns that have
        converged."""
        if self.residual is None:
            p = probabilities(self.z, self.absent)
            self.residual = (p - self.target) * self.rows[..., None]
        else:
            p = None
        shape = self.v.shape
        g = (self.x.T @ self.residual.flatten(1)).view(shape) + self.penalty[..., None] * self.v
        if self.alive is not None:
            g = g * self.alive[..., None]
        if step in (0, REFRESH_AT):
            self.refresh(probabilities(self.z, self.absent) if p is None else p)
        elif self.g.numel():
            y = g - self.g
            curvature = (self.direction * y).sum(dim=(0, 2))
            usable = curvature > 1e-12 * (y * y).sum(dim=(0, 2)).clamp_min(1e-30)
            weight = torch.where(usable, 1 / curvature.clamp_min(1e-30), 0.0)
            self.history = [*self.history[-(MEMORY - 1) :], (self.direction, y, weight)]
        self.g = g
        self.direction = -self.quasi_newton(g)
        # Measured with the curvature met so far: a preconditioner that is too stiff for a column must not end it early.
        decrement = -(g * self.direction).sum(dim=(0, 2)).clamp_max(0)
        size = 1 + (self.penalty[..., None] * self.v**2).sum(dim=(0, 2))
        done = decrement.sqrt() <= tol * size.sqrt()
        return done if step >= LEAST_STEPS else torch.zeros_like(done)

    def quasi_newton(self, g: Tensor) -> Tensor:
        """The L-BFGS estimate of inverse Hessian times gradient (two-loop recursion)."""
        q, pending = g, []
        for s, y, weight in reversed(self.history):
            a = weight * (s * q).sum(dim=(0, 2))
            pending.append(a)
            q = q - a[None, :, None] * y
        q = self.precondition(q)
        for (s, y, weight), a in zip(self.history, reversed(pending), strict=True):
            b = weight * (y * q).sum(dim=(0, 2))
            q = q + s * (a - b)[None, :, None]
        return q

    def refresh(self, p: Tensor) -> None:
        """One Cholesky factor per value of C (and Gram matrix), with the mean curvature of the loss there."""
        bend = (p * (1 - p)).mean(dim=-1)
        mass = self.rows.sum(dim=0)
        mean = (bend * self.rows).sum(dim=0)  # C * n * mean curvature
        if mass.numel() == 0:
            return
        self.factors, self.history = [], []
        for m, value in torch.unique(torch.stack([self.which.to(mass.dtype), self.columns.c], dim=1), dim=0):
            sel = ((self.columns.c == value) & (self.which == m)).nonzero().flatten()
            matrix = self.grams[int(m)] * mean[sel].mean()
            matrix.diagonal().add_(self.penalty[:, sel].mean(dim=1))
            matrix.diagonal().add_(1e-6 * matrix.diagonal().mean())
            self.factors.append((sel, torch.linalg.cholesky(matrix)))

    def precondition(self, g: Tensor) -> Tensor:
        out = torch.empty_like(g)
        for sel, factor in self.factors:
            if len(sel):
                out[:, sel] = torch.cholesky_solve(g[:, sel].flatten(1), factor).view(len(g), len(sel), -1)
        return out if self.alive is None else out * self.alive[..., None]

    def advance(self) -> None:
        """Step along the quasi-Newton direction as far as the slope there has mostly gone."""
        d = self.direction
        dz = (self.x @ d.flatten(1)).view(self.z.shape)
        pull = self.penalty[..., None] * d
        start = (self.g * d).sum(dim=(0, 2))
        bent = (pull * d).sum(dim=(0, 2))
        # Slope along d at step t: sum residual(z + t dz) dz + penalty terms; monotone in t, as the objective is convex.
        base = (pull * self.v).sum(dim=(0, 2))
        low, low_slope = torch.zeros_like(start), start
        t = torch.ones_like(start)
        z = self.z + dz
        residual = (probabilities(z, self.absent) - self.target) * self.rows[..., None]
        for _ in range(20):
            slope = (residual * dz).sum(dim=(0, 2)) + base + t * bent
            over = (slope > CURVATURE * start.abs()).nonzero().flatten()
            if len(over) == 0:
                break
            # Overshot: the secant between the last point before the minimum and this one.
            new = low[over] + (t[over] - low[over]) * low_slope[over].abs() / (low_slope[over].abs() + slope[over])
            t[over] = torch.maximum(new, 0.1 * t[over])
            z[:, over] = self.z[:, over] + t[over][:, None] * dz[:, over]
            absent = None if self.absent is None else self.absent[over]
            residual[:, over] = (probabilities(z[:, over], absent) - self.target[:, over]) * self.rows[:, over, None]
        self.direction = d * t[None, :, None]
        self.v = self.v + self.direction
        self.z, self.residual = z, residual


def _grams(x: Tensor, train: Tensor, local: Tensor) -> tuple[Tensor, Tensor]:
    """Gram matrices per row of weight [matrix, coordinate, coordinate] and which of them each column takes.

    One for all, unless training sets differ much in the variance of some feature (a few rows of massive activations,
    all in one fold): then one for each training set.
    """
    code, patterns = memberships(train)
    picked = [x[(code == p).nonzero().flatten()] for p in range(len(patterns))]
    parts = torch.stack([rows.T @ rows for rows in picked])
    sizes = torch.bincount(code, minlength=len(patterns)).to(x.dtype)
    member = patterns.to(x.dtype)
    each = torch.einsum("ps,pde->sde", member, parts) / (sizes @ member)[:, None, None]
    whole = parts.sum(dim=0) / len(x)
    ratio = each.diagonal(dim1=1, dim2=2) / whole.diagonal().clamp_min(1e-30)
    if bool(((ratio > 1 / UNEVEN) & (ratio < UNEVEN) | (whole.diagonal() == 0)).all()):
        return whole[None], torch.zeros_like(local)
    return each, local
