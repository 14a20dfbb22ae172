"""The exact solver: what a video, or a decoded x0_hat, says about a maze.

A video is read back into block symbols (nearest palette colour of each 8-pixel block's mean), and the symbols are
checked against the maze. The answer is the drawn path of the last frame for prompts that ask for a trail, and the
agent's own way through the frames for prompts that do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from interp.tasks import blocks
from interp.tasks.maze.maze import Cell, Maze, Route
from interp.tasks.maze.render import AGENT, GOAL, PALETTE, TRAIL, WALL, block_of, open_blocks, route_blocks

Block = tuple[int, int]


@dataclass(frozen=True)
class MazeScore:
    """What one video says.

    Attributes:
        valid: the answer is one simple open path from start to goal, and nothing else is coloured.
        shortest: it is valid and no route is shorter.
        reached: start and goal are connected through coloured blocks (trail) or the agent ends on the goal (plain).
        agent_legal: every frame shows exactly one agent, which starts at the start and makes only legal moves.
        walls_intact: the last frame's walls are the maze's.
        route: index of the answer in ``maze.routes``, or -1.
        path: cells of the answer, empty when it is not valid.
    """

    valid: bool
    shortest: bool
    reached: bool
    agent_legal: bool
    walls_intact: bool
    route: int
    path: Route

    @property
    def solved(self) -> bool:
        """The answer is right: valid, and as short as can be."""
        return self.valid and self.shortest


def blocks_from_pixels(video: np.ndarray, size: int) -> np.ndarray:
    """Mean colour of each block of a maze of ``size`` cells a side; see `interp.tasks.blocks.blocks_from_pixels`."""
    return blocks.blocks_from_pixels(video, 2 * size, 2 * size, f"a {size}x{size} maze")


def symbols_from_blocks(colours: np.ndarray) -> np.ndarray:
    """Nearest palette symbol of each block: uint8 [..., block_row, block_col] from [..., rgb] in 0..255."""
    return blocks.nearest(colours, PALETTE)


def occupancy(colours: np.ndarray) -> np.ndarray:
    """How far each block is coloured as trail or agent rather than free: float in 0..1, [..., block_row, block_col].

    Free blocks are white and both trail and agent lack red, so this is 1 - red; walls and the goal mean nothing here.
    """
    return 1.0 - np.clip(colours[..., 0], 0, 255) / 255.0


def score_video(maze: Maze, video: np.ndarray, *, trail: bool = True) -> MazeScore:
    """Score pixels: see `blocks_from_pixels` for shapes and `MazeScore` for the answer."""
    return score_symbols(maze, symbols_from_blocks(blocks_from_pixels(video, maze.size)), trail=trail)


def score_blocks(maze: Maze, colours: np.ndarray, *, trail: bool = True) -> MazeScore:
    """Score block colours [frame, block_row, block_col, rgb], uint8 in 0..255 or float in 0..1."""
    return score_symbols(
        maze, symbols_from_blocks(colours.astype(np.float32) * blocks.colour_scale(colours)), trail=trail
    )


def score_symbols(maze: Maze, symbols: np.ndarray, *, trail: bool = True) -> MazeScore:
    """Score block symbols [frame, block_row, block_col]."""
    last = symbols[-1]
    steps = _agent_cells(symbols)
    legal = steps is not None and steps[0] == maze.start and _moves_legal(maze, steps)
    if trail:
        path, reached = _drawn_path(maze, last)
    else:
        path, reached = _walked_path(maze, steps) if steps is not None and legal else ((), False)
    return MazeScore(
        valid=bool(path),
        shortest=bool(path) and len(path) - 1 == maze.moves,
        reached=reached,
        agent_legal=legal,
        walls_intact=bool(((last != WALL) == open_blocks(maze)).all()),
        route=maze.routes.index(path) if path in maze.routes else -1,
        path=path,
    )


def _drawn_path(maze: Maze, last: np.ndarray) -> tuple[Route, bool]:
    """The one simple open path that the coloured blocks form, or (); and whether they join start and goal."""
    coloured = {(int(r), int(c)) for r, c in np.argwhere(np.isin(last, (TRAIL, AGENT, GOAL)))}
    start, goal = block_of(maze.start), block_of(maze.goal)
    if start not in coloured or goal not in coloured:
        return (), False
    reached = goal in _flood(coloured, start)
    legal = {(int(r), int(c)) for r, c in np.argwhere(open_blocks(maze))}
    if not coloured <= legal:
        return (), reached
    walk = [start]
    while walk[-1] != goal:
        onward = [b for b in _adjacent(walk[-1]) if b in coloured and b not in walk[-2:-1]]
        if len(onward) != 1 or onward[0] in walk:
            return (), reached
        walk.append(onward[0])
    if len(walk) != len(coloured):
        return (), reached
    path = tuple((r // 2, c // 2) for r, c in walk if r % 2 == 0 and c % 2 == 0)
    return (path, reached) if route_blocks(path) == walk else ((), reached)


def _walked_path(maze: Maze, steps: list[Cell]) -> tuple[Route, bool]:
    """Cells of a legal walk without waits, if it is simple and ends on the goal."""
    path = [steps[0]] + [b for a, b in pairwise(steps) if a != b]
    reached = path[-1] == maze.goal
    simple = len(set(path)) == len(path)
    return (tuple(path) if reached and simple else ()), reached


def _agent_cells(symbols: np.ndarray) -> list[Cell] | None:
    """The agent's cell in each frame, or None where a frame does not show exactly one agent on a cell."""
    cells = []
    for frame in symbols:
        found = np.argwhere(frame == AGENT)
        if len(found) != 1 or (found[0] % 2).any():
            return None
        cells.append((int(found[0][0]) // 2, int(found[0][1]) // 2))
    return cells


def _moves_legal(maze: Maze, steps: list[Cell]) -> bool:
    return all(a == b or maze.is_open(a, b) for a, b in pairwise(steps))


def _adjacent(block: Block) -> list[Block]:
    r, c = block
    return [(r, c + 1), (r, c - 1), (r + 1, c), (r - 1, c)]


def _flood(coloured: set[Block], start: Block) -> set[Block]:
    seen, stack = {start}, [start]
    while stack:
        for near in _adjacent(stack.pop()):
            if near in coloured and near not in seen:
                seen.add(near)
                stack.append(near)
    return seen
