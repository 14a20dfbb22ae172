"""What the network was given, as features of each cell: the input baseline of a probe.

A probe on a cell's token may succeed because the answer can be read off the first frame, without any computing by the
network. So the same probe is fitted on the first frame itself, in coordinates relative to the cell: a window of
(2N - 1) x (2N - 1) cells, centred on it, that holds the whole maze wherever the cell is.
"""

from __future__ import annotations

import numpy as np

from interp.tasks.maze.maze import Maze

PER_CELL = 5  # inside the maze, open to the right, open below, start, goal


def window_width(size: int) -> int:
    """Features of one cell: 5 for each of (2 size - 1)^2 cells around it."""
    return PER_CELL * (2 * size - 1) ** 2


def first_frame_features(maze: Maze) -> np.ndarray:
    """The first frame seen from each cell.

    The five numbers of a cell say all that its four blocks show: whether it is inside the maze, whether the passages to
    the right and below are open, whether the agent starts there, whether the goal is there. (The cell's own block is
    never wall, the block diagonally below always is.)

    Returns:
        float32 [row, col, feature], feature = (window_row, window_col, 5); 0 outside the maze.
    """
    n = maze.size
    picture = np.zeros((3 * n - 2, 3 * n - 2, PER_CELL), dtype=np.float32)
    inside = picture[n - 1 : 2 * n - 1, n - 1 : 2 * n - 1]
    inside[..., 0] = 1
    inside[..., 1] = maze.right
    inside[..., 2] = maze.down
    inside[(*maze.start, 3)] = 1
    inside[(*maze.goal, 4)] = 1
    windows = np.lib.stride_tricks.sliding_window_view(picture, (2 * n - 1, 2 * n - 1), axis=(0, 1))
    return np.ascontiguousarray(windows.transpose(0, 1, 3, 4, 2)).reshape(n, n, window_width(n))
