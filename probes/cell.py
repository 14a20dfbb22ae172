"""One cell of a grid: choose the regularisation on the training folds, fit, predict what was left out, score.

Labels are columns: column 0 is the real labelling, the rest are shuffles, fitted and scored the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from probes.discriminant import solve_discriminant
from probes.logistic import Columns, solve_logistic
from probes.plan import Plan
from probes.ridge import RidgeFit, solve_ridge
from probes.score import auc, class_sums, shuffled_scores, value_sums
from probes.space import Block, blocks

BATCH_BYTES = 256 * 2**20
"""Decision values solved at once; keeps the memory of token-level cells bounded."""


@dataclass(frozen=True)
class Directions:
    """The probes of a cell, for raw features: ``coef`` [fold, feature, output], ``intercept`` [fold, output]."""

    coef: NDArray[np.float32]
    intercept: NDArray[np.float64]


@dataclass(frozen=True)
class CellFit:
    """``sums`` [group, statistic]; ``null`` [shuffle] scores; ``decision`` [row, output] out of fold; ``chosen`` [fold]
    regularisation values; ``unconverged`` number of fits that met the iteration limit."""

    sums: NDArray[np.float64]
    null: NDArray[np.float64]
    auc: float
    decision: NDArray[np.float32]
    chosen: tuple[float, ...]
    unconverged: int
    directions: Directions | None = None


class _Work:
    """What fitting a cell has found so far."""

    def __init__(self, plan: Plan, keep_directions: bool) -> None:
        self.plan, self.t = plan, plan.tensors
        n, self.count = self.t.labels.shape
        self.choosers = self.count if plan.nested else 1
        shape = (self.choosers, plan.folds.k, len(plan.path))
        self.loss = torch.zeros(shape, dtype=torch.float64, device=plan.device)
        self.decision = torch.zeros(n, self.count, plan.outputs, dtype=plan.dtype, device=plan.device)
        self.directions: dict[int, tuple[Tensor, Tensor]] | None = {} if keep_directions else None
        self.unconverged = 0

    def choice(self) -> Int[Tensor, "label fold"]:
        """Index into the path for every labelling and fold; ties go to the stronger regularisation."""
        if len(self.plan.path) == 1:
            return torch.zeros(self.count, self.plan.folds.k, dtype=torch.int64, device=self.plan.device)
        return self.loss.argmin(dim=2).expand(self.count, -1)

    def validate(self, pair: int, c: int, label: int, decision: Float[Tensor, "row output"]) -> None:
        """Book what the fit that left out two folds loses on each of them."""
        a, b = self.plan.pairs[pair]
        for tested, validated in ((a, b), (b, a)):
            rows = self.t.tested[validated]
            self.loss[label, tested, c] += self.losses(decision[rows], rows, label, self.t.tested[tested])

    def losses(self, decision: Float[Tensor, "some output"], rows: Tensor, label: int, tested: Tensor) -> Tensor:
        """Summed log loss (balanced, if the fits are, by classes outside the tested fold) or squared error."""
        codes = self.t.codes
        if codes is None or self.plan.model == "ridge":
            each = ((self.coded(label)[rows] - decision) ** 2).sum(dim=1, dtype=torch.float64)
        else:
            code = codes[rows, label]
            if decision.shape[1] == 1:
                sign = 2.0 * code - 1
                each = torch.nn.functional.softplus(-sign * decision[:, 0].to(torch.float64))
            else:
                each = torch.nn.functional.cross_entropy(decision.to(torch.float64), code, reduction="none")
            if self.plan.balanced:
                classes = len(self.plan.classes)
                held = torch.bincount(codes[:, label], minlength=classes)
                held = held - torch.bincount(codes[tested, label], minlength=classes)
                each = each / held.clamp_min(1)[code]
        return (each if self.t.weights is None else each * self.t.weights[rows]).sum()

    def coded(self, label: int) -> Float[Tensor, "row output"]:
        """Targets of ridge: centred values, or +-1 for each class."""
        if self.t.codes is None:
            return (self.t.labels[:, label] - self.t.labels[:, 0].mean())[:, None].to(self.plan.dtype)
        code = self.t.codes[:, label]
        if self.plan.outputs == 1:
            return (2.0 * code - 1)[:, None].to(self.plan.dtype)
        return (2.0 * torch.nn.functional.one_hot(code, self.plan.outputs) - 1).to(self.plan.dtype)

    def keep(self, fold: int, label: int, decision: Float[Tensor, "row output"]) -> None:
        """Take what the probe of a fold says of the rows that fold left out."""
        rows = self.t.tested[fold]
        self.decision[rows, label] = decision[rows]


def fit_cell(x: Float[Tensor, "row feature"], plan: Plan, *, keep_directions: bool = False) -> CellFit:
    """Fit and score one cell. ``x`` holds raw features of the plan's rows, in its dtype and on its device."""
    work = _Work(plan, keep_directions)
    pairs = len(plan.pairs)
    kernel = False if plan.model == "means" else None
    for block in blocks(
        x, plan.tensors.train, standardise=plan.standardise, weights=plan.tensors.weights, kernel=kernel
    ):
        inner = tuple(s for s in block.sets if s < pairs)
        outer = tuple(s for s in block.sets if s >= pairs)
        fit = _iterative if plan.model == "logistic" else _closed_form
        if inner:
            fit(work, block.only(inner), inner=True)
        if outer:
            fit(work, block.only(outer), inner=False)
    return _score(work)


