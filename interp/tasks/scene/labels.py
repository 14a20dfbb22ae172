"""What can be probed for in a run of a scene task, and the named parts of a scene.

Sample level, float NaN where the run has no answer: ``valid``, ``solved``, ``intact``, ``exact``, ``accuracy`` (see
`SceneScore`), ``answer`` of the run, ``answer_true``, ``candidates`` (how many there are).

Token level, [frame, row, col]; a token has a property if any of its 2 x 2 blocks has it in any of its frames:

- ``foreground``: 1 where the right video is not the white ground, else 0.
- ``changed``: 1 where the right video differs from its first frame, else 0.
- ``on_answer``: 1 where the last frame's blocks speak for the right answer, else 0; the same in every latent frame.
- ``taken``: only on tokens that speak for exactly one candidate: 1 for the run's own answer, 0 for the others. NaN
  everywhere else and for a run without an answer; the same in every latent frame.
"""

from __future__ import annotations

import numpy as np

from interp.errors import TaskError
from interp.grid import TokenGrid
from interp.tasks.blocks import FREE
from interp.tasks.scene.problem import SIDE, Block, Problem, as_blocks
from interp.tasks.scene.score import SceneScore


def sample_labels(problem: Problem, score: SceneScore) -> dict[str, bool | int | float]:
    """Labels of the whole run."""
    return {
        "valid": score.valid,
        "solved": score.solved,
        "intact": score.intact,
        "exact": score.exact,
        "accuracy": score.accuracy,
        "answer": float(score.answer) if score.valid else float("nan"),
        "answer_true": problem.truth,
        "candidates": len(problem.names),
    }


def token_labels(problem: Problem, score: SceneScore, grid: TokenGrid) -> dict[str, np.ndarray]:
    """Labels of every token: float32 arrays [frame, row, col]."""
    right = problem.right
    masks = [token_mask(problem.own(k), grid) for k in range(len(problem.names))]
    flat = {"on_answer": masks[problem.truth].astype(np.float32), "taken": _taken(masks, score)}
    return {
        "foreground": _over_time(right != FREE, grid),
        "changed": _over_time(right != right[0], grid),
        **{name: np.repeat(values[None], grid.frames, axis=0) for name, values in flat.items()},
    }


def _taken(masks: list[np.ndarray], score: SceneScore) -> np.ndarray:
    label = np.full(masks[0].shape, np.nan, dtype=np.float32)
    if score.valid:
        single = np.sum(masks, axis=0) == 1
        for k, mask in enumerate(masks):
            label[mask & single] = k == score.answer
    return label


def regions(problem: Problem) -> dict[str, set[Block]]:
    """Every named part of a scene, as blocks; see `SceneTask.region`."""
    right, count = problem.right, len(problem.names)
    own = {f"candidate {k}": problem.own(k) for k in range(count)}
    return {
        "answer": own[f"candidate {problem.truth}"],
        "others": set().union(*(own[f"candidate {k}"] for k in range(count) if k != problem.truth)),
        "foreground": as_blocks(right[0] != FREE),
        "background": as_blocks(right[0] == FREE),
        "moving": as_blocks((right != right[0]).any(0)),
        "all": as_blocks(np.ones((SIDE, SIDE), dtype=bool)),
        **problem.regions(),
        **own,
    }


def token_mask(blocks: set[Block], grid: TokenGrid) -> np.ndarray:
    """Tokens that hold any of the blocks: bool [row, col]."""
    check_grid(grid)
    mask = np.zeros((grid.rows, grid.cols), dtype=bool)
    for row, col in blocks:
        mask[row // 2, col // 2] = True
    return mask


def _over_time(mask: np.ndarray, grid: TokenGrid) -> np.ndarray:
    """[frame, block_row, block_col] to tokens: latent frame 0 is frame 0, latent frame k is frames 4k-3 .. 4k."""
    check_grid(grid)
    frames = [mask[:1], *np.split(mask[1:], grid.frames - 1)]
    rows = np.stack([part.any(0) for part in frames]).reshape(grid.frames, grid.rows, 2, grid.cols, 2)
    return np.asarray(rows.any((2, 4)), dtype=np.float32)


def check_grid(grid: TokenGrid) -> None:
    """Refuse a grid on which a token is not 2 x 2 blocks.

    Raises:
        TaskError: rows or columns are not half the scene's blocks.
    """
    if (grid.rows, grid.cols) != (SIDE // 2, SIDE // 2):
        raise TaskError(
            f"a token grid of {grid.rows} x {grid.cols} does not fit a scene of {SIDE} x {SIDE} blocks, "
            f"in which one token is 2 x 2 blocks; wanted {SIDE // 2} x {SIDE // 2}"
        )
