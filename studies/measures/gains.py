"""Right answers that something wins: choices among the runs of a problem, and differences problem by problem."""

from __future__ import annotations

import numpy as np
import polars as pl

from interp.intervals import cluster_mean
from studies.base.claim import Estimate
from studies.measures.answers import majority
from studies.runs.conditions import CLEAN


def with_choices(found: pl.DataFrame) -> pl.DataFrame:
    """The measured rows, and what choosing among the clean runs of a problem gives: ``majority`` and ``any``."""
    rows = []
    for (problem,), of in found.filter(condition=CLEAN).group_by(["problem"], maintain_order=True):
        answers, rights = of["answer"].to_list(), of["right"].to_list()
        chosen = majority(answers)
        won = rights[answers.index(chosen)] if chosen else 0
        about = {"run": of["run"][0], "problem": problem, "seed": of["seed"][0]}
        rows += [
            {"condition": "majority", **about, "right": won, "answer": chosen},
            {"condition": "any", **about, "right": int(any(rights)), "answer": chosen},
        ]
    return pl.concat([found, pl.DataFrame(rows, schema=found.schema)])


def gain(found: pl.DataFrame, condition: str, *, over: str = CLEAN, first: bool = False) -> Estimate:
    """Share right under a condition minus that under another, problem by problem.

    Args:
        found: of `with_choices`.
        condition: which.
        over: the other; the clean runs if not given.
        first: only the first seed of each problem counts under the condition.
    """
    mine = found.filter(condition=condition)
    if first:
        mine = mine.group_by("problem", maintain_order=True).first()
    one, other = (
        rows.group_by("problem", maintain_order=True).agg(pl.col("right").mean())
        for rows in (mine, found.filter(condition=over))
    )
    both = one.join(other, on="problem", suffix="_other")
    difference = (both["right"] - both["right_other"]).to_numpy()
    mean, low, high = cluster_mean(difference[:, None], np.arange(len(difference)), ends=(-1, 1))
    return Estimate(float(mean[0]), float(low[0]), float(high[0]), len(difference))
