"""Training batches, each a pure function of (recipe, batch number), so that a resumed training sees the same mazes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.mini.latents import condition, encode_blocks, normalise
from interp.mini.recipe import Recipe
from interp.tasks.maze.maze import Maze, draw_maze
from interp.tasks.maze.render import render_symbols, to_rgb

TRAIN_STREAM = 7001  # first word of every training seed; held-out samples never use it
TRAIL, PLAIN, EMPTY = range(3)


@dataclass(frozen=True)
class Statistics:
    """Per-channel mean and standard deviation of raw latents, [z] each."""

    mean: np.ndarray
    std: np.ndarray


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


def latent_statistics(recipe: Recipe, mazes: int = 1500) -> Statistics:
    """Statistics of raw latents over 5x5 mazes, with and without a trail."""
    videos = []
    for k in range(mazes):
        rng = np.random.default_rng((TRAIN_STREAM, recipe.seed, 1 << 30, k))
        maze = draw_maze(rng, 5)
        videos.append(
            render_symbols(maze, maze.random_route(rng), trail=rng.random() < 0.7, num_frames=recipe.num_frames)
        )
    latents = encode_blocks(as_rgb(np.stack(videos)))
    return Statistics(latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4)))


def as_rgb(symbols: np.ndarray) -> np.ndarray:
    """Block symbols to colours in [-1, 1]."""
    return to_rgb(symbols).astype(np.float32) / 127.5 - 1.0


def training_batch(recipe: Recipe, statistics: Statistics, batch: int) -> Batch:
    """Batch number ``batch`` of the recipe."""
    videos, prompts = [], []
    for row in range(recipe.batch):
        maze, rng = draw_training_maze(recipe, batch, row)
        p = rng.random()
        prompt = TRAIL if p < recipe.trail_share else PLAIN if p < recipe.trail_share + recipe.plain_share else EMPTY
        trail = prompt == TRAIL or (prompt == EMPTY and rng.random() < 0.5)
        route = maze.random_route(rng)
        videos.append(render_symbols(maze, route, trail=trail, num_frames=recipe.num_frames))
        prompts.append(prompt)
    rgb = as_rgb(np.stack(videos))
    clean = normalise(encode_blocks(rgb), statistics.mean, statistics.std)
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + batch)
    u = (torch.rand(recipe.batch, generator=generator) + torch.arange(recipe.batch)) / recipe.batch
    return Batch(
        clean=clean,
        cond=condition(rgb, statistics.mean, statistics.std),
        noise=torch.randn(clean.shape, generator=generator),
        sigma=recipe.shift * u / (1 + (recipe.shift - 1) * u),
        prompts=prompts,
    )
