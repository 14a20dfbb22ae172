"""What every task offers, so that a study can take any of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from interp.grid import TokenGrid
from interp.tasks.sample import Sample


@runtime_checkable
class Score(Protocol):
    """What every score says: whether there is one clear answer, and whether it is the right one."""

    @property
    def valid(self) -> bool: ...

    @property
    def solved(self) -> bool: ...


@runtime_checkable
class Task(Protocol):
    """A generator of problems with exact answers; concrete tasks say more. See `interp.tasks.MazeTask` for each method.

    ``candidates`` are the possible answers of a sample, ``evidence`` says how strongly the last frame of a video (or of
    a decoded x0_hat) shows each of them, and ``margin`` is the right one's less the strongest other one's.
    """

    @property
    def name(self) -> str: ...

    def sample(self, n: int, seed: int = 0) -> list[Sample]: ...

    def pair(self, seed: int = 0) -> tuple[Sample, Sample]: ...

    def restore(self, meta: Mapping[str, Any]) -> Sample: ...

    def render(self, sample: Sample) -> np.ndarray: ...

    def score(self, sample: Sample, video: np.ndarray) -> Any: ...

    def candidates(self, sample: Sample) -> tuple[Any, ...]: ...

    def evidence(self, sample: Sample, video: np.ndarray) -> np.ndarray: ...

    def margin(self, sample: Sample, video: np.ndarray) -> float: ...

    def labels(self, sample: Sample, score: Any, grid: TokenGrid) -> dict[str, Any]: ...

    def region(
        self, sample: Sample, name: str, grid: TokenGrid, *, frames: int | Sequence[int] | slice | None = None
    ) -> tuple[int, ...]: ...
