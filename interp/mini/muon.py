"""Muon for the block matrices, AdamW for everything else.

Muon (Jordan et al. 2024): the momentum of each matrix is replaced by its nearest semi-orthogonal matrix, found by four
Newton-Schulz iterations, here batched over matrices of one shape.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(stack: Float[Tensor, "matrix row col"], iterations: int = 4) -> Float[Tensor, "matrix row col"]:
    """Nearest semi-orthogonal matrices, approximately: [matrix, row, col] to the same shape."""
    a, b, c = _COEFFICIENTS
    wide = stack.shape[1] > stack.shape[2]
    x = stack.mT if wide else stack
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x.mT @ x
        x = a * x + x @ (b * gram + c * (gram @ gram))
    return x.mT if wide else x


class Optimizer:
    """Both optimisers behind one step; ``state_dict`` covers both."""

    def __init__(self, model: nn.Module, muon_lr: float, adam_lr: float) -> None:
        self.muon_lr, self.adam_lr = muon_lr, adam_lr
        matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and n.startswith("blocks.")]
        chosen = {id(p) for p in matrices}
        self.rest = [p for p in model.parameters() if id(p) not in chosen]
        self.groups: dict[tuple[int, ...], list[nn.Parameter]] = {}
        for p in matrices:
            self.groups.setdefault(tuple(p.shape), []).append(p)
        self.momentum = {shape: torch.zeros(len(ps), *shape, device=ps[0].device) for shape, ps in self.groups.items()}
        self.adam = torch.optim.AdamW(self.rest, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0, foreach=True)

    @torch.no_grad()
    def step(self, rate: float, decay: float = 0.01, mu: float = 0.95) -> None:
        """One update with all learning rates scaled by ``rate``; gradients are cleared."""
        torch.nn.utils.clip_grad_norm_(self.rest, 1.0)
        for group in self.adam.param_groups:
            group["lr"] = self.adam_lr * rate
        self.adam.step()
        lr = self.muon_lr * rate
        for shape, params in self.groups.items():
            grad = torch.stack([p.grad for p in params if p.grad is not None])
            momentum = self.momentum[shape]
            momentum.lerp_(grad, 1 - mu)
            update = orthogonalise(grad.lerp(momentum, mu)) * (0.2 * math.sqrt(max(shape)))
            for p, u in zip(params, update, strict=True):
                p.mul_(1 - lr * decay).add_(u, alpha=-lr)
        for p in (*self.rest, *(q for ps in self.groups.values() for q in ps)):
            p.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {"momentum": self.momentum, "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.momentum = {shape: state["momentum"][shape].to(old.device) for shape, old in self.momentum.items()}
        self.adam.load_state_dict(state["adam"])
