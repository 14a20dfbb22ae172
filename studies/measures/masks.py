"""Parts of a picture as tokens: the foreground, what the prompt names, and places that stand for nothing.

Made from pixels, so they fit the token grid of any VAE and patch size; a token belongs to a part that it touches.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from interp import Sample, TokenGrid
from interp.errors import TaskError
from interp.tasks.blocks import BLOCK
from interp.tasks.maze.maze import Maze
from interp.tasks.maze.regions import cells
from interp.tasks.scene.labels import regions
from interp.tasks.scene.problem import SIDE, Problem

FOREGROUND = {"maze": ("start", "goal")}
NAMED = {
    "maze": ("path", "off_path"),
    "grounding": ("object", "other_objects"),
    "reappearance": ("object", "other_places"),
    "bounce": ("target", "other_targets"),
}
"""By task: the part that the answer is about, and the parts it could have been about."""


def foreground(task: Any, sample: Sample, grid: TokenGrid) -> np.ndarray:
    """Tokens of the objects of the first frame: bool [row, col]. In tasks without named parts, what will change."""
    problem = sample.problem
    if not isinstance(problem, Maze | Problem):
        return as_tokens(_changing(task.render(sample)), grid)
    return as_tokens(_pixels(problem, FOREGROUND.get(sample.task, ("foreground",))), grid)


def named(sample: Sample, grid: TokenGrid) -> tuple[np.ndarray, np.ndarray] | None:
    """Tokens that the answer is about and tokens of the other candidates, those of both left out: bool [row, col] each.

    None where the task names no parts, or one side is empty.
    """
    if not isinstance(sample.problem, Maze | Problem) or sample.task not in NAMED:
        return None
    this, others = (as_tokens(_pixels(sample.problem, (name,)), grid) for name in NAMED[sample.task])
    both = this & others
    return (this & ~both, others & ~both) if (this & ~both).any() and (others & ~both).any() else None


def disputed(task: Any, one: Sample, other: Sample, grid: TokenGrid) -> np.ndarray:
    """Tokens that tell the answers of two samples apart: bool [row, col].

    Those of the two named parts without what they share, as the two objects in grounding; where nothing is named, those
    in which the right videos differ.
    """
    first, second = named(one, grid), named(other, grid)
    if first is not None and second is not None and (first[0] ^ second[0]).any():
        return first[0] ^ second[0]
    videos = task.render(one), task.render(other)
    return as_tokens((videos[0] != videos[1]).any((0, 3)), grid)


def elsewhere(mask: np.ndarray, seed: int) -> np.ndarray:
    """As many tokens at random, outside of the mask as long as there is room: bool [row, col]."""
    order = np.random.default_rng(seed).permutation(mask.size)
    flat = mask.reshape(-1)
    chosen = sorted(order, key=lambda token: bool(flat[token]))[: int(flat.sum())]
    found = np.zeros(mask.size, dtype=bool)
    found[chosen] = True
    return found.reshape(mask.shape)


def tokens_of(mask: np.ndarray, grid: TokenGrid) -> list[int]:
    """Numbers of the tokens of a mask [row, col] in every latent frame."""
    return np.flatnonzero(np.repeat(mask[None], grid.frames, axis=0)).tolist()


def as_tokens(pixels: np.ndarray, grid: TokenGrid) -> np.ndarray:
    """Tokens that touch any of the pixels: bool [pixel_row, pixel_col] to bool [row, col].

    Raises:
        TaskError: the picture is no whole number of tokens.
    """
    rows, cols = (size // count for size, count in zip(pixels.shape, (grid.rows, grid.cols), strict=True))
    if (rows * grid.rows, cols * grid.cols) != pixels.shape:
        raise TaskError(f"a picture of {pixels.shape} pixels is no grid of {grid.rows} x {grid.cols} tokens")
    return np.asarray(pixels.reshape(grid.rows, rows, grid.cols, cols).any((1, 3)))


def _changing(video: np.ndarray) -> np.ndarray:
    return np.asarray((video != video[:1]).any((0, 3)))


def _pixels(problem: Maze | Problem, names: tuple[str, ...]) -> np.ndarray:
    """Pixels of parts of a problem; a cell of a maze is its block without the walls."""
    if isinstance(problem, Maze):
        side = 2 * problem.size
        where = {(2 * i, 2 * j) for name in names for i, j in _cells(problem, name)}
    else:
        side = SIDE
        where = set().union(*(regions(problem)[name] for name in names))
    blocks = np.zeros((side, side), dtype=bool)
    for row, col in where:
        blocks[row, col] = True
    return blocks.repeat(BLOCK, 0).repeat(BLOCK, 1)


def _cells(maze: Maze, name: str) -> list[tuple[int, int]]:
    try:
        return cells(maze, name)
    except TaskError:  # such as "off_path" where the path takes every cell
        return []
