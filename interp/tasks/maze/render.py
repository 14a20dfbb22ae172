"""Mazes as videos of flat 8-pixel blocks.

A cell (i, j) is block (2i, 2j), the passage to its right is block (2i, 2j + 1), the passage below it (2i + 1, 2j), and
(2i + 1, 2j + 1) is always wall. Eight pixels are one latent pixel of the Wan VAE and two latent pixels one patch, so
**one token is one cell with the walls to its right and below**. The agent moves one cell a frame and waits at the goal.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from PIL import Image

from interp.errors import TaskError
from interp.tasks import blocks
from interp.tasks.blocks import BLOCK as BLOCK
from interp.tasks.blocks import NUM_FRAMES as NUM_FRAMES
from interp.tasks.maze.maze import Cell, Maze, Route

WALL, FREE, AGENT, GOAL, TRAIL = range(5)
SYMBOLS = ("wall", "free", "agent", "goal", "trail")
PALETTE = np.array([[0, 0, 0], [255, 255, 255], [0, 255, 0], [255, 0, 0], [0, 0, 255]], dtype=np.uint8)


def block_of(cell: Cell) -> tuple[int, int]:
    """Block (row, col) of a cell."""
    return 2 * cell[0], 2 * cell[1]


def block_between(a: Cell, b: Cell) -> tuple[int, int]:
    """Block (row, col) of the passage between two adjacent cells."""
    return a[0] + b[0], a[1] + b[1]


def open_blocks(maze: Maze) -> np.ndarray:
    """Which blocks are not wall: bool array [block_row, block_col]."""
    blocks = np.zeros((2 * maze.size, 2 * maze.size), dtype=bool)
    blocks[0::2, 0::2] = True
    blocks[0::2, 1::2] = maze.right
    blocks[1::2, 0::2] = maze.down
    return blocks


def route_blocks(route: Route) -> list[tuple[int, int]]:
    """Blocks of a route in order: cells and the passages between them."""
    blocks = [block_of(route[0])]
    for a, b in pairwise(route):
        blocks += [block_between(a, b), block_of(b)]
    return blocks


def render_symbols(maze: Maze, route: Route, *, trail: bool = True, num_frames: int = NUM_FRAMES) -> np.ndarray:
    """The video as block symbols: uint8 array [frame, block_row, block_col].

    Raises:
        TaskError: the route has more moves than the video has frames to show them.
    """
    if len(route) > num_frames:
        raise TaskError(f"a route of {len(route) - 1} moves does not fit a video of {num_frames} frames")
    still = np.where(open_blocks(maze), FREE, WALL).astype(np.uint8)
    still[block_of(maze.goal)] = GOAL
    video = np.repeat(still[None], num_frames, axis=0)
    for f in range(num_frames):
        here = min(f, len(route) - 1)
        if trail:
            for row, col in route_blocks(route[: here + 1]):
                video[f, row, col] = TRAIL
        video[(f, *block_of(route[here]))] = AGENT
    return video


def to_rgb(symbols: np.ndarray) -> np.ndarray:
    """Block symbols to colours: uint8 [..., block_row, block_col, channel]."""
    return PALETTE[symbols]


def to_pixels(symbols: np.ndarray) -> np.ndarray:
    """Block symbols to pixels: uint8 [..., row, col, channel], each block 8 x 8."""
    return blocks.to_pixels(to_rgb(symbols))


def first_frame(maze: Maze) -> Image.Image:
    """The picture the model is given: walls, the agent at the start, the goal."""
    return Image.fromarray(to_pixels(render_symbols(maze, (maze.start,), num_frames=1)[0]))
