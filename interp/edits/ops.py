"""Operations on one world at a time: patch, zero, add, scale, project out, clamp, interpolate, mean, a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from interp.edits.curve import Curve, strength
from interp.edits.op import Moment, Op, number
from interp.errors import InterpError


@dataclass(frozen=True)
class Patch(Op):
    """Takes the source's place: a patch from another run or world, or a constant that is set."""

    name = "patch"
    sources = 1

    def apply(self, part: Tensor, given: tuple[Tensor, ...], moment: Moment) -> Tensor:
        return given[0].to(part).expand_as(part)


@dataclass(frozen=True)
class Zero(Op):
    """All zeros."""

    name = "zero"

    def apply(self, part: Tensor, given: tuple[Tensor, ...], moment: Moment) -> Tensor:
        return torch.zeros_like(part)


@dataclass(frozen=True)
class TokenMean(Op):
    """Every token becomes the mean of the selected ones (dimension 1), in each world on its own."""

    name = "token_mean"

    def apply(self, part: Tensor, given: tuple[Tensor, ...], moment: Moment) -> Tensor:
        return part.float().mean(1, keepdim=True).to(part.dtype).expand_as(part)


@dataclass(frozen=True)
class Add(Op):
    """Adds ``strength`` times the source."""

    strength: float | Curve = 1.0

    name = "add"
    sources = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "strength", strength(self.strength, "strength"))

    def apply(self, part: Tensor, given: tuple[Tensor, ...], moment: Moment) -> Tensor:
        return part.float() + moment.of(self.strength) * given[0].to(part.device).float()


@dataclass(frozen=True)
class Scale(Op):
    """Multiplies by a number."""

    factor: float | Curve = 1.0

    name = "scale"

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", strength(self.factor, "factor"))

    def apply(self, part: Tensor, given: tuple[Tensor, ...], moment: Moment) -> Tensor:
        return part.float() * moment.of(self.factor)


@dataclass(frozen=True)
class ProjectOut(Op):
    """Removes ``strength`` of the component in the span of the source's directions (its last axis is the feature)."""

    strength: float | Curve = 1.0

    name = "project_out"
    sources = 1
    whole = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "strength", strength(self.strength, "strength"))

    def apply(self, part: Tensor, given: tuple[Tensor, ...], moment: Moment) -> Tensor:
        directions = given[0].to(part.device).float().reshape(-1, part.shape[-1])
        basis = torch.linalg.qr(directions.T).Q  # [feature, direction]
        x = part.float()
        return x - moment.of(self.strength) * (x @ basis) @ basis.T


@dataclass(frozen=True)
class Erase(Op):
    """An affine map of low rank, ``x - strength left right (x - mean)``; the source's rows are the mean, then left,
    then right."""

    strength: float = 1.0

    name = "erase"
    sources = 1
    whole = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "strength", number(self.strength, "strength"))

    def apply(self, part: Tensor, given: tuple[Tensor, ...], moment: Moment) -> Tensor:
        rows = given[0].to(part.device).float().reshape(-1, part.shape[-1])
        rank = len(rows) // 2
        mean, left, right = rows[0], rows[1 : 1 + rank], rows[1 + rank :]
        x = part.float()
        return x - self.strength * ((x - mean) @ right.T) @ left


@dataclass(frozen=True)
class Clamp(Op):
    """Keeps every number within bounds; None leaves a side open."""

    low: float | None = None
    high: float | None = None

    name = "clamp"

    def __post_init__(self) -> None:
        for side in ("low", "high"):
            value = getattr(self, side)
            object.__setattr__(self, side, None if value is None else number(value, side))
        if self.low is None and self.high is None:
            raise InterpError("clamp needs low=, high= or both")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise InterpError(f"clamp: low={self.low} is above high={self.high}")

    def apply(self, part: Tensor, given: tuple[Tensor, ...], moment: Moment) -> Tensor:
        return part.clamp(self.low, self.high)


@dataclass(frozen=True)
class Interpolate(Op):
    """``share`` of the way to the source; 0 and 1 are exact."""

    share: float | Curve = 0.5

    name = "interpolate"
    sources = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "share", strength(self.share, "share"))

    def apply(self, part: Tensor, given: tuple[Tensor, ...], moment: Moment) -> Tensor:
        return torch.lerp(part.float(), given[0].to(part.device).float().expand(part.shape), moment.of(self.share))


@dataclass(frozen=True)
class Function(Op):
    """Any function of the part, [row, <site axes>] to the same shape. It cannot be saved."""

    function: Callable[[Tensor], Tensor]

    name = "function"
    serialisable = False

    def apply(self, part: Tensor, given: tuple[Tensor, ...], moment: Moment) -> Tensor:
        return self.function(part)

    def __str__(self) -> str:
        return f"function({getattr(self.function, '__qualname__', type(self.function).__name__)}, cannot be saved)"
