"""Attention to the first frame knocked out, in spans of steps and windows of layers, with placebos as strong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from interp import edits, select
from interp.edits import Edit, EditGraph
from interp.grid import TokenGrid

FIRST = "first"
PLACEBOS = ("frame", "tokens")
KINDS = {
    FIRST: "keys of the first latent frame",
    "frame": "keys of the latent frame before the last",
    "tokens": "keys of as many tokens, drawn at random from the frames after the first",
}


@dataclass(frozen=True)
class Place:
    """Where attention is closed.

    Attributes:
        where: "all" (steps and layers), "steps" (a span of them, all layers) or "layers" (a window, all steps).
        first, last: steps or layers of the span; all steps for "all".
        steps: first and last step that is edited.
    """

    where: str
    first: int
    last: int
    steps: tuple[int, int]

    @property
    def axes(self) -> dict[str, list[int]]:
        """For a selection."""
        axis = {"steps": "step", "layers": "layer"}.get(self.where)
        return {} if axis is None else {axis: list(range(self.first, self.last + 1))}

    def __str__(self) -> str:
        return f"{self.where} {self.first}-{self.last}"


def places(steps: int, layers: int, spans: int, windows: int) -> list[Place]:
    """Everywhere, then consecutive spans of steps, then consecutive windows of layers."""
    whole = (0, steps - 1)
    found = [Place("all", *whole, whole)]
    for where, count, parts in (("steps", steps, spans), ("layers", layers, windows)):
        for part in np.array_split(np.arange(count), min(parts, count)):
            first, last = int(part[0]), int(part[-1])
            found.append(Place(where, first, last, (first, last) if where == "steps" else whole))
    return found


def knocked_out(kind: str, place: Place, grid: TokenGrid, seed: int) -> EditGraph:
    """Queries in all frames but that of the keys cannot see the keys; see `KINDS`.

    Args:
        kind: of keys.
        place: steps and layers.
        grid: tokens of the runs.
        seed: of the tokens drawn at random; their queries are those of ``first``.
    """
    sites, per_frame = "blocks.*.attn", grid.rows * grid.cols
    edit: Edit
    if kind == "tokens":
        drawn = np.random.default_rng(seed).choice(np.arange(per_frame, grid.tokens), per_frame, replace=False)
        numbers = sorted(int(token) for token in drawn)
        edit = edits.knockout(sites, keys=numbers, **_queries(grid, 0), **place.axes)
    else:
        frame = 0 if kind == FIRST else grid.frames - 2
        edit = edits.knockout(sites, keys=select(frames=frame), **_queries(grid, frame), **place.axes)
    return EditGraph((edit,))


def _queries(grid: TokenGrid, frame: int) -> dict[str, Any]:
    return {"frames": [other for other in range(grid.frames) if other != frame]}
