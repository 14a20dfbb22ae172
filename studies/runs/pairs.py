"""Pairs of nearly equal problems with different answers, and whose answer a picture shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from interp import Sample
from interp.tasks.vbvr.score import resized
from studies.runs.bench import Bench

DECIDED = 0.5
"""A picture shows one answer rather than the other when `Between` is beyond this, on either side."""


def draw_pairs(bench: Bench, more: int = 0) -> list[tuple[Sample, Sample]]:
    """As many pairs as problems were asked for and some more, as the model takes them."""
    drawn = [bench.task.pair(bench.given.seed * 1000 + k) for k in range(bench.given.problems + more)]
    ones, others = (bench.given_to_model(side) for side in zip(*drawn, strict=True))
    return list(zip(ones, others, strict=True))


@dataclass(frozen=True, eq=False)
class Between:
    """Where the last frame of a video lies between the right endings of two problems.

    -1: as the first, 1: as the second, 0: as near to one as to the other, which is so for neither and for both. Only
    pixels count in which the endings differ and the first frames do not.

    Attributes:
        endings: last frames of the right videos, float [2, row, col, rgb] in 0..1.
        counted: bool [row, col].
    """

    endings: np.ndarray
    counted: np.ndarray

    @staticmethod
    def of(task: Any, one: Sample, other: Sample) -> Between:
        """For two problems of one task."""
        videos = task.render(one), task.render(other)
        endings = np.stack([video[-1] for video in videos]).astype(np.float32) / 255
        differ = (endings[0] != endings[1]).any(-1)
        own = differ & (videos[0][0] == videos[1][0]).all(-1)
        return Between(endings, own if own.any() else differ)

    def __call__(self, video: np.ndarray) -> float:
        """The place of a video, uint8 [frame, row, col, rgb]; NaN for two problems with one ending."""
        last = resized(video[-1], self.endings.shape[1:3])
        first, second = np.abs(last[self.counted] - self.endings[:, self.counted]).mean((1, 2))
        return float((first - second) / (first + second)) if first + second > 0 else float("nan")
