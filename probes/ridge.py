"""Batched ridge regression in closed form: one Gram matrix for all folds, one Cholesky factor per fold and penalty.

Label sets (the real one, shuffles, classes coded +-1) are right-hand sides of the same factor, so a chance level costs
almost nothing. Minimises scikit-learn's objective ``|y - Xw - b|^2 + alpha |w|^2`` with a free intercept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probes.factor import mirrored, products, solve_shifted
from probes.space import Block, shares


@dataclass(frozen=True)
class RidgeFit:
    """``decision`` [row, set, alpha, target] on all rows; ``coef`` [coordinate, set, alpha, target]; ``intercept``
    [set, alpha, target]. Sets in the order of ``block.sets``. Where the block holds kernels, coordinates are rows."""

    decision: Float[Tensor, "row set alpha target"]
    coef: Float[Tensor, "coordinate set alpha target"]
    intercept: Float[Tensor, "set alpha target"]


def solve_ridge(
    block: Block,
    targets: Float[Tensor, "row target"],
    train: Bool[Tensor, "row set"],
    alphas: Float[Tensor, " alpha"],
    *,
    weights: Float[Tensor, " row"] | None = None,
) -> RidgeFit:
    """Fit every (training set of the block, alpha, target).

    Args:
        targets: [row, target]; values to regress on, one column each.
        train: the whole mask [row, set]; the block's own columns are used.
        weights: row weights, as ``sample_weight``.
    """
    dtype = block.x.dtype
    targets = targets.to(dtype)
    if block.kernels is not None:
        return _solve_rows(block, block.kernels, targets, train, alphas.to(dtype), weights)
    m = set_moments(block, targets, train, weights=weights)
    x_mean, y_mean = m.x_sum / m.mass[:, None], m.y_sum / m.mass[:, None]
    cross = m.cross - (x_mean[:, :, None] * m.y_sum[:, None]).to(dtype)
    solved = solve_sets(m, block, alphas.expand(len(m.mass), -1), cross)
    intercept = y_mean[:, None] - torch.einsum("sd,satd->sat", x_mean, solved.to(torch.float64))
    return _fit(block.x, solved, intercept.to(dtype))


def _fit(x: Tensor, solved: Float[Tensor, "set alpha target coordinate"], intercept: Tensor) -> RidgeFit:
    decision = (solved.flatten(0, 2) @ x.T).view(*intercept.shape, len(x)).add_(intercept[..., None])
    return RidgeFit(decision.movedim(3, 0), solved.movedim(3, 0), intercept)


def _solve_rows(
    block: Block, kernels: Tensor, targets: Tensor, train: Tensor, alphas: Tensor, weights: Tensor | None
) -> RidgeFit:
    """Coefficients of rows, from products of rows: with W the weights and K the products of centred training rows,
    ``a = W^1/2 (W^1/2 K W^1/2 + alpha)^-1 W^1/2 (y - mean)``. They sum to 0, so centring is left out of decisions."""
    root = torch.ones(len(targets), dtype=targets.dtype, device=targets.device)
    root = root if weights is None else weights.to(targets.dtype).sqrt()
    coefs, decisions, intercepts = [], [], []
    for s, kernel in zip(block.sets, kernels, strict=True):
        rows = train[:, s].nonzero().flatten()
        own, y, across = root[rows], targets[rows], kernel.index_select(0, rows)
        share = own.square() / own.square().sum()
        y_mean, inside = share @ y, across.index_select(1, rows)
        middle = inside @ share
        inside = (inside - middle).sub_((middle - share @ middle)[:, None])
        if weights is not None:
            inside = inside * own * own[:, None]
        shift = alphas[:, None].expand(-1, len(rows))
        found = _solve(inside[None], shift[None], ((y - y_mean) * own[:, None]).T[None])[0] * own
        found = found - found.sum(dim=-1, keepdim=True) * share  # 0 but for rounding, which decisions would magnify
        reached = found @ across  # [alpha, target, row]
        intercept = y_mean - reached.index_select(2, rows) @ share
        coef = reached.new_zeros(reached.shape)
        coef[..., rows] = found
        coefs.append(coef)
        decisions.append(reached + intercept[..., None])
        intercepts.append(intercept)
    coef, decision = (torch.stack(part).movedim(3, 0) for part in (coefs, decisions))
    return RidgeFit(decision, coef, torch.stack(intercepts))


@dataclass(frozen=True)
class Moments:
    """Sums over each training set: weights, features, targets, products. ``gram`` is centred at the set's mean and
    filled from the diagonal up, ``cross`` is not centred; both are 0 where a feature is constant in the set."""

    mass: Float[Tensor, " set"]
    x_sum: Float[Tensor, "set coordinate"]
    y_sum: Float[Tensor, "set target"]
    cross: Float[Tensor, "set coordinate target"]
    gram: Float[Tensor, "set coordinate coordinate"] | None


def set_moments(
    block: Block,
    targets: Float[Tensor, "row target"],
    train: Bool[Tensor, "row set"],
    *,
    weights: Float[Tensor, " row"] | None = None,
    gram: bool = True,
) -> Moments:
    """Moments of every training set of the block, each fold summed once."""
    dtype = block.x.dtype
    held = shares(train[:, list(block.sets)])
    d, sets = block.x.shape[1], len(block.sets)
    root = None if weights is None else weights.to(dtype).sqrt()[:, None]
    y = torch.cat([targets, torch.ones_like(targets[:, :1])], dim=1)  # the last: sums of rows themselves
    xs, crosses, sums = [], [], []
    for rows in held.rows:
        x, yp = block.x.index_select(0, rows), y.index_select(0, rows)
        if root is not None:
            x, yp = x * root[rows], yp * root[rows]
        xs.append(x)
        crosses.append(yp.T @ x)  # the few first: the other way round takes six times as long
        sums.append((yp * yp[:, -1:]).sum(dim=0, dtype=torch.float64))
    # Every training set that holds these rows takes their share.
    takes = held.member.T.to(dtype)
    grams = (takes @ products(xs).flatten(1)).view(sets, d, d) if gram else None
    cross = (takes @ torch.stack(crosses).flatten(1)).view(sets, -1, d)
    y_sum = takes.to(torch.float64) @ torch.stack(sums)
    mass, y_sum, x_sum, cross = y_sum[:, -1], y_sum[:, :-1], cross[:, -1].to(torch.float64), cross[:, :-1].mT
    if grams is not None:
        mean = (x_sum / mass.sqrt()[:, None]).to(dtype)
        grams = grams.baddbmm_(mean[:, :, None], mean[:, None, :], alpha=-1)
    if block.alive is not None:
        alive = block.alive.T.to(dtype)
        cross, x_sum = cross * alive[:, :, None], x_sum * alive
        if grams is not None:
            grams *= alive[:, :, None] * alive[:, None, :]
    return Moments(mass, x_sum, y_sum, cross, grams)


def solve_sets(
    m: Moments, block: Block, alphas: Float[Tensor, "set alpha"], cross: Float[Tensor, "set coordinate target"]
) -> Float[Tensor, "set alpha target coordinate"]:
    """``(gram + alpha penalty)^-1 cross`` of every set and alpha."""
    assert m.gram is not None
    return _solve(m.gram, alphas.to(cross.dtype)[:, :, None] * block.penalty.T[:, None], cross.mT)


def _solve(
    matrix: Float[Tensor, "set size size"],
    shift: Float[Tensor, "set alpha size"],
    rows: Float[Tensor, "set target size"],
) -> Float[Tensor, "set alpha target size"]:
    out, failed = solve_shifted(matrix, shift, rows)
    for s, a in failed.nonzero().tolist():  # rounding made the sum indefinite: by eigenvalues
        values, vectors = torch.linalg.eigh(mirrored(matrix[s]) + torch.diag(shift[s, a]))
        keep = values > len(values) * torch.finfo(values.dtype).eps * values[-1]
        turned = vectors[:, keep]
        out[s, a] = (rows[s] @ turned / values[keep]) @ turned.T
    return out