def _iterative(work: _Work, block: Block, *, inner: bool) -> None:
    """Logistic probes, as columns of batched solves."""
    plan, t, pairs = work.plan, work.t, len(work.plan.pairs)
    assert t.codes is not None
    if inner:
        todo = [(s, lab, c) for c in range(len(plan.path)) for s in block.sets for lab in range(work.choosers)]
    else:
        chosen = work.choice().tolist()
        todo = [(s, lab, chosen[lab][s - pairs]) for s in block.sets for lab in range(work.count)]
    size = max(1, BATCH_BYTES // (len(block.x) * plan.outputs * block.x.element_size()))
    for start in range(0, len(todo), size):
        part = todo[start : start + size]
        sets, labels, index = (torch.tensor(v, device=plan.device) for v in zip(*part, strict=True))
        columns = Columns(sets, labels, torch.tensor(plan.path, dtype=plan.dtype, device=plan.device)[index])
        fitted = solve_logistic(
            block,
            t.codes,
            t.train,
            columns,
            classes=len(plan.classes),
            weights=t.weights,
            class_weights=t.class_weights,
            tol=plan.tol,
        )
        work.unconverged += int((~fitted.converged).sum())
        for j, (s, lab, c) in enumerate(part):
            if inner:
                work.validate(s, c, lab, fitted.decision[:, j])
                continue
            work.keep(s - pairs, lab, fitted.decision[:, j])
            if lab == 0 and work.directions is not None:
                work.directions[s - pairs] = block.raw(fitted.coef[:, j], fitted.intercept[j])


def _closed_form(work: _Work, block: Block, *, inner: bool) -> None:
    """Ridge and discriminants: all penalties and labellings of a training set from its moments."""
    plan, t, pairs = work.plan, work.t, len(work.plan.pairs)
    count = work.choosers if inner else work.count
    path = torch.tensor(plan.path, dtype=torch.float64, device=plan.device)
    fitted: RidgeFit
    if plan.model == "ridge":
        targets = torch.cat([work.coded(lab) for lab in range(count)], dim=1)
        fitted = solve_ridge(block, targets, t.train, path, weights=t.weights)
    else:
        assert t.codes is not None
        fitted = solve_discriminant(
            block,
            t.codes[:, :count],
            t.train,
            path,
            classes=len(plan.classes),
            whiten=plan.model == "lda",
            equal_priors=plan.balanced or plan.model == "means",
            weights=t.weights,
        )
    decision = fitted.decision.unflatten(3, (count, plan.outputs))
    coef, intercept = (v.unflatten(-1, (count, plan.outputs)) for v in (fitted.coef, fitted.intercept))
    chosen = None if inner else work.choice().tolist()
    for i, s in enumerate(block.sets):
        for lab in range(count):
            if chosen is None:
                for c in range(len(plan.path)):
                    work.validate(s, c, lab, decision[:, i, c, lab])
                continue
            c = chosen[lab][s - pairs]
            shift = _shift(work, decision[:, i, c, lab], lab, s)
            work.keep(s - pairs, lab, decision[:, i, c, lab] + shift)
            if lab == 0 and work.directions is not None:
                work.directions[s - pairs] = block.raw(coef[:, i, c, lab], intercept[i, c, lab] + shift)


def _shift(work: _Work, decision: Tensor, label: int, s: int) -> Tensor:
    """What is added to ridge decisions: the mean that values were centred by; or, for balanced classes, minus the point
    half-way between the classes' mean decision on the training rows (the threshold if classes were equally
    frequent)."""
    plan, nothing = work.plan, torch.zeros((), dtype=decision.dtype, device=decision.device)
    if plan.model != "ridge":
        return nothing
    if work.t.codes is None:
        return work.t.labels[:, 0].mean().to(decision.dtype)
    if not plan.balanced:
        return nothing
    train, code = work.t.train[:, s], work.t.codes[:, label]
    weight = train.to(torch.float64) if work.t.weights is None else train * work.t.weights
    first, second = weight * (code == 0), weight * (code == 1)
    if not first.any() or not second.any():
        return nothing
    value = decision[:, 0].to(torch.float64)
    middle = (first @ value / first.sum() + second @ value / second.sum()) / 2
    return -middle.to(decision.dtype)


def _score(work: _Work) -> CellFit:
    plan = work.plan
    decision = work.decision.to(torch.float64).cpu().numpy()
    chosen = tuple(plan.path[int(i)] for i in work.choice()[0])
    group = plan.folds.group
    if plan.classification:
        predicted = predict(decision)
        labels = plan.y.astype(np.int64)
        sums = class_sums(predicted[:, 0], labels, group, len(plan.classes))
        area = auc(decision[:, 0], labels, plan.folds.fold, len(plan.classes))
        null = shuffled_scores(predicted[:, 1:].astype(np.float64), plan.shuffled, plan.score, len(plan.classes))
    else:
        sums, area = value_sums(decision[:, 0, 0], plan.y, group), float("nan")
        null = shuffled_scores(decision[:, 1:, 0], plan.shuffled, plan.score, 0)
    directions = None
    if work.directions is not None:
        parts = [work.directions[f] for f in range(plan.folds.k)]
        coef = torch.stack([p[0] for p in parts]).to(torch.float32).cpu().numpy()
        directions = Directions(coef, torch.stack([p[1] for p in parts]).to(torch.float64).cpu().numpy())
    return CellFit(sums, null, area, decision[:, 0].astype(np.float32), chosen, work.unconverged, directions)


def predict(decision: NDArray[np.float64]) -> NDArray[np.int64]:
    """Class numbers [...] from decision values [..., output]."""
    if decision.shape[-1] == 1:
        return (decision[..., 0] > 0).astype(np.int64)
    return np.asarray(decision.argmax(axis=-1), dtype=np.int64)
