"""What the bundled models are trained on and how: all of it data, all of it in the model card."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property

from interp.errors import ModelError, suggest
from interp.tasks.maze import PROMPTS
from interp.tasks.scene import BounceTask, GroundingTask, ReappearanceTask

MAIN, HIGH, LOW = "main", "high", "low"


@dataclass(frozen=True)
class Turn:
    """Which expert a batch trains, and on which noise levels.

    Attributes:
        expert: "main" (one model for all), "high" or "low".
        u: bounds of the time before it is shifted; see `Training.shift`.
    """

    expert: str
    u: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Training(ABC):
    """What every recipe has: the model's shape and how it is optimised."""

    name: str = "wan-maze-mini"
    width: int = 128
    layers: int = 6
    head_dim: int = 32
    ffn: int = 512
    batch: int = 64
    decay_from: float = 0.55  # share of the training after which the learning rate falls linearly
    floor: float = 0.03  # last learning rate as a share of the first
    warmup: int = 60  # batches
    muon_lr: float = 0.006
    adam_lr: float = 0.002
    ema: float = 0.998
    shift: float = 5.0  # sigma = shift u / (1 + (shift - 1) u), u stratified uniform
    num_frames: int = 17
    seed: int = 10
    dtype: str = field(default="auto")  # "bfloat16" where it is multiplied faster, else "float32"

    def rate(self, batch: int, done: float) -> float:
        """Learning-rate factor: linear warm-up over batches; then, by the share that is done, flat and falling."""
        decay = 1.0 if done < self.decay_from else max(self.floor, (1 - done) / (1 - self.decay_from))
        return min(1.0, (batch + 1) / self.warmup) * decay

    def as_dict(self) -> dict[str, object]:
        """For the model card and the checkpoint."""
        return dataclasses.asdict(self)

    @property
    @abstractmethod
    def prompts(self) -> tuple[str, ...]:
        """Every prompt that is trained on; the last one is empty."""

    def turn(self, batch: int, experts: int) -> Turn:
        """What a batch trains while there are so many experts."""
        return Turn(MAIN)

    def splits(self, done: float) -> bool:
        """Whether there are two experts once this share of the training is done."""
        return False


@dataclass(frozen=True)
class Stage:
    """A run of batches whose mazes take the sizes in turn."""

    sizes: tuple[int, ...]
    batches: int


@dataclass(frozen=True)
class Recipe(Training):
    """``wan-maze-mini``. Sample counts, not minutes, so that it means the same on every machine."""

    stages: tuple[Stage, ...] = (Stage((4,), 900), Stage((6, 5, 4, 6), 1300))
    openings: tuple[float, float] = (0.0, 0.3)  # drawn uniformly per maze
    trail_share: float = 0.65  # prompts that ask for a trail
    plain_share: float = 0.25  # prompts that ask for none; the rest is the empty prompt (dropout)

    @property
    def batches(self) -> int:
        """Batches of all stages."""
        return sum(stage.batches for stage in self.stages)

    @property
    def prompts(self) -> tuple[str, ...]:
        return (*PROMPTS.values(), "")

    def size_at(self, batch: int) -> int:
        """Cells per side of the mazes in one batch."""
        for stage in self.stages:
            if batch < stage.batches:
                return stage.sizes[batch % len(stage.sizes)]
            batch -= stage.batches
        raise IndexError(f"the recipe has {self.batches} batches")


@dataclass(frozen=True)
class Board:
    """Problems of one frame size that share a batch.

    Attributes:
        parts: name and share of the rows. Names are "maze-4" to "maze-8" and those of the scene tasks.
    """

    parts: tuple[tuple[str, float], ...]


SCENES = Board((("maze-5", 0.1), ("grounding", 0.2), ("reappearance", 0.3), ("bounce", 0.4)))


@dataclass(frozen=True)
class PuzzleStage:
    """Boards in turn, two batches each; ``batches`` is None for the last stage, which goes on to the end."""

    boards: tuple[Board, ...]
    batches: int | None = None


