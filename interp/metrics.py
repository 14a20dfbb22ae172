"""Metrics of edited runs that a task gives: how far, how surely, or whether the video shows an answer.

Each is a frozen value that is called with an `interp.edits.EditedRun`, for sweeps and searches. With ``early`` it reads
x0_hat of the last step that was run, else the finished video.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.errors import InterpError
from interp.tasks.sample import Sample

if TYPE_CHECKING:
    from interp.edits import EditedRun


@dataclass(frozen=True)
class TaskMetric(ABC):
    """What a task says of a run's video; its three kinds differ in `__call__` only.

    Attributes:
        task: of the sample; it has ``score``, ``evidence`` and ``margin``.
        sample: the problem.
        candidates: answers to tell apart, the first being the one asked for; all of the sample's if None.
        early: read x0_hat in place of the finished video.
    """

    task: Any = field(repr=False)
    sample: Sample
    candidates: tuple[Any, ...] | None = None
    early: bool = False

    @property
    def key(self) -> str:
        """What a results file calls it."""
        said = (type(self).__name__, self.sample.task, self.sample.key, self.candidates, self.early)
        return " ".join(map(str, said))

    def frames(self, run: EditedRun) -> np.ndarray:
        """The video that is read: uint8 [frame, row, col, rgb]."""
        return run.early_frames if self.early else run.frames

    @abstractmethod
    def __call__(self, run: EditedRun) -> float:
        """The metric of a run."""

    def _evidence(self, run: EditedRun) -> np.ndarray:
        many = () if self.candidates is None else (self.candidates,)
        found: np.ndarray = self.task.evidence(self.sample, self.frames(run), *many)
        if len(found) < 2:
            raise InterpError(
                f"the sample {self.sample.key} has {len(found)} candidate answer; give two or more with candidates="
            )
        return found


@dataclass(frozen=True)
class Margin(TaskMetric):
    """Evidence of the first candidate less that of the strongest other, -1 to 1."""

    def __call__(self, run: EditedRun) -> float:
        """The margin."""
        found = self._evidence(run)
        return float(found[0] - found[1:].max())


@dataclass(frozen=True)
class Probability(TaskMetric):
    """Evidence of the first candidate as a share of that of all, 0 to 1; NaN where none has any."""

    def __call__(self, run: EditedRun) -> float:
        """The share."""
        found = np.clip(self._evidence(run), 0, None)
        return float(found[0] / found.sum()) if found.sum() > 0 else float("nan")


@dataclass(frozen=True)
class Score(TaskMetric):
    """A field of the task's score as a number, such as "solved" or "valid".

    Attributes:
        what: the field.
    """

    what: str = "solved"

    @property
    def key(self) -> str:
        """What a results file calls it."""
        return f"{super().key} {self.what}"

    def __call__(self, run: EditedRun) -> float:
        """The field of the score."""
        score = self.task.score(self.sample, self.frames(run))
        if not hasattr(score, self.what):
            raise InterpError(f"a {type(score).__name__} has no {self.what!r}; it has {', '.join(vars(score))}")
        return float(getattr(score, self.what))


__all__ = ["Margin", "Probability", "Score", "TaskMetric"]
