"""Mazes on a square grid of cells, and every shortest route through them.

A maze is two boolean arrays: ``right[i, j]`` says that cell (i, j) opens to (i, j + 1), ``down[i, j]`` that it opens
to (i + 1, j). Mazes are drawn by random Kruskal (a spanning tree), then each remaining wall is opened with
probability ``openings``; openings make loops, and loops make several equally short routes.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from interp.errors import TaskError

Cell = tuple[int, int]
Route = tuple[Cell, ...]
MAX_ROUTES = 64


@dataclass(frozen=True)
class Maze:
    """One problem: walls, start and goal. Hashable by content; arrays are read-only."""

    size: int
    right: np.ndarray = field(repr=False)
    down: np.ndarray = field(repr=False)
    start: Cell
    goal: Cell

    def __post_init__(self) -> None:
        for name in ("right", "down"):
            value = np.ascontiguousarray(getattr(self, name), dtype=bool)
            if value.shape != (self.size, self.size):
                raise TaskError(f"Maze.{name} has shape {value.shape}, wanted ({self.size}, {self.size})")
            value.setflags(write=False)
            object.__setattr__(self, name, value)

    @cached_property
    def key(self) -> str:
        """Content hash: two mazes with the same walls, start and goal have the same key."""
        parts = (bytes([self.size]), self.right.tobytes(), self.down.tobytes(), bytes((*self.start, *self.goal)))
        return hashlib.sha256(b"|".join(parts)).hexdigest()[:16]

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Maze) and self.key == other.key

    def describe(self) -> dict[str, Any]:
        """The maze as JSON-ready data; `from_description` gives it back."""
        return {
            "size": self.size,
            "right": ["".join("01"[int(v)] for v in row) for row in self.right],
            "down": ["".join("01"[int(v)] for v in row) for row in self.down],
            "start": list(self.start),
            "goal": list(self.goal),
        }

    @staticmethod
    def from_description(described: Mapping[str, Any]) -> Maze:
        """The maze that `describe` described."""
        right, down = (np.array([[c == "1" for c in row] for row in described[name]]) for name in ("right", "down"))
        (i, j), (k, m) = described["start"], described["goal"]
        return Maze(int(described["size"]), right, down, (int(i), int(j)), (int(k), int(m)))

    def toggled(self, side: str, i: int, j: int) -> Maze:
        """The same maze with the wall on that side ("right" or "down") of cell (i, j) opened or closed."""
        walls = {"right": self.right.copy(), "down": self.down.copy()}
        walls[side][i, j] ^= True
        return Maze(self.size, walls["right"], walls["down"], self.start, self.goal)

    def neighbours(self, cell: Cell) -> list[Cell]:
        """Cells one open step away, in the order right, left, down, up."""
        i, j = cell
        near = []
        if j + 1 < self.size and self.right[i, j]:
            near.append((i, j + 1))
        if j > 0 and self.right[i, j - 1]:
            near.append((i, j - 1))
        if i + 1 < self.size and self.down[i, j]:
            near.append((i + 1, j))
        if i > 0 and self.down[i - 1, j]:
            near.append((i - 1, j))
        return near

    def is_open(self, a: Cell, b: Cell) -> bool:
        """Whether one legal move leads from ``a`` to ``b``."""
        return b in self.neighbours(a)

    @cached_property
    def distance(self) -> np.ndarray:
        """Moves from each cell to the goal by breadth-first search: int array [row, col]."""
        dist = np.full((self.size, self.size), -1, dtype=np.int64)
        dist[self.goal] = 0
        queue = deque([self.goal])
        while queue:
            cell = queue.popleft()
            for near in self.neighbours(cell):
                if dist[near] < 0:
                    dist[near] = dist[cell] + 1
                    queue.append(near)
        return dist

    @property
    def moves(self) -> int:
        """Length of a shortest route, in moves."""
        return int(self.distance[self.start])

    @cached_property
    def routes(self) -> tuple[Route, ...]:
        """Every shortest route from start to goal, in lexicographic order of cells (at most 64)."""
        found: list[Route] = []
        stack: list[Route] = [(self.start,)]
        while stack and len(found) < MAX_ROUTES:
            route = stack.pop()
            here = route[-1]
            if here == self.goal:
                found.append(route)
                continue
            onward = [c for c in self.neighbours(here) if self.distance[c] == self.distance[here] - 1]
            stack.extend((*route, c) for c in onward)
        return tuple(sorted(found))

    @property
    def is_fork(self) -> bool:
        """Exactly two equally short routes: which one a run takes is decided by its seed."""
        return len(self.routes) == 2

    @property
    def apart(self) -> int:
        """Cells that lie on one of the first and the last shortest route but not on both; 0 if there is only one."""
        return len(set(self.routes[0]) ^ set(self.routes[-1]))

    def random_route(self, rng: np.random.Generator) -> Route:
        """A shortest route, ties broken at random (a fork's two routes are equally likely)."""
        return self.routes[int(rng.integers(len(self.routes)))]


def draw_maze(
    rng: np.random.Generator,
    size: int,
    *,
    openings: float = 0.15,
    min_moves: int = 3,
    max_moves: int = 16,
    fork: bool = False,
    apart: int = 0,
) -> Maze:
    """Draw one maze whose shortest route has ``min_moves`` to ``max_moves`` moves.

    Args:
        rng: the only source of randomness.
        size: cells per side.
        openings: probability that a wall outside the spanning tree is opened.
        min_moves, max_moves: bounds on the shortest route (16 moves fill a 17-frame video).
        fork: keep only mazes with exactly two shortest routes.
        apart: of forks, keep only those in which so many cells or more lie on just one of the two routes.

    Raises:
        TaskError: no such maze was found in 10,000 draws.
    """
    for _ in range(10_000):
        right, down = _carve(rng, size, openings)
        start, goal = (divmod(int(c), size) for c in rng.choice(size * size, 2, replace=False))
        maze = Maze(size, right, down, start, goal)
        if min_moves <= maze.moves <= max_moves and (not fork or (maze.is_fork and maze.apart >= apart)):
            return maze
    raise TaskError(
        f"no {size}x{size} maze with {min_moves} to {max_moves} moves"
        f"{f' and exactly two shortest routes, {apart} cells apart,' if fork else ''} turned up in 10,000 draws "
        f"(openings={openings}); widen the range of moves or raise openings"
    )


def _carve(rng: np.random.Generator, size: int, openings: float) -> tuple[np.ndarray, np.ndarray]:
    """Random Kruskal tree plus extra openings."""
    half = size * (size - 1)
    order = rng.permutation(2 * half).tolist()
    extra = (rng.random(2 * half) < openings).tolist()
    parent = list(range(size * size))
    right = np.zeros((size, size), dtype=bool)
    down = np.zeros((size, size), dtype=bool)
    for wall in order:
        horizontal = wall < half
        i, j = divmod(wall, size - 1) if horizontal else divmod(wall - half, size)
        a = i * size + j
        b = a + 1 if horizontal else a + size
        while parent[a] != a:
            parent[a] = a = parent[parent[a]]
        while parent[b] != b:
            parent[b] = b = parent[parent[b]]
        if a != b:
            parent[a] = b
        elif not extra[wall]:
            continue
        (right if horizontal else down)[i, j] = True
    return right, down
