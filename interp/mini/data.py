"""Training batches, each a pure function of (recipe, batch number), so that a resumed training sees the same problems.

Problems are drawn as small integers, which is what workers send; colours, latents and noise are made on
the model's device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.mini.latents import SLOTS, Z_DIM, encode_blocks, mixing
from interp.mini.recipe import PuzzleRecipe, Recipe, Turn
from interp.tasks.blocks import BLACK, BLUE, FREE, GREEN, PALETTE, RED
from interp.tasks.maze.maze import Maze, draw_maze
from interp.tasks.maze.render import render_symbols
from interp.tasks.maze.render import to_rgb as maze_rgb
from interp.tasks.maze.task import PROMPTS
from interp.tasks.sample import is_held_out
from interp.tasks.scene import BounceTask, GroundingTask, ReappearanceTask, SceneTask

TRAIN_STREAM = 7001  # first word of every training seed; held-out samples never use it
TRAIL, PLAIN, EMPTY = range(3)
_GOLDEN = 0.6180339887498949
_SCENES: dict[str, SceneTask[Any]] = {task.name: task for task in (BounceTask(), GroundingTask(), ReappearanceTask())}
_FROM_MAZE = np.array([BLACK, FREE, GREEN, RED, BLUE], dtype=np.uint8)  # wall, free, agent, goal, trail


@dataclass(frozen=True)
class Statistics:
    """Per-channel mean and standard deviation of raw latents, [z] each."""

    mean: np.ndarray
    std: np.ndarray


@dataclass(frozen=True)
class Rows:
    """Problems of one batch: ``symbols`` uint8 [batch, frame, block_row, block_col], ``prompts`` as numbers."""

    symbols: np.ndarray
    prompts: list[int]


@dataclass(frozen=True)
class Batch:
    """``clean``, ``noise`` [batch, z, latent_frame, row, col], ``cond`` [batch, 4 + z, ...], ``sigma`` [batch]."""

    clean: Float[Tensor, "batch z latent_frame row col"]
    cond: Float[Tensor, "batch cond_channel latent_frame row col"]
    noise: Float[Tensor, "batch z latent_frame row col"]
    sigma: Float[Tensor, " batch"]
    prompts: list[int]


def draw_training_maze(recipe: Recipe, batch: int, row: int) -> tuple[Maze, np.random.Generator]:
    """The maze of one row, and the generator that decides the rest of that row."""
    rng = np.random.default_rng((TRAIN_STREAM, recipe.seed, batch, row))
    maze = draw_maze(rng, recipe.size_at(batch), openings=float(rng.uniform(*recipe.openings)))
    return maze, rng


def draw_rows(recipe: Recipe | PuzzleRecipe, batch: int) -> Rows:
    """The problems of one batch."""
    drawn = _puzzle_rows(recipe, batch) if isinstance(recipe, PuzzleRecipe) else _maze_rows(recipe, batch)
    videos, prompts = zip(*drawn, strict=True)
    return Rows(np.stack(videos), list(prompts))


def _maze_rows(recipe: Recipe, batch: int) -> Iterator[tuple[np.ndarray, int]]:
    for row in range(recipe.batch):
        maze, rng = draw_training_maze(recipe, batch, row)
        p = rng.random()
        prompt = TRAIL if p < recipe.trail_share else PLAIN if p < recipe.trail_share + recipe.plain_share else EMPTY
        trail = prompt == TRAIL or (prompt == EMPTY and rng.random() < 0.5)
        symbols = render_symbols(maze, maze.random_route(rng), trail=trail, num_frames=recipe.num_frames)
        yield _FROM_MAZE[symbols], prompt


def _puzzle_rows(recipe: PuzzleRecipe, batch: int) -> Iterator[tuple[np.ndarray, int]]:
    names, shares = zip(*recipe.board_at(batch).parts, strict=True)
    ends = np.cumsum(shares) / sum(shares)
    for row in range(recipe.batch):
        rng = np.random.default_rng((TRAIN_STREAM, recipe.seed, batch, row))
        part = int(np.searchsorted(ends, row * _GOLDEN % 1, side="right"))  # noise levels rise with the row
        video, text = draw_problem(recipe, names[part], rng)
        dropped = rng.random() < recipe.dropout
        yield video, len(recipe.prompts) - 1 if dropped else recipe.prompts.index(text)


def draw_problem(recipe: PuzzleRecipe, name: str, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """One problem that is not held out, as symbols and prompt."""
    while True:
        if name in _SCENES:
            problem = _SCENES[name].draw(rng)
            if not is_held_out(problem.key):
                return problem.right, problem.prompt
        else:
            maze = draw_maze(rng, int(name.removeprefix("maze-")), openings=float(rng.uniform(*recipe.openings)))
            if not is_held_out(maze.key):
                kind = "plain" if rng.random() < recipe.plain_share else "trail"
                route = maze.random_route(rng)
                symbols = render_symbols(maze, route, trail=kind == "trail", num_frames=recipe.num_frames)
                return _FROM_MAZE[symbols], PROMPTS[kind]


def latent_statistics(recipe: Recipe | PuzzleRecipe, count: int = 1500) -> Statistics:
    """Statistics of raw latents over problems of 80 x 80 pixels: 5x5 mazes, or all tasks of that size."""
    videos = []
    for k in range(count):
        rng = np.random.default_rng((TRAIN_STREAM, recipe.seed, 1 << 30, k))
        if isinstance(recipe, PuzzleRecipe):
            name = ("maze-5", *_SCENES)[k % 4]
            videos.append(PALETTE[draw_problem(recipe, name, rng)[0]])
        else:
            maze = draw_maze(rng, 5)
            route, trail = maze.random_route(rng), rng.random() < 0.7
            videos.append(maze_rgb(render_symbols(maze, route, trail=trail, num_frames=recipe.num_frames)))
    latents = encode_blocks(as_colours(np.stack(videos)))
    return Statistics(latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4)))


def as_colours(rgb: np.ndarray) -> np.ndarray:
    """0..255 to [-1, 1]."""
    return rgb.astype(np.float32) / 127.5 - 1.0


def as_rgb(symbols: np.ndarray) -> np.ndarray:
    """Block symbols of a maze to colours in [-1, 1]."""
    return as_colours(maze_rgb(symbols))


class Encoder:
    """Symbols to what the model is trained on, on the model's device; `interp.mini.latents` in torch."""

    def __init__(self, statistics: Statistics, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.palette = self._put(as_colours(PALETTE))
        self.mean, self.std = (self._put(v).view(1, -1, 1, 1, 1) for v in (statistics.mean, statistics.std))
        self.mix = self._put(mixing())

    def _put(self, values: np.ndarray) -> Tensor:
        return torch.as_tensor(values, dtype=torch.float32, device=self.device)

    def latents(self, rgb: Float[Tensor, "batch frame row col 3"]) -> Float[Tensor, "batch z latent_frame row col"]:
        """Block colours in [-1, 1] to normalised latents."""
        batch, frames, rows, cols, _ = rgb.shape
        slots = rgb.new_zeros(batch, SLOTS, 3, (frames - 1) // SLOTS + 1, rows, cols)
        moved = rgb.movedim(-1, 1)
        slots[:, 3, :, 0] = moved[:, :, 0]
        slots[:, :, :, 1:] = moved[:, :, 1:].reshape(batch, 3, -1, SLOTS, rows, cols).permute(0, 3, 1, 2, 4, 5)
        flat = slots.reshape(batch, SLOTS * 3, -1)
        raw = (self.mix @ flat).reshape(batch, Z_DIM, *slots.shape[3:])
        return (raw - self.mean) / self.std

    def encode(self, symbols: np.ndarray | Tensor) -> tuple[Tensor, Tensor]:
        """Clean latents, and what the pipeline conditions on: mask and latents of (first frame, mid-grey ...)."""
        rgb = self.palette[torch.as_tensor(symbols).to(self.device, non_blocking=True).int()]
        still = torch.zeros_like(rgb)
        still[:, 0] = rgb[:, 0]
        shown = self.latents(still)
        mask = shown.new_zeros(shown.shape[0], SLOTS, *shown.shape[2:])
        mask[:, :, 0] = 1
        return self.latents(rgb), torch.cat([mask, shown], dim=1)

    def batch(self, rows: Rows, recipe: Recipe | PuzzleRecipe, number: int, turn: Turn) -> Batch:
        """Batch number ``number``: noise, and noise levels stratified over the turn's range."""
        clean, cond = self.encode(rows.symbols)
        count = len(rows.prompts)
        generator = torch.Generator(self.device).manual_seed(recipe.seed * 1_000_003 + number)
        steps = torch.arange(count, device=self.device)
        u = (torch.rand(count, generator=generator, device=self.device) + steps) / count
        u = turn.u[0] + (turn.u[1] - turn.u[0]) * u
        return Batch(
            clean=clean,
            cond=cond,
            noise=torch.randn(clean.shape, generator=generator, device=self.device),
            sigma=recipe.shift * u / (1 + (recipe.shift - 1) * u),
            prompts=rows.prompts,
        )


def training_batch(recipe: Recipe | PuzzleRecipe, statistics: Statistics, number: int, experts: int = 1) -> Batch:
    """Batch number ``number`` of the recipe, on the CPU."""
    return Encoder(statistics).batch(draw_rows(recipe, number), recipe, number, recipe.turn(number, experts))
