"""A strength that changes over the run: a line through points over the step or the noise level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from interp.errors import InterpError

AXES = ("step", "sigma")


@dataclass(frozen=True)
class Curve:
    """Straight lines between points, level before the first and after the last; make one with `curve`.

    Attributes:
        points: (position, value), positions rising.
        over: "step" (the index) or "sigma" (the noise level, 1 to 0 over a run).
    """

    points: tuple[tuple[float, float], ...]
    over: str = "step"

    def __post_init__(self) -> None:
        if self.over not in AXES:
            raise InterpError(f"over={self.over!r}: a curve is over 'step' or 'sigma'")
        try:
            points = tuple((float(at), float(value)) for at, value in self.points)
        except (TypeError, ValueError):
            raise InterpError(f"points={self.points!r}: a curve is pairs of numbers, (position, value)") from None
        places = [at for at, _ in points]
        if not points or places != sorted(set(places)) or not np.isfinite(np.array(points)).all():
            raise InterpError(f"points={points}: a curve needs finite points at rising positions")
        object.__setattr__(self, "points", points)

    def at(self, step: int, sigma: float) -> float:
        """The value at a step."""
        places, values = zip(*self.points, strict=True)
        return float(np.interp(step if self.over == "step" else sigma, places, values))

    def __str__(self) -> str:
        return f"{self.over} " + ", ".join(f"{at:g}: {value:g}" for at, value in self.points)


def curve(points: Mapping[float, float], over: str = "step") -> Curve:
    """A strength that changes over the run, to be given in place of a number.

    Args:
        points: position to value; straight lines in between, level outside.
        over: "step" or "sigma".

    Example:
        ``add("blocks.5.hook_resid_post", direction, curve({0: 0.0, 5: 1.0}))``: fades in over the first five steps.
    """
    return Curve(tuple(sorted(points.items())), over)


def strength(value: Any, field: str) -> float | Curve:
    """A finite number or a curve, or an error that names the field."""
    from interp.edits.op import number

    return value if isinstance(value, Curve) else number(value, field)
