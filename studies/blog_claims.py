"""Do figures hold that a summary of the paper gives, and the paper does not?

Three are put to the test: x0_hat is right in 30 % of the runs at the first step and in over 80 % after 30 of 100
steps; latents that are corrupted at step 20 of 100 have recovered by step 50; the mean of three runs' final latents is
right more often than one run, by 5 points. Steps are taken as shares of the schedule. Recovery is read off x0_hat at
later steps, after noise of several sizes; the mean of final latents stands beside one seed, the seed nearest to the
mean, the majority's answer and any seed right.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch

from interp import edits
from interp.answers import AnswerTrajectories
from interp.edits import EditedRun, EditGraph
from studies.base.claim import Claim, above, between
from studies.base.columns import INTERVAL, PROBLEMS
from studies.base.signs import X0
from studies.drawing.blog_pictures import draw_accuracy, draw_averaging, draw_recovery
from studies.frame.outcome import Outcome
from studies.frame.study import Parser, Study, positive
from studies.measures.averaging import WAYS, averages, by_agreement
from studies.measures.following import at_step, follow_clean
from studies.measures.gains import gain
from studies.runs.bench import Bench
from studies.runs.clean import CleanRuns
from studies.runs.conditions import CLEAN, contrast, measure, paired, shares, spread
from studies.runs.work import Terms, Work

BLOG = "a summary in a blog, not the paper"
FIRST, LATER, BY = 0.3, 0.8, 0.3
"""Shares of right answers in x0_hat at the first step and once a share ``BY`` of the steps is done."""
CORRUPTED, RECOVERED = 0.2, 0.5
"""Shares of the steps at which latents are corrupted, and are said to have recovered."""
NEAR, MATTERS, GAIN = 0.1, 0.1, 0.02
COLUMNS = {
    "part": "accuracy: of x0_hat, undisturbed; recovery: of x0_hat after noise; averaging: of finished videos",
    "way": f"how seeds are put together: {'; '.join(f'{k}: {v}' for k, v in WAYS.items())}; null for other parts",
    "seeds": "averaging: all problems, or those whose seeds agree or differ in their answers; else null",
    "size": "of the noise that is added, as a multiple of the latents' own standard deviation; 0 for none",
    "at": "step at which it is added",
    "step": "step whose x0_hat is read; the last for averaging",
    "sigma": "its noise level",
    "value": "share of right answers",
    **INTERVAL,
    **PROBLEMS,
}


def options(parser: Parser) -> None:
    """What only this study asks for."""
    add = parser.add_argument
    add("--sizes", type=float, nargs="+", default=[0.25, 0.5, 1.0], help="sizes of the noise; 1: as large as latents")
    add("--at", type=float, nargs="+", default=[0.2, 0.5, 0.8], metavar="SHARE", help="when, as shares of the steps")
    add("--corrupted", type=positive, default=24, help="problems whose first run is corrupted, at most")
    add("--watch", type=positive, default=8, help="steps whose x0_hat is read after the corruption, spread evenly")


def answer(bench: Bench) -> Outcome:
    """Run the study; see the module."""
    specs = bench.specs(bench.samples())
    clean = bench.clean(specs)
    found = follow_clean(bench, clean)
    put_together = averages(bench, clean)
    damaged = specs[:: bench.given.seeds][: bench.given.corrupted]
    steps = len(clean.sigmas)
    at, watch = watched(bench.given, steps)
    conditions = {
        f"size={size:g} at={step}": EditGraph((edits.noise(kind="add", scale=size, relative=True, step=step),))
        for size in sorted(set(bench.given.sizes))
        for step in at
    }
    recovery = measure(bench, damaged, conditions, lambda run: read(bench, run, watch))
    table = pl.concat(
        [
            accuracy_rows(found),
            recovery_rows(recovery, watch, clean.sigmas),
            averaging_rows(put_together, steps, clean.sigmas[-1]),
        ]
    )
    return Outcome(
        table=table,
        columns=COLUMNS,
        claims=[
            *accuracy_claims(found, by_chance(bench, clean)),
            *recovery_claims(recovery, max(bench.given.sizes), steps),
            *averaging_claims(put_together, bench.given.seeds),
        ],
        findings=findings(table),
        sections=[
            draw_accuracy(bench, found, {0: FIRST, step_at(BY, steps): LATER}),
            draw_recovery(bench, table),
            draw_averaging(bench, table),
        ],
        n={"problems": len({s.sample.key for s in specs}), "runs": len(specs), "corrupted runs": len(damaged)},
        seeds=[spec.seed for spec in specs],
    )


def work(terms: Terms) -> Work:
    """What it takes; see `studies.runs.work`."""
    given = terms.given
    at, watch = watched(given, terms.steps)
    damaged = min(given.problems, given.corrupted)
    averaged = Work(videos=Counter({terms.grid: given.problems * (given.seeds + 1)}))
    firsts = at * len(set(given.sizes))
    return terms.clean(read=terms.steps + 1) + averaged + terms.measured(firsts, damaged, read=len(watch))


def watched(given: Namespace, steps: int) -> tuple[list[int], list[int]]:
    """Steps at which noise is added, and those whose x0_hat is read afterwards."""
    at = sorted({step_at(share, steps) for share in (*given.at, CORRUPTED)})
    return at, sorted({*spread(steps, given.watch), *at, step_at(RECOVERED, steps)})


def step_at(share: float, steps: int) -> int:
    """The step that comes once a share of the steps is done.

    >>> step_at(0.3, 100), step_at(0.3, 20), step_at(1.0, 20)
    (30, 6, 19)
    """
    return min(round(share * steps), steps - 1)


def read(bench: Bench, run: EditedRun, watch: Sequence[int]) -> dict[str, int]:
    """Whether x0_hat of each watched step shows the right answer."""
    estimates = torch.stack([run.trajectory.x0_hat[step - run.first] for step in watch])
    videos = bench.lab.frames(estimates)
    task, sample = bench.task, run.spec.sample
    return {_at(s): int(task.score(sample, video).solved) for s, video in zip(watch, videos, strict=True)}


def _at(step: int) -> str:
    return f"right at {step}"


def _row(part: str, row: Mapping[str, Any], **facts: Any) -> dict[str, Any]:
    return dict.fromkeys(COLUMNS) | {
        "part": part,
        **{k: row[k] for k in ("value", "low", "high", "n")},
        **facts,
    }


_SCHEMA: dict[str, Any] = {
    **dict.fromkeys(COLUMNS, pl.Float64),
    **dict.fromkeys(("part", "way", "seeds"), pl.String),
    **dict.fromkeys(("at", "step", "n"), pl.Int64),
}


def accuracy_rows(found: AnswerTrajectories) -> pl.DataFrame:
    """x0_hat of undisturbed runs by step; columns as in `COLUMNS`."""
    means = found.by_step("right").sort("step").rename({"mean": "value"}).drop("n").rename({"groups": "n"})
    rows = [_row("accuracy", row, step=row["step"], sigma=row["sigma"]) for row in means.to_dicts()]
    return pl.DataFrame(rows, schema=_SCHEMA)


def recovery_rows(found: pl.DataFrame, watch: Sequence[int], sigmas: Sequence[float]) -> pl.DataFrame:
    """x0_hat of corrupted runs, and of the same runs undisturbed, by step."""
    rows = []
    for step in watch:
        for row in shares(found, _at(step)).to_dicts():
            of = dict(part.split("=") for part in row["condition"].split()) if row["condition"] != CLEAN else {}
            if not of or step >= int(of["at"]):
                about = {"size": float(of.get("size", 0)), "at": int(of["at"]) if of else None}
                rows.append(_row("recovery", row, step=step, sigma=sigmas[step], **about))
    return pl.DataFrame(rows, schema=_SCHEMA)


def averaging_rows(found: pl.DataFrame, steps: int, sigma: float) -> pl.DataFrame:
    """Every way of putting seeds together, over all problems and over those whose seeds agree or differ."""
    rows = [
        _row("averaging", row, way=row["condition"], seeds=seeds, step=steps - 1, sigma=sigma)
        for seeds, of in by_agreement(found).items()
        for row in of.to_dicts()
    ]
    return pl.DataFrame(rows, schema=_SCHEMA)


def by_chance(bench: Bench, clean: CleanRuns) -> float:
    """How often x0_hat of the first step shows the right answer of the next problem, which it is not about."""
    others = [*clean.specs[bench.given.seeds :], *clean.specs[: bench.given.seeds]]
    videos = clean.videos(0)
    return float(np.mean([bench.task.score(o.sample, video).solved for o, video in zip(others, videos, strict=True)]))


def accuracy_claims(found: AnswerTrajectories, chance: float) -> list[Claim]:
    """30 % at the first step, over 80 % after three tenths of them.

    Args:
        found: the runs.
        chance: see `by_chance`.
    """
    steps = int(found.steps["step"].to_numpy().max()) + 1
    later = step_at(BY, steps)
    first, then = at_step(found, 0), at_step(found, later)
    right = [rows["state"] == "right" for rows in (first, then)]
    return [
        between(
            f"at the first step {X0} shows the right answer in about {FIRST:.0%} of the runs",
            paired(right[0], first["sample"], (0, 1)),
            FIRST - NEAR,
            FIRST + NEAR,
            paper=f"{FIRST:.0%} ({BLOG})",
            chance=chance,
            measure="the share of right answers",
        ),
        above(
            f"after {BY:.0%} of the steps (step {later}) it shows it in over {LATER:.0%}",
            paired(right[1], then["sample"], (0, 1)),
            LATER,
            matters=0.01,
            paper=f"over {LATER:.0%} by step 30 of 100 ({BLOG})",
            measure="the share of right answers",
        ),
        above(
            f"right answers become more frequent from the first step to step {later}",
            paired(right[1].cast(pl.Float64) - right[0].cast(pl.Float64), first["sample"], (-1, 1)),
            0.0,
            matters=MATTERS,
            paper=f"by 50 points ({BLOG})",
            measure=f"the share of right answers at step {later} minus that at step 0",
        ),
    ]


def recovery_claims(found: pl.DataFrame, size: float, steps: int) -> list[Claim]:
    """The corruption shows at first, and is gone by the middle, and at the end."""
    at, by = step_at(CORRUPTED, steps), step_at(RECOVERED, steps)
    name = f"size={size:g} at={at}"
    stated = [
        above(
            f"noise of size {size:g} added at step {at} takes right answers away from {X0} of that step",
            contrast(found, _at(at), [CLEAN], [name]),
            0.0,
            matters=MATTERS,
            measure="the share of right answers undisturbed minus corrupted",
        )
    ]
    for step, said in ((by, "by half of the steps"), (steps - 1, "by the last step")):
        stated.append(
            above(
                f"runs so corrupted have recovered {said} (step {step})",
                contrast(found, _at(step), [name], [CLEAN]),
                -MATTERS,
                matters=MATTERS,
                paper=f"corrupted at step 20 of 100, recovered by step 50 ({BLOG})" if step == by else None,
                measure="the share of right answers corrupted minus undisturbed",
            )
        )
    return stated


def averaging_claims(found: pl.DataFrame, seeds: int) -> list[Claim]:
    """The mean of final latents against one seed, and against votes that cost the same."""
    against = {
        CLEAN: ("one seed", f"5 points more with three trajectories, 500 prompts ({BLOG})"),
        "majority": ("the majority's answer of the same seeds", None),
        "nearest": ("the seed nearest to the mean", None),
    }
    return [
        above(
            f"the mean of the final latents of {seeds} seeds is right more often than {name}",
            gain(found, "average", over=other),
            0.0,
            matters=GAIN,
            paper=paper,
            measure="the share of right answers of the mean minus that of the other, problem by problem",
        )
        for other, (name, paper) in against.items()
    ]


def findings(table: pl.DataFrame) -> str:
    """What was found, in numbers."""
    accuracy = table.filter(part="accuracy").sort("step")
    by = step_at(BY, len(accuracy))
    curve = ", ".join(f"{accuracy['value'][step]:.2f} at step {step}" for step in (0, by, len(accuracy) - 1))
    after = table.filter(part="recovery").sort("step")
    largest, first = after["size"].to_numpy().max(), after["at"].drop_nulls().to_numpy().min()
    hurt, whole = after.filter((pl.col("size") == largest) & (pl.col("at") == first)), after.filter(size=0.0)
    now, end = hurt.row(0, named=True), hurt.row(-1, named=True)
    alone = dict(whole.select("step", "value").iter_rows())
    ways = dict(table.filter(part="averaging", seeds="all").select("way", "value").iter_rows())
    put = ", ".join(f"{ways[way]:.2f} for {said.split(':')[0]}" for way, said in WAYS.items())
    return (
        f"Right answers in {X0}: {curve}. After noise of size {largest:g} at step {first}: {now['value']:.2f} at that "
        f"step (undisturbed {alone[now['step']]:.2f}) and {end['value']:.2f} at the last (undisturbed "
        f"{alone[end['step']]:.2f}). Finished videos: {put}."
    )


STUDY = Study(
    name="blog_claims",
    question=f"Do the figures hold that a summary of the paper gives for {X0}, recovery and averaged latents?",
    needs="any task with right answers; a model that is right sometimes, not always",
    answer=answer,
    options=options,
    defaults={"problems": 36, "seeds": 3, "size": 6, "batch_size": 24},
    quick={"problems": 10, "corrupted": 6, "sizes": [0.5, 1.0], "at": [0.2, 0.6]},
    minutes=(2.5, 0.4),
    work=work,
    real="--problems 12 --seeds 3",
)

if __name__ == "__main__":
    raise SystemExit(STUDY.main(sys.argv[1:]))
