"""What probes said of every row that their fold left out: for confusion, calibration, and looking at single runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import expit, softmax

from probes.cell_fit import CellFit, predict
from probes.plan import Plan
from probes.source import Key, Source

LOG_ODDS = ("logistic", "lda")
"""Models whose decision values are log odds."""


@dataclass(frozen=True, eq=False)
class Said:
    """Decision values of all cells.

    Attributes:
        rows: run (its place in the source), token (null for a target per run), group, fold, target; one row each.
        decision: [cell, row, output], out of fold.
    """

    rows: pl.DataFrame
    decision: NDArray[np.float32]

    def table(self, cell: int, classes: Iterable[str], model: str) -> pl.DataFrame:
        """``rows`` with ``predicted`` and, of classes, ``probability``: a list over classes, null where decision values
        are no log odds."""
        decision, names = self.decision[cell].astype(np.float64), list(classes)
        if not names:
            return self.rows.with_columns(predicted=pl.Series(decision[:, 0]), probability=pl.lit(None, PROBABILITY))
        predicted = pl.Series([names[k] for k in predict(decision)], dtype=pl.String)
        probability = pl.Series([None] * len(decision), dtype=PROBABILITY)
        if model in LOG_ODDS:
            p = expit(decision[:, 0]) if len(names) == 2 else None
            shares = softmax(decision, axis=1) if p is None else np.stack([1 - p, p], axis=1)
            probability = pl.Series(shares.tolist(), dtype=PROBABILITY)
        return self.rows.with_columns(predicted=predicted, probability=probability)


PROBABILITY = pl.List(pl.Float64)


def said(data: Source, plan: Plan, fits: Mapping[Key, CellFit]) -> Said:
    """What the fits of a grid say, cells in order of step and layer."""
    place = np.flatnonzero(data.keep)
    target = [plan.classes[int(k)] for k in plan.y] if plan.classes else plan.y.tolist()
    rows = pl.DataFrame(
        {
            "run": data.run,
            "token": [None] * len(place) if data.tokens is None else place % data.tokens,
            "group": plan.folds.group,
            "fold": plan.folds.fold,
            "target": target,
        },
        schema_overrides={"run": pl.Int64, "token": pl.Int64, "group": pl.Int64, "fold": pl.Int64},
    )
    return Said(rows, np.stack([fits[key].decision for key in sorted(fits)]))
