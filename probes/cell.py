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

from probes.logistic import Columns, Fitted, balance, solve_logistic
from probes.plan import Plan
from probes.ridge import solve_ridge
from probes.score import auc, class_sums, shuffled_scores, value_sums
from probes.space import Block, blocks

BATCH_BYTES = 256 * 2**20
"""Decision values solved at once; keeps the memory of token-level cells bounded."""


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


class _Work:
    """The state of fitting one cell."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        device = plan.device
        self.train = torch.from_numpy(plan.train()).to(device)
        self.fold = torch.from_numpy(plan.folds.fold).to(device)
        labels = np.concatenate([plan.y[:, None], plan.shuffled], axis=1)
        self.labels = torch.from_numpy(labels).to(device)
        if plan.classification:
            self.codes = self.labels.to(torch.int64)
            self.outputs = 1 if len(plan.classes) == 2 else len(plan.classes)
            self.class_weights = balance(self.codes, self.train, len(plan.classes)) if plan.balanced else None
        else:
            self.outputs, self.class_weights = 1, None
        n, count = labels.shape
        self.choosers = count if plan.nested else 1
        self.loss = torch.zeros(self.choosers, plan.folds.k, len(plan.path), dtype=torch.float64, device=device)
        self.decision = torch.zeros(n, count, self.outputs, dtype=plan.dtype, device=device)
        self.unconverged = 0

    def choice(self) -> Int[Tensor, "label fold"]:
        """Index into the path for every labelling and fold; ties go to the stronger regularisation."""
        if len(self.plan.path) == 1:
            return torch.zeros(self.labels.shape[1], self.plan.folds.k, dtype=torch.int64, device=self.plan.device)
        return self.loss.argmin(dim=2).expand(self.labels.shape[1], -1)

    def validate(self, pair: int, c: int, label: int, decision: Float[Tensor, "row output"]) -> None:
        """Book what the fit that left out two folds loses on each of them."""
        a, b = self.plan.pairs[pair]
        for tested, validated in ((a, b), (b, a)):
            rows = self.fold == validated
            self.loss[label, tested, c] += self.losses(decision[rows], rows, label, tested)

    def losses(self, decision: Float[Tensor, "some output"], rows: Tensor, label: int, tested: int) -> Tensor:
        """Summed log loss (balanced, if the fits are, by classes outside the tested fold) or squared error."""
        if not self.plan.classification or self.plan.model == "ridge":
            return ((self.coded(label)[rows] - decision) ** 2).sum(dtype=torch.float64)
        code = self.codes[rows, label]
        if self.outputs == 1:
            sign = 2.0 * code - 1
            each = torch.nn.functional.softplus(-sign * decision[:, 0].to(torch.float64))
        else:
            each = torch.nn.functional.cross_entropy(decision.to(torch.float64), code, reduction="none")
        if self.plan.balanced:
            outside = self.codes[self.fold != tested, label]
            share = torch.bincount(outside, minlength=len(self.plan.classes)).to(torch.float64)
            each = each / share.clamp_min(1)[code]
        return each.sum()

    def coded(self, label: int) -> Float[Tensor, "row output"]:
        """Targets of ridge: centred values, or +-1 for each class."""
        if not self.plan.classification:
            return (self.labels[:, label] - self.labels[:, 0].mean())[:, None].to(self.plan.dtype)
        code = self.codes[:, label]
        if self.outputs == 1:
            return (2.0 * code - 1)[:, None].to(self.plan.dtype)
        return (2.0 * torch.nn.functional.one_hot(code, self.outputs) - 1).to(self.plan.dtype)

    def keep(self, fold: int, label: int, decision: Float[Tensor, "row output"]) -> None:
        rows = self.fold == fold
        self.decision[rows, label] = decision[rows]


def fit_cell(x: Float[Tensor, "row feature"], plan: Plan) -> CellFit:
    """Fit and score one cell. ``x`` holds raw features of the plan's rows, in its dtype and on its device."""
    work = _Work(plan)
    pairs = len(plan.pairs)
    for block in blocks(x, work.train, standardise=plan.standardise):
        inner = tuple(s for s in block.sets if s < pairs)
        outer = tuple(s for s in block.sets if s >= pairs)
        fit = _logistic if plan.model == "logistic" else _ridge
        if inner:
            fit(work, block.only(inner), inner=True)
        if outer:
            fit(work, block.only(outer), inner=False)
    return _score(work)


