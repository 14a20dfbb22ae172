"""Batched ridge regression in closed form: one Gram matrix for all folds, one Cholesky factor per fold and penalty.

Label sets (the real one, shuffles, classes coded +-1) are right-hand sides of the same factor, so a chance level costs
almost nothing. Minimises scikit-learn's objective ``|y - Xw - b|^2 + alpha |w|^2`` with a free intercept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probes.space import Block


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
    member = train[:, list(block.sets)]
    patterns, code = torch.unique(member, dim=0, return_inverse=True)
    d, t = block.x.shape[1], targets.shape[1]
    sets = len(block.sets)
    gram = torch.zeros(sets, d, d, dtype=dtype, device=block.x.device)
    cross = torch.zeros(sets, d, t, dtype=dtype, device=block.x.device)
    mass = torch.zeros(sets, dtype=torch.float64, device=block.x.device)
    x_sum = torch.zeros(sets, d, dtype=torch.float64, device=block.x.device)
    y_sum = torch.zeros(sets, t, dtype=torch.float64, device=block.x.device)
    targets = targets.to(dtype)
    for p, pattern in enumerate(patterns):
        if not pattern.any():
            continue
        rows = code == p
        x, y = block.x[rows], targets[rows]
        w = torch.ones(len(x), dtype=dtype, device=x.device) if weights is None else weights[rows].to(dtype)
        wx = x * w[:, None]
        part, side = wx.T @ x, wx.T @ y
        # Every training set that holds these rows takes their share.
        gram[pattern] += part
        cross[pattern] += side
        mass[pattern] += w.sum(dtype=torch.float64)
        x_sum[pattern] += wx.sum(dim=0, dtype=torch.float64)
        y_sum[pattern] += (y * w[:, None]).sum(dim=0, dtype=torch.float64)
    x_mean, y_mean = x_sum / mass[:, None], y_sum / mass[:, None]
    gram -= torch.einsum("sd,se,s->sde", x_mean, x_mean, mass).to(dtype)
    cross -= torch.einsum("sd,st,s->sdt", x_mean, y_mean, mass).to(dtype)
    if block.alive is not None:
        alive = block.alive.T.to(dtype)
        gram *= alive[:, :, None] * alive[:, None, :]
        cross *= alive[:, :, None]
    coef = torch.empty(d, sets, len(alphas), t, dtype=dtype, device=block.x.device)
    penalty = block.penalty.T  # [set, coordinate]
    for a, alpha in enumerate(alphas):
        system = gram.clone()
        system.diagonal(dim1=1, dim2=2).add_(float(alpha) * penalty)
        coef[:, :, a] = _solve(system, cross)
    intercept = (y_mean[:, None, :] - torch.einsum("sd,dsat->sat", x_mean, coef.to(torch.float64))).to(dtype)
    decision = (block.x @ coef.flatten(1)).view(len(block.x), *coef.shape[1:]) + intercept
    return RidgeFit(decision, coef, intercept)


def _solve(system: Tensor, cross: Tensor) -> Tensor:
    """Coefficients [coordinate, set, target]; where rounding makes a system indefinite, by eigenvalues instead."""
    factor, info = torch.linalg.cholesky_ex(system)
    out = torch.cholesky_solve(cross, factor)
    for s in info.nonzero().flatten().tolist():
        values, vectors = torch.linalg.eigh(system[s])
        keep = values > len(values) * torch.finfo(values.dtype).eps * values[-1]
        turned = vectors[:, keep]
        out[s] = turned @ ((turned.T @ cross[s]) / values[keep][:, None])
    return out.movedim(0, 1)
