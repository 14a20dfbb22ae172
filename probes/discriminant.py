"""Linear discriminants in closed form: LDA with ridge shrinkage, and the plain difference of class means.

LDA needs the inverse of the within-class covariance of every labelling. That is the total covariance, which labels do
not touch, less a part of rank "classes": so one Cholesky factor per training set and penalty serves all shuffles, by
Woodbury.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.ridge import RidgeFit, set_moments, solve_sets
from probes.space import Block


def solve_discriminant(
    block: Block,
    labels: Int[Tensor, "row label"],
    train: Bool[Tensor, "row set"],
    alphas: Float[Tensor, " alpha"],
    *,
    classes: int,
    whiten: bool,
    equal_priors: bool,
    weights: Float[Tensor, " row"] | None = None,
) -> RidgeFit:
    """Fit every (training set of the block, alpha, labelling).

    With ``whiten`` (LDA), class scores are log posteriors of normals with covariance S + alpha I, S the within-class
    covariance divided by the rows (of standardised features, if the block's are); without, alpha is not used and S is
    I: the direction is the difference of means, the threshold midway. A class absent from training is never predicted.

    Returns:
        As `solve_ridge`, with targets = labellings x outputs (one output if binary, else one a class), outputs fastest.
    """
    dtype, device = block.x.dtype, block.x.device
    count, d, sets = labels.shape[1], block.x.shape[1], len(block.sets)
    member = torch.nn.functional.one_hot(labels, classes).flatten(1).to(dtype)  # [row, label * class]
    m = set_moments(block, member, train, weights=weights, gram=whiten)
    mass = m.y_sum.unflatten(1, (count, classes))  # rows of each class [set, label, class]
    present = mass > 0
    mean = m.cross.unflatten(2, (count, classes)) / mass.clamp_min(1e-12)[:, None].to(dtype)  # [set, d, label, class]
    prior = mass / m.mass[:, None, None]
    centre = (m.x_sum / m.mass[:, None]).to(dtype)[:, :, None, None]
    share = torch.where(present, 1 / present.sum(dim=-1, keepdim=True), 0.0) if equal_priors else prior
    log_prior = torch.where(present, share.clamp_min(1e-300).log(), -torch.inf)
    offset = (mean - centre) * present[:, None].to(dtype)
    steps = range(len(alphas)) if whiten else range(1)
    coef = torch.empty(d, sets, len(steps), count, classes, dtype=dtype, device=device)
    if whiten:
        # alpha is per row here, so that S + alpha I does not depend on how many rows there are.
        solutions = solve_sets(m, block, alphas * m.mass[:, None], offset.flatten(2))
    for a in steps:
        if not whiten:
            solved = offset / block.penalty.T[:, :, None, None]
            if block.alive is not None:
                solved = solved * block.alive.T[:, :, None, None].to(dtype)
        else:
            solved = solutions[:, a].mT.unflatten(2, (count, classes)) * m.mass.to(dtype)[:, None, None, None]
            # (T - D P D')^-1 D = T^-1 D (I - P D' T^-1 D)^-1, with T total, D offsets, P priors.
            inner = torch.einsum("sdlk,sdlj->slkj", offset, solved) * prior.to(dtype)[..., None]
            eye = torch.eye(classes, dtype=dtype, device=device)
            solved = torch.einsum("sdlk,slkj->sdlj", solved, torch.linalg.inv(eye - inner))
        coef[:, :, a] = solved.movedim(0, 1)
    half = (
        mean * present[:, None].to(dtype) + centre
    ) / 2  # score_k = w_k (x - centre) - w_k (mean_k - centre) / 2 + log prior
    intercept = -torch.einsum("sdlk,dsalk->salk", half, coef) + log_prior[:, None].clamp_min(-30.0).to(dtype)
    if classes == 2:
        coef, intercept = coef[..., 1:] - coef[..., :1], intercept[..., 1:] - intercept[..., :1]
    return RidgeFit(block, coef.flatten(3).permute(1, 2, 3, 0), intercept.flatten(2))
