"""What a video, or a decoded x0_hat, says about a scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from interp.tasks.scene.problem import Problem


@dataclass(frozen=True)
class SceneScore:
    """What one video says.

    Attributes:
        valid: the last frame shows one of the candidates and what has to come before it happened.
        solved: it is valid and the right one.
        intact: all other blocks of the last frame are as they should be.
        exact: every block of every frame is that of the right video.
        answer: number of the candidate that the last frame shows, -1 if it shows none.
        accuracy: share of the blocks that change in the right video (in any frame) that are right, over all frames.
    """

    valid: bool
    solved: bool
    intact: bool
    exact: bool
    answer: int
    accuracy: float


def score_symbols(problem: Problem, symbols: np.ndarray) -> SceneScore:
    """Score block colours [frame, block_row, block_col], numbers of `interp.tasks.blocks`.

    One frame is enough for the answer; what has to happen before it and ``exact`` need all of them.
    """
    last, right = symbols[-1], problem.right
    disputed = problem.disputed
    shown = [k for k, video in enumerate(problem.videos) if (last == video[-1])[disputed].all()]
    answer = shown[0] if shown else -1
    valid = answer >= 0 and problem.happened(symbols, answer)
    whole = symbols.shape == right.shape
    moving = (right != right[0]).any(0)
    return SceneScore(
        valid=valid,
        solved=valid and answer == problem.truth,
        intact=bool((last == right[-1])[~disputed].all()),
        exact=whole and bool((symbols == right).all()),
        answer=answer,
        accuracy=float((symbols == right)[:, moving].mean()) if whole else float("nan"),
    )
