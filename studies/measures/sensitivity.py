"""What a disturbance leaves at the last step, by the step that was disturbed; and where that is largest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from studies.base.claim import Estimate
from studies.measures.peaks import shift_of_largest, where_largest


@dataclass(frozen=True)
class Effects:
    """Effects at the last step.

    Attributes:
        values: [run, place].
        problems: of each run: [run].
        places: the disturbed steps: [place].
        steps: how many steps a run has.
    """

    values: np.ndarray
    problems: np.ndarray
    places: Sequence[int]
    steps: int

    @staticmethod
    def of(raw: pl.DataFrame, kind: str, state: str = "x0", boundary: float | None = None) -> Effects:
        """From rows with boundary, kind, at, state, step, run, problem and value; boundary None: the model's own."""
        same = pl.col("boundary").eq_missing(pl.lit(boundary, pl.Float64))
        mine = raw.filter(same & (pl.col("kind") == kind) & (pl.col("state") == state))
        last = mine.filter(pl.col("step") == mine["step"].max())
        wide = last.pivot(on="at", index=["run", "problem"], values="value")
        places = sorted(int(at) for at in last["at"].unique())
        values = wide.select([str(at) for at in places]).to_numpy().astype(np.float64)
        return Effects(values, wide["problem"].to_numpy(), places, int(raw["step"].to_numpy().max()) + 1)

    @property
    def shares(self) -> list[float]:
        """The places as shares of the steps."""
        return [at / (self.steps - 1) for at in self.places]

    @property
    def peak(self) -> Estimate:
        """Where the effect is largest, as a share of the steps.

        The interval is a bootstrap over problems, widened by half the distance between disturbed steps: the peak may
        lie between them.
        """
        found = where_largest(self.values, self.problems, self.shares)
        apart = float(np.diff(self.places).max()) / (self.steps - 1) / 2 if len(self.places) > 1 else 1.0
        return replace(found, low=found.low - apart, high=found.high + apart)

    def early_and_late(self) -> tuple[list[int], list[int]]:
        """Numbers of the places in the first third of the steps, and of the others."""
        early = [i for i, at in enumerate(self.places) if at <= self.steps / 3] or [0]
        return early, [i for i in range(len(self.places)) if i not in early] or early

    def shift_to(self, other: Effects) -> Estimate:
        """How many steps later the other's peak is, with a bootstrap over problems, which are the same in both."""
        return shift_of_largest(self.values, other.values, self.problems, [float(at) for at in self.places])
