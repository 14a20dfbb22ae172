"""Bounce: a ball flies between two walls, bounces off one of them exactly once, and hits one of four targets.

The ball is one block and moves one block along and one block across a frame. It leaves a grey trail, whose one block in
the first frame tells its heading. The four targets close the far end and share it in unequal parts. The one that is
hit turns black. Only the bounce and the whole way after it tell which: until then several stay possible.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from interp.errors import TaskError
from interp.tasks.blocks import BLACK, BLUE, COLOURS, FREE, GREEN, GREY, NUM_FRAMES, RED, YELLOW
from interp.tasks.scene.problem import LAST, SIDE, Block, Problem, Symbols, as_blocks
from interp.tasks.scene.task import SceneTask

PROMPT = "the ball draws a trail , bounces once and hits a target ."
PAINTS = (RED, GREEN, BLUE, YELLOW)
_COLUMNS = (1, 2, 3)  # of the ball at first


@dataclass(frozen=True)
class Bounce(Problem):
    """A scene; rows and columns are those before it is turned.

    Attributes:
        walls: row of the upper and of the lower wall.
        ends: last row of each target, from the upper wall down.
        colours: of the targets.
        row, col: where the ball is at first.
        heading: rows that it moves a frame, -1 or 1; it always moves one column to the right.
        turns: quarter turns of the whole scene, anticlockwise.
    """

    walls: tuple[int, int]
    ends: tuple[int, int, int, int]
    colours: tuple[int, int, int, int]
    row: int
    col: int
    heading: int
    turns: int = 0

    def check(self) -> None:
        top, bottom = self.walls
        spans = [b - a for a, b in pairwise((top, *self.ends))]
        whole = len(spans) == 4 and min(spans) >= 1 and self.ends[-1] == bottom - 1 and 0 <= top < bottom <= LAST
        starts = top < self.row < bottom and top < self.row - self.heading < bottom and self.col in _COLUMNS
        if not whole or not starts or abs(self.heading) != 1 or sorted(self.colours) != sorted(PAINTS):
            raise TaskError(f"{self}: the four targets do not fill the far end, or the ball starts elsewhere")
        if self.bounces != 1:
            raise TaskError(f"{self}: the ball bounces {self.bounces} times, not once")

    @property
    def prompt(self) -> str:
        return PROMPT

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(COLOURS[colour] for colour in self.colours)

    @property
    def flight(self) -> list[int]:
        """Row of the ball in each frame, up to the one in which it hits; mirrored at the walls."""
        rows, heading = [self.row], self.heading
        for _ in range(LAST - self.col):
            if rows[-1] + heading in self.walls:
                heading = -heading
            rows.append(rows[-1] + heading)
        return rows

    @property
    def bounces(self) -> int:
        """How often the ball changes its heading."""
        headings = [self.heading, *(b - a for a, b in pairwise(self.flight))]
        return sum(a != b for a, b in pairwise(headings))

    @property
    def truth(self) -> int:
        return next(k for k, end in enumerate(self.ends) if self.flight[-1] <= end)

    def render(self, answer: int) -> Symbols:
        """The ball on its way, and then the answer's target black."""
        still = np.full((SIDE, SIDE), FREE, dtype=np.uint8)
        still[list(self.walls)] = GREY
        for k in range(4):
            still[self._target(k), LAST] = self.colours[k]
        video = np.repeat(still[None], NUM_FRAMES, axis=0)
        trail = [self.row - self.heading, *self.flight]  # row in each column from col - 1 on
        hit = len(self.flight) - 1
        for f in range(NUM_FRAMES):
            for k in range(min(f, hit) + 1):
                video[f, trail[k], self.col + k - 1] = GREY
            if f < hit:
                video[f, trail[f + 1], self.col + f] = BLACK
        video[hit:, self._target(answer), LAST] = BLACK
        return np.ascontiguousarray(np.rot90(video, self.turns, axes=(1, 2)))

    def _target(self, number: int) -> slice:
        return slice((self.walls[0], *self.ends)[number] + 1, self.ends[number] + 1)

    def regions(self) -> dict[str, set[Block]]:
        masks = {name: np.zeros((SIDE, SIDE), dtype=bool) for name in ("ball", "tail", "walls")}
        masks["ball"][self.row, self.col] = True
        masks["tail"][self.row - self.heading, self.col - 1] = True
        masks["walls"][list(self.walls)] = True
        for k in range(4):
            mask = np.zeros((SIDE, SIDE), dtype=bool)
            mask[self._target(k), LAST] = True
            masks[f"target {k}"] = mask
        masks["target"] = masks[f"target {self.truth}"]
        masks["other_targets"] = np.any([masks[f"target {k}"] for k in range(4) if k != self.truth], axis=0)
        return {name: as_blocks(np.rot90(mask, self.turns)) for name, mask in masks.items()}


def _starts(walls: tuple[int, int]) -> list[tuple[int, int, int]]:
    """Every (row, column, heading) from which the ball bounces exactly once between these walls."""
    top, bottom = walls
    height, found = bottom - top - 1, []
    for row in range(top + 1, bottom):
        for col in _COLUMNS:
            for heading in (-1, 1):
                room = row - top - 1 if heading < 0 else bottom - 1 - row  # moves before the bounce
                moves = LAST - col
                if top < row - heading < bottom and room < moves <= room + height - 1:
                    found.append((row, col, heading))
    return found


STARTS = {(top, bottom): _starts((top, bottom)) for top in range(3) for bottom in range(LAST - 2, SIDE)}
_WALLS = tuple(walls for walls, starts in STARTS.items() if starts)  # in the narrowest, none bounces just once


@dataclass(frozen=True)
class BounceTask(SceneTask[Bounce]):
    """Scenes with four targets and one bounce."""

    name = "bounce"
    problem_type = Bounce

    @classmethod
    def prompts(cls) -> tuple[str, ...]:
        return (PROMPT,)

    def draw(self, rng: np.random.Generator) -> Bounce:
        walls = _WALLS[int(rng.integers(len(_WALLS)))]
        inner = np.sort(rng.choice(np.arange(walls[0] + 1, walls[1] - 1), 3, replace=False))
        a, b, c = (int(end) for end in inner)
        w, x, y, z = (int(colour) for colour in rng.permutation(PAINTS))
        starts = STARTS[walls]
        row, col, heading = starts[int(rng.integers(len(starts)))]
        return Bounce(walls, (a, b, c, walls[1] - 1), (w, x, y, z), row, col, heading, int(rng.integers(4)))

    def change(self, problem: Bounce, rng: np.random.Generator) -> Bounce | None:
        """The same scene with the ball elsewhere or headed the other way, if it can hit another target so."""
        moved = [replace(problem, row=r, col=c, heading=h) for r, c, h in STARTS[problem.walls]]
        others = [other for other in moved if other.truth != problem.truth]
        near = [o for o in others if (o.row, o.col) == (problem.row, problem.col)] or others
        return near[int(rng.integers(len(near)))] if near else None
