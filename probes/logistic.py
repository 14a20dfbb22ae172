"""Logistic regression of many fits at once: every fold, regularisation value and label set of a cell, and several
cells.

Minimises, for each, scikit-learn's objective ``C * sum_i w_i loss_i + |coef|^2 / 2`` with a free intercept, exactly.
This file puts weights, classes and training sets in order; `probes.minimise` does the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.factor import products
from probes.features import Features
from probes.forms import Form
from probes.kernels import Kernels
from probes.minimise import Loss, minimise
from probes.shares import shares
from probes.space import Block

UNEVEN = 2.0  # training sets whose variances differ by more from the whole get a Gram matrix of their own


@dataclass(frozen=True)
class Columns:
    """The fits of one solve: which training set, which labels and which C each column has. All [column]."""

    set: Int[Tensor, " column"]
    label: Int[Tensor, " column"]
    c: Float[Tensor, " column"]

    def __len__(self) -> int:
        return len(self.c)


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


def solve_logistic(
    parts: Sequence[Block],
    labels: Int[Tensor, "row label"],
    train: Bool[Tensor, "row set"],
    columns: Sequence[Columns],
    *,
    classes: int,
    weights: Float[Tensor, " row"] | None = None,
    class_weights: Float[Tensor, "set label klass"] | None = None,
    tol: float = 1e-4,
    max_iter: int = 300,
) -> list[Fitted]:
    """Fit the columns of several blocks at once; each block has as many, with the same labels.

    A training set that lacks classes gives a probe that never predicts them; one with a single class gives the constant
    probe (zero coefficients, an intercept of +-30).

    Args:
        labels: class numbers ``0..classes-1``, one column per labelling (the real one, shuffles).
        train: the whole mask; ``Columns.set`` numbers its columns.
        weights: row weights, as ``sample_weight``.
        class_weights: per training set and labelling, from `balance`.
        tol, max_iter: as in `probes.minimise.minimise`.
    """
    outputs = 1 if classes == 2 else classes
    dtype = parts[0].x.dtype
    label = columns[0].label
    if any(not torch.equal(part.label, label) for part in columns):
        raise ValueError("all blocks need the same labels, column by column")
    alike = all(torch.equal(part.set, columns[0].set) for part in columns)
    c = torch.stack([part.c for part in columns])  # [block, column]
    counts = class_counts(labels, train, classes)
    held = torch.stack([counts[part.set, label] for part in columns])  # [block, column, class]
    code = labels.T[label]  # [column, row]
    rows = torch.stack([train.T[part.set].to(dtype) for part in columns[: 1 if alike else None]])
    if weights is not None:
        rows = rows * weights.to(dtype)
    if class_weights is not None:
        scale = [class_weights[part.set, label].to(dtype).gather(1, code) for part in columns[: len(rows)]]
        rows = rows * torch.stack(scale)
    single = (held > 0).sum(dim=-1) < 2  # [block, column]
    strength = c * ~single
    shared = len(rows) == 1 and bool((strength == strength[:1]).all())
    rows = rows * (strength[:1] if shared else strength)[..., None]
    if outputs == 1:
        target, absent = code.to(dtype)[None], None
    else:
        target = torch.nn.functional.one_hot(code, classes).to(dtype).movedim(2, 1).flatten(0, 1)[None]
        absent = torch.where(held > 0, 0.0, -1e9).to(dtype).flatten(1)
        absent = absent if bool((absent < 0).any()) else None
    make = _features if parts[0].kernels is None else _kernels
    found = minimise(make(parts, columns, c, outputs, train), Loss(rows, target, absent), tol=tol, max_iter=max_iter)
    out = []
    for i, part in enumerate(parts):
        coef, decision = (value[i].unflatten(0, (-1, outputs)).movedim(2, 0) for value in (found.v, found.z))
        intercept = coef[-1].clone()
        if outputs > 1 and absent is not None:
            unseen = held[i] == 0
            intercept[unseen] = -30.0
            decision = torch.where(unseen, torch.full_like(decision, -30.0), decision)
        if bool(single[i].any()):
            only = held[i][single[i]].argmax(dim=-1)
            value = (2.0 * only[:, None] - 1) if outputs == 1 else torch.nn.functional.one_hot(only, classes) * 2.0 - 1
            intercept[single[i]] = 30 * value.to(dtype)
            decision = decision.clone()
            decision[:, single[i]] = 30 * value.to(dtype)
        size = part.x.shape[1] if part.kernels is None else len(part.x)
        out.append(Fitted(decision, coef[:size], intercept, found.converged[i] | single[i], found.iterations))
    return out


def _features(parts: Sequence[Block], columns: Sequence[Columns], c: Tensor, outputs: int, train: Tensor) -> Form:
    """Coordinates with an intercept [block, row, coordinate + 1], penalties and what may differ from 0 [block, column,
    coordinate + 1]; blocks of fewer coordinates are padded with zeros."""
    width, first = max(part.x.shape[1] for part in parts), parts[0].x
    x = torch.zeros(len(parts), len(first), width + 1, dtype=first.dtype, device=first.device)
    x[:, :, -1] = 1
    penalty = torch.ones(len(parts), len(columns[0]), width + 1, dtype=first.dtype, device=first.device)
    penalty[:, :, -1] = 0
    alive = torch.ones_like(penalty) if any(part.alive is not None for part in parts) else None
    for i, (part, column) in enumerate(zip(parts, columns, strict=True)):
        size = part.x.shape[1]
        local = part.place(column.set)
        x[i, :, :size] = part.x
        penalty[i, :, :size] = part.penalty.T[local]
        if alive is not None and part.alive is not None:
            alive[i, :, :size] = part.alive.T[local].to(first.dtype)
    return Features(x, penalty, c, outputs, *_grams(x, train, parts, columns), alive)


def _kernels(parts: Sequence[Block], columns: Sequence[Columns], c: Tensor, outputs: int, train: Tensor) -> Form:
    """Kernels [block, set, row, row]; columns must come set by set."""
    which = parts[0].place(columns[0].set)
    if any(part.sets != parts[0].sets for part in parts) or bool((which.diff() < 0).any()):
        raise ValueError("kernel blocks need the same training sets, and columns in their order")
    kernels = torch.stack([part.kernels for part in parts if part.kernels is not None])
    penalty = torch.stack([part.penalty for part in parts])
    ratio = penalty / penalty.mean(dim=2, keepdim=True)
    own = train[:, list(parts[0].sets)].T
    return Kernels(kernels, c, outputs, which, own, uneven=bool((ratio > UNEVEN).any() | (ratio < 1 / UNEVEN).any()))


def _grams(x: Tensor, train: Tensor, parts: Sequence[Block], columns: Sequence[Columns]) -> tuple[Tensor, Tensor]:
    """Gram matrices per row [block, matrix, coordinate, coordinate] and which of them each column takes. Below their
    diagonal they are not filled.

    Blocks of one training set: of its rows. Otherwise one of all rows, unless training sets differ much in the variance
    of some feature (a few rows of massive activations, all in one fold): then one for each training set.
    """
    sets = parts[0].sets
    one = torch.zeros(len(columns[0]), dtype=torch.int64, device=x.device)
    if len(sets) == 1:
        mask = torch.stack([train[:, part.sets[0]] for part in parts]).to(x.dtype)
        grams = products(list(x * mask[:, :, None]))
        return (grams / mask.sum(dim=1)[:, None, None])[:, None], one
    held = shares(train[:, list(sets)])
    member, onehot = held.member.to(x.dtype), held.onehot.to(x.dtype)
    sizes = onehot.sum(dim=1)
    squares = onehot @ x.square()  # [block, share, coordinate]
    each = torch.einsum("ps,bpd->bsd", member, squares) / (sizes @ member)[None, :, None]
    ratio = each / (squares.sum(dim=1, keepdim=True) / x.shape[1]).clamp_min(1e-30)
    if bool(((ratio > 1 / UNEVEN) & (ratio < UNEVEN) | (squares.sum(dim=1, keepdim=True) == 0)).all()):
        return (products(list(x)) / x.shape[1])[:, None], one
    each_share = torch.stack([products(list(x.index_select(1, rows))) for rows in held.rows], dim=1)
    grams = torch.einsum("ps,bpde->bsde", member, each_share) / (sizes @ member)[None, :, None, None]
    return grams, parts[0].place(columns[0].set)
