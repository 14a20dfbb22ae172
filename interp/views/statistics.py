"""Numbers about a tensor: norms of its vectors, their mean and covariance over tokens. All kept in fp32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from interp.errors import SelectionError, suggest
from interp.tasks.sample import Sample
from interp.views.pool import CHUNK, token_mean
from interp.views.view import Compute, Given, Made, View

NORMS = ("l2", "robust", "layer")


@dataclass(frozen=True)
class Norm(View):
    """How long each vector is; see `norm`."""

    which: str = "l2"
    kind: ClassVar[str] = "norm"

    def parameters(self) -> tuple[str, ...]:
        """See `View.parameters`."""
        return () if self.which == "l2" else (self.which,)

    @classmethod
    def of_parameters(cls, said: Sequence[str]) -> View:
        """See `View.of_parameters`."""
        which = "-".join(said) or "l2"
        if which not in NORMS:
            raise SelectionError(f"there is no norm {which!r}{suggest(which, NORMS)}; there are {', '.join(NORMS)}")
        return cls(which)

    def plan(self, given: Given) -> Made:
        """See `View.plan`."""
        given.feature_dim(self)
        if self.which == "layer":
            given.dim("token", self)
        tokens = given.tokens if "token" in given.axes else None
        return Made(given.axes[:-1], given.shape[:-1], (given.site,), dtype="float32", tokens=tokens)

    def computer(self, given: Given, samples: Sequence[Sample]) -> Compute:
        """See `View.computer`."""
        if self.which == "robust":
            return lambda tensor: tensor.abs().median(-1).values.float()
        if self.which == "l2":
            return _lengths
        dim = given.dim("token", self)

        def relative(tensor: Tensor) -> Tensor:
            lengths = _lengths(tensor)
            return lengths / lengths.mean(dim, keepdim=True)

        return relative


def _lengths(tensor: Tensor) -> Tensor:
    return torch.linalg.vector_norm(tensor, dim=-1, dtype=torch.float32)


@dataclass(frozen=True)
class Covariance(View):
    """Covariance of the features over the selected tokens, divided by their number."""

    kind: ClassVar[str] = "covariance"

    def plan(self, given: Given) -> Made:
        """See `View.plan`."""
        given.dim("token", self)
        given.feature_dim(self)
        axes, shape = given.with_axis("token")
        return Made((*axes, f"{axes[-1]}_2"), (*shape, shape[-1]), (given.site,), dtype="float32")

    def computer(self, given: Given, samples: Sequence[Sample]) -> Compute:
        """See `View.computer`."""
        dim = given.dim("token", self)
        mean_of = token_mean().computer(given, samples)

        def compute(tensor: Tensor) -> Tensor:
            """Two passes, centred before squaring, so that far-off means cost no digits."""
            mean = mean_of(tensor)
            moved, count = tensor.movedim(dim, -2), tensor.shape[dim]
            width = moved.shape[-1]
            total = mean.new_zeros((*mean.shape, width))
            size = max(1, CHUNK // max(1, mean.numel()))
            for start in range(0, count, size):
                centred = moved[..., start : start + size, :].float() - mean.unsqueeze(-2)
                total += centred.mT @ centred
            return total / count

        return compute


def norm(which: str = "l2") -> View:
    """How long each vector is, over the last axis.

    Args:
        which: "l2"; "robust": the median over features of the absolute value (the lower one of two), which a few
            massive channels cannot move; "layer": L2 over its mean over the selected tokens, so that layers compare.

    Raises:
        SelectionError: there is no such norm.
    """
    return Norm.of_parameters([which])


def covariance() -> View:
    """Covariance of the features over the selected tokens, at each step: [..., feature, feature]."""
    return Covariance()


def moments() -> tuple[View, View]:
    """Mean and covariance over tokens: ``views=[*moments()]``; with the number of tokens they merge over runs."""
    return token_mean(), covariance()
