"""Reappearance: a square is out of sight for a while and has to come back where it belongs.

``leaves``: the square stands on one of several grey places, each in rows of its own, leaves by the nearer side, and
comes back to where it was; the other places are the wrong answers. ``passes``: there are places on both sides of a grey
wall; the square goes behind it and comes out in the same rows; the other places over there are the wrong answers. The
colour has to be kept too, which every place grey in between does not show.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise, product

import numpy as np

from interp.errors import TaskError
from interp.tasks.blocks import BLACK, BLUE, FREE, GREEN, GREY, NUM_FRAMES, RED, YELLOW
from interp.tasks.scene.problem import LAST, SIDE, Block, Problem, Symbols, as_blocks
from interp.tasks.scene.task import SceneTask

PROMPTS = {
    "leaves": "the square leaves and returns to its place .",
    "passes": "the square passes behind the wall and appears again .",
}
PAINTS = (RED, GREEN, BLUE, YELLOW, BLACK)
_FAR = LAST - 1  # left column of a square at the right edge
_WALLS = tuple(product((3, 4), (5, 6)))  # left and right column


@dataclass(frozen=True)
class Reappearance(Problem):
    """A scene, and which of its places is the square's own.

    Attributes:
        motion: "leaves" or "passes".
        colour: of the square.
        places: top row and left column of each place before the scene is turned ("passes": the column is 0 or 8, the
            side it starts from, and there is such a place on the other side too).
        home: number of the place where it starts.
        wall: left and right column of the wall; () for "leaves".
        turns: quarter turns of the whole scene, anticlockwise.
    """

    motion: str
    colour: int
    places: tuple[Block, ...]
    home: int
    wall: tuple[int, ...] = ()
    turns: int = 0

    def check(self) -> None:
        rows = sorted(row for row, _ in self.places)
        apart = all(b - a >= 2 for a, b in pairwise(rows))
        inside = bool(rows) and rows[0] >= 0 and rows[-1] <= _FAR and 0 <= self.home < len(self.places) >= 2
        if self.motion not in PROMPTS or self.colour not in PAINTS or not apart or not inside:
            raise TaskError(f"{self} has no such motion or colour, or its places do not lie in rows of their own")
        columns = {col for _, col in self.places}
        if self.motion == "leaves":
            fits = not self.wall and all(0 <= c <= _FAR and 2 * c != _FAR for c in columns)
        else:
            fits = self.wall in _WALLS and columns in ({0}, {_FAR})
        if not fits:
            raise TaskError(f"{self}: its wall or its columns do not go with {self.motion!r}")

    @property
    def prompt(self) -> str:
        return PROMPTS[self.motion]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"rows {row}-{row + 1}" for row, _ in self.places)

    @property
    def truth(self) -> int:
        return self.home

    def render(self, answer: int) -> Symbols:
        """The square sets out from its own place and comes back, or out, at the answer's."""
        still = np.full((SIDE, SIDE), FREE, dtype=np.uint8)
        for row, col in (*self.places, *self._over_there()):
            still[row : row + 2, col : col + 2] = GREY
        video = np.repeat(still[None], NUM_FRAMES, axis=0)
        away, back = self._offsets(self.home), self._offsets(answer)
        for f in range(NUM_FRAMES):
            number, offset = (self.home, away[f]) if 2 * f < NUM_FRAMES else (answer, back[f])
            row, col = self.places[number]
            first, last = max(0, col + offset), min(LAST, col + offset + 1)
            video[f, row : row + 2, first : last + 1] = self.colour
        if self.wall:
            video[:, :, self.wall[0] : self.wall[1] + 1] = GREY
        return np.ascontiguousarray(np.rot90(video, self.turns, axes=(1, 2)))

    def _over_there(self) -> tuple[Block, ...]:
        return tuple((row, _FAR - col) for row, col in self.places) if self.wall else ()

    def _offsets(self, number: int) -> list[int]:
        """Columns moved from its place by each frame."""
        col, last = self.places[number][1], NUM_FRAMES - 1
        if self.motion == "leaves":
            side, moves = (-1, col + 2) if 2 * col < _FAR else (1, SIDE - col)
            return [side * min(f, moves, last - f) for f in range(NUM_FRAMES)]
        hidden = self.wall[0] if col == 0 else _FAR - (self.wall[1] - 1)
        out = _FAR - hidden  # moves left once it is wholly behind the wall
        side = 1 if col == 0 else -1
        return [side * (min(f, hidden) + max(0, f - (last - out))) for f in range(NUM_FRAMES)]

    def happened(self, symbols: Symbols, answer: int) -> bool:
        """The square was out of sight in some frame: a still video is no answer."""
        return bool((symbols != self.colour).all((1, 2)).any())

    def regions(self) -> dict[str, set[Block]]:
        masks = {f"place {k}": _mask(row, col, 2) for k, (row, col) in enumerate(self.places)}
        masks["object"] = masks[f"place {self.home}"]
        masks["other_places"] = np.any([masks[f"place {k}"] for k in range(len(self.places)) if k != self.home], axis=0)
        if self.wall:
            masks["wall"] = _mask(0, self.wall[0], SIDE, self.wall[1] - self.wall[0] + 1)
        return {name: as_blocks(np.rot90(mask, self.turns)) for name, mask in masks.items()}


def _mask(row: int, col: int, height: int, width: int = 2) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[row : row + height, col : col + width] = True
    return mask


@dataclass(frozen=True)
class ReappearanceTask(SceneTask[Reappearance]):
    """Scenes of one kind.

    Attributes:
        motion: "leaves" or "passes"; None draws it.
    """

    motion: str | None = None

    name = "reappearance"
    problem_type = Reappearance

    def __post_init__(self) -> None:
        if self.motion not in (None, *PROMPTS):
            raise TaskError(f"motion={self.motion!r} is not known; there are: {', '.join(PROMPTS)}, or None for either")

    @classmethod
    def prompts(cls) -> tuple[str, ...]:
        return tuple(PROMPTS.values())

    def draw(self, rng: np.random.Generator) -> Reappearance:
        motion = self.motion or ("leaves", "passes")[int(rng.integers(2))]
        colour = int(rng.choice(PAINTS))
        count = int(rng.integers(2, 5))
        free = np.sort(rng.choice(SIDE - count, count, replace=False))
        rows = [int(r) + k for k, r in enumerate(free)]  # two rows each, none shared
        home, turns = int(rng.integers(count)), int(rng.integers(2))
        if motion == "passes":
            side = int(rng.integers(2)) * _FAR
            wall = _WALLS[int(rng.integers(len(_WALLS)))]
            return Reappearance(motion, colour, tuple((r, side) for r in rows), home, wall, turns)
        columns = [int(rng.choice([c for c in range(_FAR + 1) if min(c, _FAR - c) <= 3])) for _ in rows]
        return Reappearance(motion, colour, tuple(zip(rows, columns, strict=True)), home, (), turns)

    def change(self, problem: Reappearance, rng: np.random.Generator) -> Reappearance:
        """The square of the same scene in another of its places."""
        count = len(problem.places)
        other = int((problem.home + rng.integers(1, count)) % count)
        return replace(problem, home=other)
