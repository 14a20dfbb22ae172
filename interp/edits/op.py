"""What an operation is: a frozen value that turns one part of a tensor into another.

Operations see only the part that was selected, rows first, and give back the same shape. They never change what they
are given, and gradients flow through them.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from interp.edits.curve import Curve
from interp.errors import InterpError


@dataclass(frozen=True)
class Moment:
    """Where and when an operation is applied.

    Attributes:
        site: concrete hook point.
        step: step of the run.
        branch: "cond", "uncond" or "guided".
        expert: which transformer runs the step.
        sigma: noise level at the start of the step.
        seeds: seed of each run that is changed.
        x0_before: x0_hat of the step before, at the same place as the tensor; None where there is none.
    """

    site: str
    step: int
    branch: str
    expert: str
    sigma: float
    seeds: tuple[int, ...]
    x0_before: Tensor | None = None

    def of(self, strength: float | Curve) -> float:
        """A strength here: the number, or the curve's value."""
        return strength.at(self.step, self.sigma) if isinstance(strength, Curve) else strength


@dataclass(frozen=True)
class Op(ABC):
    """Base of all operations.

    Class attributes:
        name: how files and messages call it.
        sources: how many sources it takes.
        whole: its constants are vectors over the features and given as they are, not spread over the site's axes.
        mixes: it is given every world of the batch, not only the ones that are changed.
        sites: if not empty, the only hook points it makes sense at.
        serialisable: it can be saved.
    """

    name: ClassVar[str] = ""
    sources: ClassVar[int] = 0
    whole: ClassVar[bool] = False
    mixes: ClassVar[bool] = False
    sites: ClassVar[tuple[str, ...]] = ()
    serialisable: ClassVar[bool] = True

    @abstractmethod
    def apply(self, part: Tensor, given: tuple[Tensor, ...], moment: Moment) -> Tensor:
        """The new part.

        Args:
            part: what is selected, [row, <site axes>]; every world of the batch if ``mixes``.
            given: from each source, the same shape or one row for all.
            moment: where and when.
        """

    def check(self, worlds: int) -> None:  # noqa: B027 (most operations fit any batch)
        """Refuse a batch that the operation cannot be applied to.

        Args:
            worlds: rows of the batch.
        """

    def __str__(self) -> str:
        said = [f"{f.name}={_text(getattr(self, f.name))}" for f in dataclasses.fields(self) if self._shown(f)]
        return f"{self.name}({', '.join(said)})"

    def _shown(self, field: dataclasses.Field[Any]) -> bool:
        return getattr(self, field.name) != field.default


def number(value: Any, field: str) -> float:
    """A finite number, or an error that names the field."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        raise InterpError(f"{field}={value!r} is not a number") from None
    if found != found or found in (float("inf"), float("-inf")):
        raise InterpError(f"{field}={value!r} is not finite")
    return found


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_text, value)) + "]"
    return str(value)
