"""Batched ridge regression in closed form: one Gram matrix for all folds, one Cholesky factor per fold and penalty.

Label sets (the real one, shuffles, classes coded +-1) are right-hand sides of the same factor, so a chance level costs
almost nothing. Minimises scikit-learn's objective ``|y - Xw - b|^2 + alpha |w|^2`` with a free intercept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probes.factor import Factors
from probes.space import Block, memberships


@dataclass(frozen=True)
class RidgeFit:
    """``decision`` [row, set, alpha, target] on all rows; ``coef`` [coordinate, set, alpha, target]; ``intercept``
    [set, alpha, target]. Sets in the order of ``block.sets``."""

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
    m = set_moments(block, targets.to(dtype), train, weights=weights)
    x_mean, y_mean = m.x_sum / m.mass[:, None], m.y_sum / m.mass[:, None]
    cross = m.cross - torch.einsum("sd,st,s->sdt", x_mean, y_mean, m.mass).to(dtype)
    coef = torch.stack([solve_sets(m, block, alpha.expand(len(m.mass)), cross) for alpha in alphas], dim=2)
    coef = coef.movedim(0, 1)  # [coordinate, set, alpha, target]
    intercept = (y_mean[:, None, :] - torch.einsum("sd,dsat->sat", x_mean, coef.to(torch.float64))).to(dtype)
    decision = (block.x @ coef.flatten(1)).view(len(block.x), *coef.shape[1:]) + intercept
    return RidgeFit(decision, coef, intercept)


@dataclass(frozen=True)
class Moments:
    """Sums over each training set: weights, features, targets, products. ``gram`` is centred at the set's mean,
    ``cross`` is not; both are 0 where a feature is constant in the set."""

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
    dtype, device = block.x.dtype, block.x.device
    code, member = memberships(train[:, list(block.sets)])
    d, sets = block.x.shape[1], len(block.sets)
    grams, crosses, masses, x_sums, y_sums = [], [], [], [], []
    for p in range(len(member)):
        rows = (code == p).nonzero().flatten()
        x, y = block.x[rows], targets[rows]
        w = torch.ones(len(x), dtype=dtype, device=device) if weights is None else weights[rows].to(dtype)
        wx = x if weights is None else x * w[:, None]
        if gram:
            grams.append(wx.T @ x)
        crosses.append(wx.T @ y)
        masses.append(w.sum(dtype=torch.float64))
        x_sums.append(wx.sum(dim=0, dtype=torch.float64))
        y_sums.append((y * w[:, None]).sum(dim=0, dtype=torch.float64))
    # Every training set that holds these rows takes their share.
    takes = member.T.to(dtype)
    products = (takes @ torch.stack(grams).flatten(1)).view(sets, d, d) if gram else None
    cross = (takes @ torch.stack(crosses).flatten(1)).view(sets, d, -1)
    exact = takes.to(torch.float64)
    mass, x_sum, y_sum = exact @ torch.stack(masses), exact @ torch.stack(x_sums), exact @ torch.stack(y_sums)
    if products is not None:
        mean = x_sum / mass[:, None]
        root = (mean * mass.sqrt()[:, None]).to(dtype)
        products = torch.baddbmm(products, root[:, :, None], root[:, None, :], alpha=-1)
    if block.alive is not None:
        alive = block.alive.T.to(dtype)
        cross *= alive[:, :, None]
        x_sum *= alive
        if products is not None:
            products *= alive[:, :, None] * alive[:, None, :]
    return Moments(mass, x_sum, y_sum, cross, products)


def solve_sets(
    m: Moments, block: Block, alpha: Float[Tensor, " set"], cross: Float[Tensor, "set coordinate target"]
) -> Float[Tensor, "set coordinate target"]:
    """``(gram + alpha penalty)^-1 cross`` of every set."""
    assert m.gram is not None
    system = m.gram.clone()
    system.diagonal(dim1=1, dim2=2).add_(alpha.to(system.dtype)[:, None] * block.penalty.T)
    factors = Factors.of(system)
    out = factors.solve(cross.transpose(1, 2).clone(memory_format=torch.contiguous_format)).transpose(1, 2)
    for s in factors.failed.nonzero().flatten().tolist():  # rounding made the system indefinite: by eigenvalues
        own = m.gram[s] + torch.diag(alpha[s].to(system.dtype) * block.penalty[:, s])
        values, vectors = torch.linalg.eigh(own)
        keep = values > len(values) * torch.finfo(values.dtype).eps * values[-1]
        turned = vectors[:, keep]
        out[s] = turned @ ((turned.T @ cross[s]) / values[keep][:, None])
    return out
