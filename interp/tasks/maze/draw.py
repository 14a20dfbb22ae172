"""Seeded mazes: each addressed by (stream, options, seed, number), so that any one of them can be drawn alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from interp.errors import TaskError
from interp.tasks.maze.maze import Maze, draw_maze

SAMPLE_STREAM = 8001  # first words of our seeds; interp.mini trains on 7001 and looks at 7002
PAIR_STREAM = 8002
_SAMPLE_ATTEMPTS = 200  # so many repeats in a row mean that there are hardly any more
_PAIR_ATTEMPTS = 2000


@dataclass(frozen=True)
class Kind:
    """What is drawn; see `MazeTask` for the fields."""

    size: int
    openings: float
    min_moves: int
    max_moves: int

    def draw(self, rng: np.random.Generator, *, fork: bool = False, apart: int = 0) -> Maze:
        """One maze of this kind."""
        return draw_maze(
            rng,
            self.size,
            openings=self.openings,
            min_moves=self.min_moves,
            max_moves=self.max_moves,
            fork=fork,
            apart=apart,
        )


def draw_samples(kind: Kind, n: int, seed: int, *, fork: bool, apart: int = 0) -> list[Maze]:
    """``n`` different mazes; the first m of them are those of ``draw_samples(kind, m, seed)``."""
    if n < 0 or seed < 0:
        raise TaskError(f"n={n}, seed={seed}: neither can be negative")
    found: dict[str, Maze] = {}
    for k in range(n):
        for attempt in range(_SAMPLE_ATTEMPTS):
            rng = np.random.default_rng((SAMPLE_STREAM, kind.size, int(fork), seed, k, attempt))
            maze = kind.draw(rng, fork=fork, apart=apart)
            if maze.key not in found:
                found[maze.key] = maze
                break
        else:
            raise TaskError(
                f"only {len(found)} different mazes turned up where {n} were asked for; "
                "ask for fewer, a larger size, or a wider range of moves"
            )
    return list(found.values())


def draw_pair(kind: Kind, seed: int) -> tuple[Maze, Maze, tuple[str, int, int]]:
    """Two mazes that differ in one wall, each with one shortest route of its own, and the wall ("right"|"down", i, j).

    Raises:
        TaskError: none was found.
    """
    for attempt in range(_PAIR_ATTEMPTS):
        rng = np.random.default_rng((PAIR_STREAM, kind.size, seed, attempt))
        clean = kind.draw(rng)
        if len(clean.routes) > 1:
            continue
        walls = list(_inner_walls(kind.size))
        for number in rng.permutation(len(walls)):
            wall = walls[number]
            corrupt = clean.toggled(*wall)
            if _is_other_answer(kind, clean, corrupt):
                return clean, corrupt, wall
    raise TaskError(
        f"no two {kind.size}x{kind.size} mazes with {kind.min_moves} to {kind.max_moves} moves that differ in one wall "
        f"and have different answers turned up in {_PAIR_ATTEMPTS} draws; widen the range of moves or raise openings"
    )


def _inner_walls(size: int) -> Iterator[tuple[str, int, int]]:
    for i in range(size):
        for j in range(size - 1):
            yield "right", i, j
            yield "down", j, i


def _is_other_answer(kind: Kind, clean: Maze, corrupt: Maze) -> bool:
    return (
        bool((corrupt.distance >= 0).all())
        and kind.min_moves <= corrupt.moves <= kind.max_moves
        and len(corrupt.routes) == 1
        and corrupt.routes != clean.routes
    )
