"""Reductions said as axis patterns, in the notation of einops: ``"(f h w) d -> f d"``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast, get_args

import einops
import torch
from torch import Tensor

from interp.errors import SelectionError, suggest
from interp.tasks.sample import Sample
from interp.views.view import Compute, Given, Made, View, frames_of, number

Operation = Literal["mean", "sum", "max", "min"]
OPERATIONS: tuple[str, ...] = get_args(Operation)
_GROUP = re.compile(r"\(([^()]*)\)|([A-Za-z][A-Za-z0-9_]*)|(\S)")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_OF_GRID = {"f": "frame", "frame": "frame", "h": "row", "row": "row", "w": "col", "col": "col"}


@dataclass(frozen=True)
class Reduce(View):
    """A reduction by an axis pattern; see `reduce`."""

    pattern: str
    operation: str = "mean"
    sizes: tuple[tuple[str, int], ...] = ()
    kind: ClassVar[str] = "reduce"

    def parameters(self) -> tuple[str, ...]:
        """See `View.parameters`."""
        content = repr((self.pattern, self.sizes)).encode()
        right = "_".join(axis for group in _groups(self.pattern)[1] for axis in group) or "all"
        return (self.operation, f"{right[:40]}.{hashlib.sha256(content).hexdigest()[:8]}")

    @classmethod
    def of_parameters(cls, said: Sequence[str]) -> View:
        """See `View.of_parameters`."""
        raise SelectionError(f"{'-'.join((cls.kind, *said))!r}: the name does not hold the pattern; use reduce(...)")

    def declaration(self) -> dict[str, Any]:
        """See `View.declaration`."""
        return {"view": self.name, "pattern": self.pattern, "operation": self.operation, "sizes": dict(self.sizes)}

    @classmethod
    def of_declaration(cls, declared: Mapping[str, Any]) -> View:
        """The view of a `declaration`."""
        return reduce(declared["pattern"], declared["operation"], **declared["sizes"])

    def plan(self, given: Given) -> Made:
        """See `View.plan`."""
        left, right = _groups(self.pattern)
        if len(left) != len(given.axes):
            raise SelectionError(
                f'the pattern "{self.pattern}" has {len(left)} axes on its left, and {given.site} has '
                f"{len(given.axes)}: {', '.join(given.axes)}"
            )
        sizes = self._sizes(given)
        shape = tuple(self._reduced(torch.empty((1, *given.shape), device="meta"), sizes, given).shape[1:])
        whole = {group[0]: axis for group, axis in zip(left, given.axes, strict=True) if len(group) == 1}
        axes = tuple(whole.get(group[0], _OF_GRID.get(group[0], group[0])) if len(group) == 1 else "_".join(group)
                     for group in right)  # fmt: skip
        if len(set(axes)) != len(axes):
            raise SelectionError(f'the pattern "{self.pattern}" names two axes of {given.site} alike: {axes}')
        coords = {"frame": frames_of(given)[0]} if "frame" in axes and "frame" not in given.axes else {}
        tokens = given.tokens if "token" in axes else None
        return Made(axes, shape, (given.site,), tokens=tokens, coords=coords)

    def computer(self, given: Given, samples: Sequence[Sample]) -> Compute:
        """See `View.computer`."""
        sizes = self._sizes(given)
        return lambda tensor: torch.cat([self._reduced(row[None].float(), sizes, given) for row in tensor])

    def _sizes(self, given: Given) -> dict[str, int]:
        """Sizes of the axes that the pattern splits: the grid's by name, and those that were said."""
        named = {axis for group in _groups(self.pattern)[0] if len(group) > 1 for axis in group}
        sizes = dict(self.sizes)
        if any(axis in _OF_GRID and axis not in sizes for axis in named):
            frames, whole = frames_of(given)
            if not whole:
                raise SelectionError(
                    f'"{self.pattern}" splits the tokens of {given.site} into frames, rows and columns, and parts of '
                    "frames are selected; select by frames= alone"
                )
            of_grid = {"frame": len(frames), "row": given.grid.rows, "col": given.grid.cols}
            sizes = {axis: of_grid[_OF_GRID[axis]] for axis in named if axis in _OF_GRID} | sizes
        return sizes

    def _reduced(self, tensor: Tensor, sizes: Mapping[str, int], given: Given) -> Tensor:
        left, right = self.pattern.split("->")
        pattern, operation = f"batch {left} -> batch {right}", cast(Operation, self.operation)
        try:
            return einops.reduce(tensor, pattern, operation, **sizes)
        except einops.EinopsError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            shape = ", ".join(f"{axis} {size}" for axis, size in zip(given.axes, given.shape, strict=True))
            raise SelectionError(f'"{self.pattern}" does not fit {given.site} ({shape}): {reason}') from None


def _groups(pattern: str) -> tuple[list[list[str]], list[list[str]]]:
    """Axes of both sides; a composite axis is a list of several."""
    sides = pattern.split("->")
    if len(sides) != 2:
        raise SelectionError(f'"{pattern}" is no axis pattern; write one such as "(f h w) d -> f d"')
    found: list[list[list[str]]] = []
    for side in sides:
        groups = []
        for inside, single, odd in _GROUP.findall(side):
            names = [single] if single else inside.split()
            if odd or not names or not all(_NAME.fullmatch(name) and name != "batch" for name in names):
                raise SelectionError(
                    f'"{pattern}" cannot be read at {odd or inside!r}; use names and brackets around several, as in '
                    '"(f h w) d -> f d"; the batch is left out'
                )
            groups.append(names)
        found.append(groups)
    return found[0], found[1]


def reduce(pattern: str, operation: str = "mean", **sizes: int) -> View:
    """A reduction by an axis pattern of einops: axes that the right side leaves out are reduced, in fp32.

    Args:
        pattern: all axes of the hook point but the batch, "->", and those that stay. Names are free; tokens split by
            ``(f h w)`` or ``(frame row col)`` have the grid's sizes.
        operation: "mean", "sum", "max" or "min".
        sizes: of other axes that a bracket splits; one of each bracket can be left out.

    Raises:
        SelectionError: the pattern cannot be read, or there is no such operation.

    Example:
        ``reduce("(f h w) head d -> f head d", "max")``, ``reduce("t (group c) -> t group", group=8)``.
    """
    text = " ".join(pattern.replace("->", " -> ").replace("(", " (").replace(")", ") ").split())
    left, right = _groups(text)
    if operation not in OPERATIONS:
        raise SelectionError(
            f"there is no operation {operation!r}{suggest(operation, OPERATIONS)}; there are {', '.join(OPERATIONS)}"
        )
    known = {axis for group in left for axis in group}
    new = [axis for group in right for axis in group if axis not in known]
    if new:
        raise SelectionError(f'"{text}" has {new[0]!r} on its right and not on its left')
    read = tuple(sorted((axis, number(str(size), f"the size of {axis}")) for axis, size in sizes.items()))
    return Reduce(text, operation, read)
