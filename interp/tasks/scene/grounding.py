"""Grounding: the prompt names one of several objects, and a black frame is drawn around that one.

A scene holds two to four objects of different looks on a white ground, each 3 x 3 blocks. The frame around the named
one is drawn clockwise, one of its 16 blocks a frame. Objects share colours and shapes, so that neither word is enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from interp.errors import TaskError
from interp.tasks.blocks import BLACK, BLUE, COLOURS, FREE, GREEN, NUM_FRAMES, RED, YELLOW
from interp.tasks.scene.problem import SIDE, Block, Problem, Symbols
from interp.tasks.scene.task import SceneTask

SHAPES = {
    "square": ((1, 1, 1), (1, 1, 1), (1, 1, 1)),
    "disc": ((0, 1, 0), (1, 1, 1), (0, 1, 0)),
    "triangle": ((1, 0, 0), (1, 1, 0), (1, 1, 1)),
}
PAINTS = (RED, GREEN, BLUE, YELLOW)
LOOKS = tuple(product(PAINTS, SHAPES))
_APART = 4  # top left corners, along one axis at least: no frame then touches another object
_PLACES = range(1, SIDE - 3)

Thing = tuple[int, str, int, int]  # colour, shape, top row, left column


def in_words(colour: int, shape: str) -> str:
    """A look as prompts name it.

    >>> in_words(RED, "disc")
    'red disc'
    """
    return f"{COLOURS[colour]} {shape}"


@dataclass(frozen=True)
class Grounding(Problem):
    """A scene, and which of its objects is named.

    Attributes:
        things: colour, shape, top row and left column of each object.
        named: number of the one that the prompt names.
    """

    things: tuple[Thing, ...]
    named: int

    def check(self) -> None:
        looks = {thing[:2] for thing in self.things}
        inside = all(row in _PLACES and col in _PLACES for _, _, row, col in self.things)
        if len(looks) != len(self.things) or not looks <= set(LOOKS) or not inside or len(self.things) < 2:
            raise TaskError(f"{self.things} are no objects of different looks with room for a frame around each")
        if not 0 <= self.named < len(self.things):
            raise TaskError(f"named={self.named}: the scene has {len(self.things)} objects")

    @property
    def prompt(self) -> str:
        return prompt_of(*self.things[self.named][:2])

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(in_words(colour, shape) for colour, shape, _, _ in self.things)

    @property
    def truth(self) -> int:
        return self.named

    def render(self, answer: int) -> Symbols:
        still = np.full((SIDE, SIDE), FREE, dtype=np.uint8)
        for number, thing in enumerate(self.things):
            for block in self.blocks_of(number):
                still[block] = thing[0]
        video = np.repeat(still[None], NUM_FRAMES, axis=0)
        for f, (row, col) in enumerate(self.frame_of(answer), start=1):
            video[f:, row, col] = BLACK
        return video

    def blocks_of(self, number: int) -> set[Block]:
        """Blocks of an object."""
        _, shape, top, left = self.things[number]
        return {(top + r, left + c) for r, c in product(range(3), range(3)) if SHAPES[shape][r][c]}

    def frame_of(self, number: int) -> list[Block]:
        """The 16 blocks around an object, clockwise from the top left."""
        _, _, top, left = self.things[number]
        top, left = top - 1, left - 1
        return (
            [(top, left + k) for k in range(4)]
            + [(top + k, left + 4) for k in range(4)]
            + [(top + 4, left + 4 - k) for k in range(4)]
            + [(top + 4 - k, left) for k in range(4)]
        )

    def regions(self) -> dict[str, set[Block]]:
        each = {f"object {k}": self.blocks_of(k) for k in range(len(self.things))}
        others = set().union(*(b for k, b in enumerate(each.values()) if k != self.named))
        return {"object": each[f"object {self.named}"], "other_objects": others, **each}


def prompt_of(colour: int, shape: str) -> str:
    """The prompt that names an object of this look."""
    return f"a black frame marks the {in_words(colour, shape)} ."


@dataclass(frozen=True)
class GroundingTask(SceneTask[Grounding]):
    """Scenes of one kind.

    Attributes:
        objects: how many objects a scene has, 2 to 4; None draws the number.
    """

    objects: int | None = None

    name = "grounding"
    problem_type = Grounding

    def __post_init__(self) -> None:
        if self.objects not in (None, 2, 3, 4):
            raise TaskError(f"objects={self.objects}: a scene has 2 to 4 objects, or None for any of these")

    @classmethod
    def prompts(cls) -> tuple[str, ...]:
        return tuple(prompt_of(*look) for look in LOOKS)

    def draw(self, rng: np.random.Generator) -> Grounding:
        count = self.objects or int(rng.integers(2, 5))
        places = _draw_places(rng, count)
        looks = [LOOKS[k] for k in rng.choice(len(LOOKS), count, replace=False)]
        things = tuple((*look, *place) for look, place in zip(looks, places, strict=True))
        return Grounding(things, int(rng.integers(count)))

    def change(self, problem: Grounding, rng: np.random.Generator) -> Grounding:
        """The same scene with another object named."""
        return Grounding(
            problem.things, int((problem.named + rng.integers(1, len(problem.things))) % len(problem.things))
        )

    @staticmethod
    def exchanged(problem: Grounding) -> Grounding:
        """The same prompt and places, with the named object and the next one exchanged: the answer lies elsewhere."""
        things = list(problem.things)
        a, b = problem.named, (problem.named + 1) % len(things)
        things[a], things[b] = (*things[b][:2], *things[a][2:]), (*things[a][:2], *things[b][2:])
        return Grounding(tuple(things), b)


def _draw_places(rng: np.random.Generator, count: int) -> list[Block]:
    """Top left corners, none near another, all arrangements equally likely."""
    while True:
        drawn = rng.integers(_PLACES.start, _PLACES.stop, (64, count, 2))
        distance = np.abs(drawn[:, :, None] - drawn[:, None]).max(-1)
        distance[:, np.arange(count), np.arange(count)] = SIDE
        fitting = np.flatnonzero((distance >= _APART).all((1, 2)))
        if len(fitting):
            return [(int(r), int(c)) for r, c in drawn[fitting[0]]]
