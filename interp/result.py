"""What one finished run gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from interp.capture import Receipt
from interp.decode import frames_of
from interp.runspec import RunSpec
from interp.trajectory import Trajectory


@dataclass(frozen=True)
class RunResult:
    """One finished run.

    Attributes:
        spec: what was run.
        trajectory: latents, velocity and x0_hat of every step.
        captured: site to tensor [step, branch, <site axes>], for what was selected.
        receipt: what fired.
    """

    spec: RunSpec
    trajectory: Trajectory
    captured: Mapping[str, Tensor]
    receipt: Receipt | None
    _pipe: Any = field(repr=False)

    @cached_property
    def frames(self) -> np.ndarray:
        """The video: uint8 [frame, row, col, rgb]."""
        return frames_of(self._pipe, self.trajectory.result[None])[0]
