"""Seeds of a problem put together: the mean of their final latents, the one nearest to it, a vote, a perfect choice."""

from __future__ import annotations

from typing import Any

import polars as pl
import torch

from studies.measures.answers import NONE, read_video
from studies.measures.gains import with_choices
from studies.runs.bench import Bench
from studies.runs.clean import CleanRuns
from studies.runs.conditions import CLEAN, shares

WAYS = {
    CLEAN: "one seed",
    "average": "the mean of the seeds' final latents",
    "nearest": "the seed whose final latents are nearest to the mean",
    "majority": "the answer that most seeds show",
    "any": "any seed right: what a perfect choice would give",
}


def averages(bench: Bench, clean: CleanRuns) -> pl.DataFrame:
    """Answers of finished runs, of the mean of each problem's final latents, and of the seed nearest to it.

    Returns:
        condition (see `WAYS`), run, problem, seed, right, answer.
    """
    rows: list[dict[str, Any]] = []
    problems: dict[str, list[int]] = {}
    for number, spec in enumerate(clean.specs):
        problems.setdefault(spec.sample.key, []).append(number)
    for problem, runs in problems.items():
        final = clean.latents("latents.hook_out", clean.steps - 1, runs)
        mean = final.mean(0, keepdim=True)
        nearest = int((final - mean).flatten(1).norm(dim=1).argmin())
        videos = bench.lab.frames(torch.cat([final, mean]))
        specs = [clean.specs[number] for number in runs]
        said = [read_video(bench.task, specs[0].sample, video) for video in videos]
        first = {"run": specs[0].key, "problem": problem, "seed": specs[0].seed}
        rows += [
            {"condition": CLEAN, "run": spec.key, "problem": problem, "seed": spec.seed, **one}
            for spec, one in zip(specs, said, strict=False)
        ]
        rows += [{"condition": "average", **first, **said[-1]}, {"condition": "nearest", **first, **said[nearest]}]
    return with_choices(pl.DataFrame(rows))


def by_agreement(found: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Shares of right answers of each way, as `studies.runs.conditions.shares` gives them, over some of the problems.

    Args:
        found: of `averages`.

    Returns:
        "all": every problem; "agree": those whose seeds all show one and the same answer; "differ": the others. A part
        without problems is left out.
    """
    same = (pl.col("answer").n_unique() == 1) & (pl.col("answer") != NONE).all()
    agree = found.filter(condition=CLEAN).group_by("problem").agg(same.alias("agree"))
    joined = found.join(agree, on="problem", maintain_order="left")
    parts = {"all": joined, "agree": joined.filter(pl.col("agree")), "differ": joined.filter(~pl.col("agree"))}
    return {name: shares(of, "right") for name, of in parts.items() if len(of)}
