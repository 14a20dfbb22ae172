"""What a study reads off a finished video of any task: is it right, and which answer does it show."""

from __future__ import annotations

from typing import Any

import numpy as np

from interp import Sample
from interp.answers.reading import name_of
from interp.tasks.maze.score import MazeScore
from interp.tasks.vbvr import ClipScore

NONE = ""
"""The answer of a video that shows none."""


def read_video(task: Any, sample: Sample, video: np.ndarray) -> dict[str, Any]:
    """``right`` (0 or 1) and ``answer`` (a text that is equal for equal answers, "" for none) of one video.

    Args:
        task: of the sample.
        sample: the problem.
        video: uint8 [frame, row, col, rgb].
    """
    score = task.score(sample, video)
    return {"right": int(score.solved), "answer": answer_of(score)}


def answer_of(score: Any) -> str:
    """The answer that a score names."""
    if isinstance(score, ClipScore):
        return ("right" if score.solved else NONE) if score.exact is None else answer_of(score.exact)
    if isinstance(score, MazeScore):
        return name_of(score.path)
    return str(score.answer) if score.valid else NONE


def majority(answers: list[str]) -> str:
    """The most frequent answer that is one; the first of those that tie, "" if there is none.

    >>> majority(["", "a", "b", "b", ""])
    'b'
    """
    given = [answer for answer in answers if answer != NONE]
    return max(given, key=given.count) if given else NONE
