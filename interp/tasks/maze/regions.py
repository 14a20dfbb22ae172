"""Named parts of a maze as tokens: one cell is one token of each latent frame."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from interp.errors import TaskError, suggest
from interp.grid import TokenGrid
from interp.tasks.maze.maze import Cell, Maze

REGIONS = ("start", "goal", "path", "fork", "off_path", "all")


def cells(maze: Maze, name: str) -> list[Cell]:
    """Cells of a region, row-major; see `MazeTask.region` for the names."""
    every = [(i, j) for i in range(maze.size) for j in range(maze.size)]
    on_any = set().union(*map(set, maze.routes))
    on_all = set(maze.routes[0]).intersection(*map(set, maze.routes))
    if name in REGIONS:
        members = {
            "start": {maze.start},
            "goal": {maze.goal},
            "path": on_any,
            "fork": on_any - on_all,
            "off_path": set(every) - on_any,
            "all": set(every),
        }[name]
    elif single := re.fullmatch(r"cell\s*\(?(\d+)\s*,\s*(\d+)\)?", name):
        members = {(int(single[1]), int(single[2]))} & set(every)
    else:
        raise TaskError(
            f"a maze has no region {name!r}{suggest(name, REGIONS)}; there are: {', '.join(REGIONS)}, 'cell i,j'"
        )
    if not members:
        raise TaskError(
            f"region {name!r} is empty in this {maze.size}x{maze.size} maze with {len(maze.routes)} route(s)"
        )
    return [cell for cell in every if cell in members]


def tokens(
    maze: Maze, name: str, grid: TokenGrid, frames: int | Sequence[int] | slice | None = None
) -> tuple[int, ...]:
    """Token numbers of a region in the chosen latent frames."""
    check_grid(maze, grid)
    try:
        chosen = np.atleast_1d(np.arange(grid.frames)[slice(None) if frames is None else frames])
    except IndexError:
        raise TaskError(f"frames={frames}: the video has latent frames 0 to {grid.frames - 1}") from None
    return tuple(int(grid.index(int(f), i, j)) for f in chosen for i, j in cells(maze, name))


def check_grid(maze: Maze, grid: TokenGrid) -> None:
    """Refuse a grid on which a token is not a cell.

    Raises:
        TaskError: rows or columns are not the maze's size.
    """
    if (grid.rows, grid.cols) != (maze.size, maze.size):
        raise TaskError(
            f"a token grid of {grid.rows} x {grid.cols} does not fit a {maze.size}x{maze.size} maze, "
            "in which one token is one cell"
        )