def _logistic(work: _Work, block: Block, *, inner: bool) -> None:
    plan, pairs = work.plan, len(work.plan.pairs)
    if inner:
        todo = [(s, lab, c) for c in range(len(plan.path)) for s in block.sets for lab in range(work.choosers)]
    else:
        chosen = work.choice()
        todo = [(s, lab, int(chosen[lab, s - pairs])) for s in block.sets for lab in range(work.labels.shape[1])]
    size = max(1, BATCH_BYTES // (len(block.x) * work.outputs * block.x.element_size()))
    for start in range(0, len(todo), size):
        part = todo[start : start + size]
        sets, labels, index = (torch.tensor(v, device=plan.device) for v in zip(*part, strict=True))
        values = torch.tensor(plan.path, dtype=plan.dtype, device=plan.device)[index]
        fitted: Fitted = solve_logistic(
            block, work.codes, work.train, Columns(sets, labels, values),
            classes=len(plan.classes), class_weights=work.class_weights, tol=plan.tol,
        )  # fmt: skip
        work.unconverged += int((~fitted.converged).sum())
        for j, (s, lab, c) in enumerate(part):
            if inner:
                work.validate(s, c, lab, fitted.decision[:, j])
            else:
                work.keep(s - pairs, lab, fitted.decision[:, j])


def _ridge(work: _Work, block: Block, *, inner: bool) -> None:
    plan, pairs = work.plan, len(work.plan.pairs)
    count = work.choosers if inner else work.labels.shape[1]
    targets = torch.cat([work.coded(lab) for lab in range(count)], dim=1)
    fitted = solve_ridge(block, targets, work.train, torch.tensor(plan.path, dtype=torch.float64))
    decision = fitted.decision.unflatten(3, (count, work.outputs))
    chosen = None if inner else work.choice()
    for i, s in enumerate(block.sets):
        for lab in range(count):
            if chosen is None:
                for c in range(len(plan.path)):
                    work.validate(s, c, lab, decision[:, i, c, lab])
            else:
                out = decision[:, i, int(chosen[lab, s - pairs]), lab]
                if plan.balanced:
                    out = out - _midpoint(out, work.codes[:, lab], work.train[:, s])
                elif not plan.classification:
                    out = out + work.labels[:, 0].mean().to(out.dtype)
                work.keep(s - pairs, lab, out)


def _midpoint(decision: Tensor, code: Tensor, train: Tensor) -> Tensor:
    """Half-way between the two classes' mean decision on the training rows: the threshold if classes were as
    frequent."""
    means = [decision[train & (code == k)].mean() if bool((train & (code == k)).any()) else None for k in (0, 1)]
    if means[0] is None or means[1] is None:
        return torch.zeros((), dtype=decision.dtype, device=decision.device)
    return (means[0] + means[1]) / 2


def _score(work: _Work) -> CellFit:
    plan = work.plan
    decision = work.decision.to(torch.float64).cpu().numpy()
    chosen = tuple(plan.path[int(i)] for i in work.choice()[0])
    group = plan.folds.group
    if plan.classification:
        predicted = (decision[..., 0] > 0).astype(np.int64) if work.outputs == 1 else decision.argmax(axis=-1)
        labels = plan.y.astype(np.int64)
        sums = class_sums(predicted[:, 0], labels, group, len(plan.classes))
        area = auc(decision[:, 0], labels, plan.folds.fold, len(plan.classes))
        null = shuffled_scores(predicted[:, 1:].astype(np.float64), plan.shuffled, plan.score, len(plan.classes))
    else:
        sums, area = value_sums(decision[:, 0, 0], plan.y, group), float("nan")
        null = shuffled_scores(decision[:, 1:, 0], plan.shuffled, plan.score, 0)
    return CellFit(sums, null, area, decision[:, 0].astype(np.float32), chosen, work.unconverged)
