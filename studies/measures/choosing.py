"""Rules that choose one of several seeds, what each wins, and what it costs in denoising steps.

A rule that looks at runs part-way pays for the steps of the seeds it gives up; a vote pays for whole runs. What a rule
wins is told as a share of the headroom, the way from one seed to any seed right, and beside a vote of at least as many
whole runs as the rule's steps would pay for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from interp.answers import AnswerTrajectories
from interp.intervals import cluster_mean
from studies.base.signs import X0
from studies.measures.answers import NONE, majority

ONE, VOTE, ANY = "one", "vote", "any"
STEER, PLACEBO, ENSEMBLE = "steer", "random", "ensemble"
RULES = {
    ONE: "the first seed",
    "entropy": f"the seed whose {X0} is surest: least entropy over the candidates",
    "probe": "the seed that a probe on hidden states gives the best chance of being right",
    "majority": "a seed that shows the answer that most seeds show so far",
    "redraw": "seeds one after the other until the probe gives one more than its median chance; the best if none",
    STEER: "the first seed, pushed along the probe's direction at this step",
    PLACEBO: "the same in a random direction",
    ENSEMBLE: "the first seed, with the mean over seeds of the middle layers' residual stream at the first step",
    VOTE: "the majority's answer of so many seeds that run to the end",
    ANY: "any of so many seeds right: what a perfect choice would give",
}
NAMES = {
    ONE: "one seed",
    "entropy": f"surest {X0}",
    "probe": "best by the probe",
    "majority": "majority so far",
    "redraw": "redrawn until the probe is content",
    STEER: "steered by the probe",
    PLACEBO: "steered at random (placebo)",
    ENSEMBLE: "ensemble of hidden states",
    VOTE: "vote of whole runs",
    ANY: "any seed right",
}
EARLY = ("entropy", "probe", "majority", "redraw")
"""Rules that look at runs part-way."""
DRAWS = 2000


@dataclass(frozen=True)
class Chosen:
    """What one rule won.

    Attributes:
        rule: its name.
        step: after which it chose; the last one for rules that see whole runs.
        seeds: how many it could choose from.
        right: whether the chosen run ends right, or the share of runs that do: [problem].
        cost: denoising steps that it took: [problem].
    """

    rule: str
    step: int
    seeds: int
    right: np.ndarray
    cost: np.ndarray


def whole_runs(found: AnswerTrajectories, steps: int) -> list[Chosen]:
    """One seed, votes of 2, 3, ... seeds that run to the end, and any of as many right."""
    last = found.steps.filter(step=steps - 1).with_columns((pl.col("state") == "right").alias("right"))
    chosen: list[Chosen] = []
    problems = [of for _, of in last.sort("sample", "seed").group_by("sample", maintain_order=True)]
    for count in range(1, min(len(of) for of in problems) + 1):
        firsts = [of.head(count) for of in problems]
        cost = np.full(len(problems), float(count * steps))
        voted = np.array([bool(of["right"][_vote(of)]) for of in firsts], dtype=float)
        anyone = np.array([bool(of["right"].any()) for of in firsts], dtype=float)
        rules = ((ONE, voted),) if count == 1 else ((VOTE, voted), (ANY, anyone))
        chosen += [Chosen(rule, steps - 1, count, right, cost) for rule, right in rules]
    return chosen


def part_way(
    found: AnswerTrajectories, chances: Mapping[int, Mapping[str, float]], places: Sequence[int], steps: int
) -> list[Chosen]:
    """Rules that look at all seeds after some step, or at one after the other, and go on with one.

    Args:
        found: the runs.
        chances: by step and run: the chance of being right that a probe gives.
        places: the steps.
        steps: of a run.
    """
    right = dict(found.runs.select("run", "solved").iter_rows())
    chosen: list[Chosen] = []
    for step in places:
        said = chances[step]
        enough = float(np.median(list(said.values())))
        table = found.steps.filter(step=step).sort("sample", "seed")
        problems = [of for _, of in table.group_by("sample", maintain_order=True)]
        picks: dict[str, list[tuple[str, int]]] = {"entropy": [], "probe": [], "majority": [], "redraw": []}
        for of in problems:
            runs = of["run"].to_list()
            picks["entropy"].append((surest(of), len(runs)))
            picks["probe"].append((max(runs, key=said.__getitem__), len(runs)))
            picks["majority"].append((runs[_vote(of)], len(runs)))
            picks["redraw"].append(redrawn(runs, said, enough))
        for rule, picked in picks.items():
            hits = np.array([right[run] for run, _ in picked], dtype=float)
            looked = np.array([count for _, count in picked], dtype=float)
            seeds = max(len(of) for of in problems)
            chosen.append(Chosen(rule, step, seeds, hits, looked * (step + 1) + steps - step - 1))
    return chosen


def redrawn(runs: Sequence[str], chances: Mapping[str, float], enough: float) -> tuple[str, int]:
    """Seeds one after the other until one has chance enough, else the best of them; and how many were begun.

    >>> redrawn(["a", "b", "c"], {"a": 0.2, "b": 0.7, "c": 0.9}, 0.5), redrawn(["a", "b"], {"a": 0.3, "b": 0.1}, 0.5)
    (('b', 2), ('a', 2))
    """
    for count, run in enumerate(runs, 1):
        if chances[run] >= enough:
            return run, count
    return max(runs, key=chances.__getitem__), len(runs)


def surest(of: pl.DataFrame) -> str:
    """The run of least entropy; the first one where there are no candidates."""
    return str(of.sort("entropy", maintain_order=True, nulls_last=True)["run"][0])


def _vote(of: pl.DataFrame) -> int:
    """Row of a run that shows the answer most shown; the first row where none shows any."""
    answers = [text or NONE for text in of["answer"]]
    return answers.index(majority(answers))


def equal_vote(chosen: Sequence[Chosen], one: Chosen, steps: int) -> Chosen:
    """A vote of whole runs that costs at least as much as a rule; the largest there is, if all cost less."""
    votes = sorted((of for of in chosen if of.rule in (ONE, VOTE)), key=lambda of: of.seeds)
    wanted = math.ceil(float(one.cost.mean()) / steps - 1e-9)
    return next((of for of in votes if of.seeds >= wanted), votes[-1])


def tabled(chosen: Sequence[Chosen], sigmas: Sequence[float]) -> pl.DataFrame:
    """One row a rule, step and number of seeds: rule, step, sigma, seeds, value, low, high, headroom, headroom_low,
    headroom_high, cost, vote, n; see `studies.early_plan.COLUMNS`."""
    one = next(of for of in chosen if of.rule == ONE)
    best = max((of for of in chosen if of.rule in (ONE, ANY)), key=lambda of: of.seeds)
    rows = []
    for of in chosen:
        mean, low, high = cluster_mean(of.right[:, None], np.arange(len(of.right)), ends=(0, 1))
        share = headroom(of.right, one.right, best.right)
        rows.append(
            {
                "rule": of.rule, "step": of.step, "sigma": float(sigmas[of.step]), "seeds": of.seeds,
                "value": float(mean[0]), "low": float(low[0]), "high": float(high[0]),
                **dict(zip(("headroom", "headroom_low", "headroom_high"), share, strict=True)),
                "cost": float(of.cost.mean()),
                "vote": float(equal_vote(chosen, of, len(sigmas)).right.mean()),
                "n": len(of.right),
            }
        )  # fmt: skip
    shares = dict.fromkeys(("headroom", "headroom_low", "headroom_high"), pl.Float64)
    return pl.DataFrame(rows, schema_overrides=shares)


def headroom(right: np.ndarray, one: np.ndarray, best: np.ndarray) -> tuple[float | None, float | None, float | None]:
    """Share of the way from one seed to any seed, with a 95 % bootstrap interval over problems.

    No share where there is no headroom; no interval where a resample in forty or more has none.
    """
    if best.mean() <= one.mean():
        return None, None, None
    drawn = np.random.default_rng(0).integers(0, len(right), (DRAWS, len(right)))
    room = (best[drawn] - one[drawn]).mean(1)
    won = (right[drawn] - one[drawn]).mean(1)[room > 0] / room[room > 0]
    share = float((right.mean() - one.mean()) / (best.mean() - one.mean()))
    if (room <= 0).mean() > 1 / 40:
        return share, None, None
    low, high = np.percentile(won, [2.5, 97.5])
    return share, float(low), float(high)
