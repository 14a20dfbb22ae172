"""A maze read off a picture: the inverse of `interp.tasks.maze.render.first_frame`, at any scale."""

from __future__ import annotations

import numpy as np

from interp.tasks.blocks import nearest
from interp.tasks.maze.maze import Maze
from interp.tasks.maze.render import AGENT, GOAL, PALETTE, WALL

_SIZES = range(4, 9)
_CLOSE = 40.0  # of 255: what compression may do to a flat colour


def read_maze(picture: np.ndarray) -> Maze | None:
    """The maze that a picture [row, col, rgb] in 0..255 shows, or None if it shows none.

    It has to be square, made of flat blocks in our colours, with one start, one goal and a way between them.
    """
    side = picture.shape[0]
    if picture.ndim != 3 or picture.shape != (side, side, 3):
        return None
    for size in _SIZES:
        if side % (2 * size):
            continue
        width = side // (2 * size)
        flat = picture.astype(np.float32).reshape(2 * size, width, 2 * size, width, 3)
        colours = flat.mean((1, 3))
        symbols = nearest(colours, PALETTE)
        if np.abs(flat - PALETTE[symbols][:, None, :, None]).max() > _CLOSE:
            continue
        maze = _maze_of(symbols, size)
        if maze is not None:
            return maze
    return None


def _maze_of(symbols: np.ndarray, size: int) -> Maze | None:
    start, goal = (np.argwhere(symbols == kind) for kind in (AGENT, GOAL))
    opened = symbols != WALL
    cells_open, posts_closed = opened[0::2, 0::2].all(), not opened[1::2, 1::2].any()
    closed_rim = not opened[:, -1].any() and not opened[-1].any()
    if not (len(start) == len(goal) == 1 and cells_open and posts_closed and closed_rim):
        return None
    if (start % 2).any() or (goal % 2).any():
        return None
    (a, b), (c, d) = start[0] // 2, goal[0] // 2
    maze = Maze(size, opened[0::2, 1::2], opened[1::2, 0::2], (int(a), int(b)), (int(c), int(d)))
    return maze if maze.moves > 0 else None