def mazes(size: int) -> Board:
    """Mazes alone."""
    return Board(((f"maze-{size}", 1.0),))


@dataclass(frozen=True)
class PuzzleRecipe(Training):
    """``wan-puzzle-mini`` on two CPU cores: the maze model made deeper, trained as one, then as two experts.

    Sharing the first part of the training costs neither expert anything that it has to unlearn, and spares half of the
    samples. From ``split_at`` on each expert sees its own noise levels alone, batch by batch in turn. With shift 5 and
    the boundary at 0.9 the high-noise expert has 7 of 20 steps, 3 of 8, 2 of 4.
    """

    name: str = "wan-puzzle-mini"
    grown_from: str | None = (
        "wan-maze-mini"  # a bundled model of this width, see `interp.mini.grow`; None: from nothing
    )
    layers: int = 10
    stages: tuple[PuzzleStage, ...] = (
        PuzzleStage((SCENES, SCENES, SCENES, mazes(6)), 600),
        PuzzleStage((SCENES, mazes(8), SCENES, mazes(6), SCENES, mazes(7), SCENES, mazes(4))),
    )
    batches: int = 4000  # without a time limit
    boundary: float = 0.9  # sigma from which the high-noise expert runs
    split_at: float = 0.5  # share of the training
    dropout: float = 0.1  # share of prompts left empty, so that guidance means something
    plain_share: float = 0.25  # of the other maze prompts, that ask for no trail
    openings: tuple[float, float] = (0.0, 0.3)  # of mazes, drawn uniformly

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        scenes = (task.prompts() for task in (GroundingTask, ReappearanceTask, BounceTask))
        return (*PROMPTS.values(), *(prompt for prompts in scenes for prompt in prompts), "")

    def board_at(self, batch: int) -> Board:
        """The board of one batch. It goes by the batch's number alone, so that workers can draw ahead."""
        for stage in self.stages:
            if stage.batches is None or batch < stage.batches:
                return stage.boards[batch // 2 % len(stage.boards)]
            batch -= stage.batches
        return self.stages[-1].boards[batch // 2 % len(self.stages[-1].boards)]

    @property
    def boards(self) -> tuple[str, ...]:
        """Names of all parts, each once."""
        parts = [name for stage in self.stages for board in stage.boards for name, _ in board.parts]
        return tuple(sorted(set(parts)))

    @property
    def boundary_u(self) -> float:
        """The boundary before the shift."""
        return self.boundary / (self.shift - (self.shift - 1) * self.boundary)

    def turn(self, batch: int, experts: int) -> Turn:
        if experts == 1:
            return Turn(MAIN)
        return Turn(HIGH, (self.boundary_u, 1.0)) if batch % 2 == 0 else Turn(LOW, (0.0, self.boundary_u))

    def splits(self, done: float) -> bool:
        return done >= self.split_at


ALL_MAZES = (mazes(8), SCENES, mazes(6), SCENES, mazes(7), SCENES, mazes(8), SCENES, mazes(4))
PUZZLE_GPU = PuzzleRecipe(
    grown_from=None,
    width=192,
    layers=12,
    ffn=768,
    batch=1024,
    stages=(PuzzleStage(ALL_MAZES),),
    batches=40_000,
    warmup=200,
    split_at=0.35,
    ema=0.9995,
)
RECIPES: dict[str, Recipe | PuzzleRecipe] = {
    "wan-maze-mini": Recipe(),
    "wan-puzzle-mini": PuzzleRecipe(),
    "wan-puzzle-mini-gpu": PUZZLE_GPU,
}


def recipe_named(name: str) -> Recipe | PuzzleRecipe:
    """A recipe of this package.

    Raises:
        ModelError: there is none of that name.
    """
    if name not in RECIPES:
        raise ModelError(f"no recipe is called {name!r}{suggest(name, RECIPES)}; there are: {', '.join(RECIPES)}")
    return RECIPES[name]
