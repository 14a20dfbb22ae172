"""What can be probed for in a maze run.

Token level, [frame, row, col], the same in every latent frame, NaN where a label does not apply:

- ``on_path``: 1 where the cell lies on the run's own final answer, else 0.
  NaN everywhere for a run without a valid one.
- ``on_shortest``: 1 where the cell lies on a shortest route (ground truth), else 0.
- ``wall_right``, ``wall_down``: 1 where there is a wall, 0 where there is a passage. NaN at the outer border.
- ``distance``: moves to the goal by breadth-first search.
- ``taken_route``: only where the maze is a fork (has exactly two shortest routes), and only on cells of exactly one of
  the two: 1 on the route the run took, 0 on the other. NaN everywhere else and for a run that took neither.

Sample level, float NaN where the run has no valid answer:

- ``valid``, ``solved`` (valid and shortest), ``reached``, ``agent_legal``, ``walls_intact``: see `MazeScore`.
- ``first_move`` of the run's answer and ``first_move_true`` (of the shortest route; NaN if routes differ in it):
  0 right, 1 left, 2 down, 3 up.
- ``route``: which of the maze's shortest routes was taken, in the order of ``Maze.routes``.
- ``moves`` of the answer, ``shortest`` moves possible, ``routes`` (how many are shortest), ``size``.
"""

from __future__ import annotations

import numpy as np

from interp.grid import TokenGrid
from interp.tasks.maze.maze import Cell, Maze, Route
from interp.tasks.maze.regions import check_grid
from interp.tasks.maze.score import MazeScore

MOVES = ("right", "left", "down", "up")
_DELTAS = {(0, 1): 0, (0, -1): 1, (1, 0): 2, (-1, 0): 3}


def sample_labels(maze: Maze, score: MazeScore) -> dict[str, bool | int | float]:
    """Labels of the whole run."""
    first = {_first_move(route) for route in maze.routes}
    return {
        "valid": score.valid,
        "solved": score.valid and score.shortest,
        "reached": score.reached,
        "agent_legal": score.agent_legal,
        "walls_intact": score.walls_intact,
        "first_move": _first_move(score.path) if score.valid else float("nan"),
        "first_move_true": first.pop() if len(first) == 1 else float("nan"),
        "route": float(score.route) if score.route >= 0 else float("nan"),
        "moves": float(len(score.path) - 1) if score.valid else float("nan"),
        "shortest": maze.moves,
        "routes": len(maze.routes),
        "size": maze.size,
    }


def token_labels(maze: Maze, score: MazeScore, grid: TokenGrid) -> dict[str, np.ndarray]:
    """Labels of every token: float32 arrays [frame, row, col]."""
    check_grid(maze, grid)
    size = maze.size
    flat = {
        "on_path": _mask(size, score.path) if score.valid else np.full((size, size), np.nan),
        "on_shortest": _mask(size, {cell for route in maze.routes for cell in route}),
        "wall_right": np.where(np.arange(size) < size - 1, ~maze.right, np.nan),
        "wall_down": np.where(np.arange(size)[:, None] < size - 1, ~maze.down, np.nan),
        "distance": np.where(maze.distance >= 0, maze.distance, np.nan),
        "taken_route": _taken_route(maze, score),
    }
    return {name: np.repeat(values[None].astype(np.float32), grid.frames, axis=0) for name, values in flat.items()}


def _taken_route(maze: Maze, score: MazeScore) -> np.ndarray:
    label = np.full((maze.size, maze.size), np.nan)
    if maze.is_fork and score.route >= 0:
        taken, other = set(maze.routes[score.route]), set(maze.routes[1 - score.route])
        for cell in taken - other:
            label[cell] = 1
        for cell in other - taken:
            label[cell] = 0
    return label


def _mask(size: int, cells: Route | set[Cell]) -> np.ndarray:
    mask = np.zeros((size, size))
    for cell in cells:
        mask[cell] = 1
    return mask


def _first_move(route: Route) -> float:
    (i, j), (k, m) = route[:2]
    return float(_DELTAS[k - i, m - j])
