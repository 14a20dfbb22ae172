"""Does the plan of the first steps predict the final one, and can it be used to choose or to steer seeds?

K seeds of each problem are sampled. At every step the answer that x0_hat shows is compared with the final one. Then
seeds are chosen without looking at the truth, after some of the steps: by how sure x0_hat is, by a probe on early
hidden states that predicts whether a run will be right (trained on other problems), by the majority of the answers
shown so far, or one after the other until the probe is content. The probe's direction also steers single runs, with
random directions as placebo. What each way wins is told as a share of the headroom between one seed and any of the K,
beside its cost in denoising steps, a vote of whole runs at equal cost, and the paper's ensemble of hidden states.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from interp import RunSpec, Selection, select
from interp.answers import AnswerTrajectories
from interp.edits import EditedRun, EditGraph, mean_over_worlds
from studies.base.claim import Claim, above
from studies.base.columns import INTERVAL, PROBLEMS
from studies.base.signs import X0
from studies.base.words import counted
from studies.drawing.choice_pictures import choices
from studies.frame.outcome import Outcome
from studies.frame.study import Parser, Study, positive
from studies.measures.answers import read_video
from studies.measures.choosing import (
    ANY,
    EARLY,
    ENSEMBLE,
    NAMES,
    ONE,
    PLACEBO,
    RULES,
    STEER,
    VOTE,
    Chosen,
    equal_vote,
    part_way,
    tabled,
    whole_runs,
)
from studies.measures.following import follow_clean, steps_of
from studies.measures.guiding import Guide, guide, steering
from studies.runs.bench import Bench
from studies.runs.clean import CleanRuns
from studies.runs.conditions import measure, paired, spread
from studies.runs.work import Terms, Work

PAPER = "Video Models Reason Early (2603.30043): the plan is set early, and screening seeds early saves up to 3.3 times"
PAPER_ENSEMBLE = "three seeds averaged in the middle layers at the first step: 0.685 to 0.716"
MATTERS = 0.05
COLUMNS = {
    "rule": "; ".join(f"{name}: {text}" for name, text in RULES.items()),
    "step": "after which the choice is made, or at which the run is edited",
    "sigma": "its noise level",
    "seeds": "how many seeds there are to choose from",
    "strength": "of steering: size of the push as a share of the hidden states' own; else null",
    "value": "share of problems that end right",
    **INTERVAL,
    "headroom": "share of the way from one seed to any of all seeds; null where there is none",
    "headroom_low": "lower end of its 95 % interval; null where a resample in forty has no headroom",
    "headroom_high": "upper end",
    "cost": "denoising steps a problem, those of seeds given up included",
    "vote": "share right by a vote of whole runs that costs at least as much",
    **PROBLEMS,
}


def options(parser: Parser) -> None:
    """What only this study asks for."""
    add = parser.add_argument
    add("--places", type=positive, default=6, help="steps after which seeds are chosen, spread evenly")
    add("--layer", type=int, default=None, help="block whose output the probe reads; the middle one if not given")
    add("--strengths", type=float, nargs="*", default=[0.1, 0.3], help="of steering, as shares of the states' own size")
    add("--steered", type=positive, default=2, help="of the places, how many of the first are steered at")


def answer(bench: Bench) -> Outcome:
    """Run the study; see the module."""
    specs = bench.specs(bench.samples())
    clean = bench.clean(specs)
    found = follow_clean(bench, clean)
    places = spread(clean.steps, bench.given.places)
    guides = probes_of(bench, clean, found, places)
    chosen = whole_runs(found, clean.steps)
    chosen += part_way(found, {step: of.chances for step, of in guides.items()}, places, clean.steps)
    edited = {**steered(bench, clean, guides), **ensembled(bench, clean)}
    table = with_edited(tabled([*chosen, *edited.values()], clean.sigmas), edited)
    return Outcome(
        table=table,
        columns=COLUMNS,
        claims=claims(found, chosen, edited, clean.steps),
        findings=findings(table),
        sections=[choices(bench, table)],
        n={"problems": len({s.sample.key for s in specs}), "runs": len(specs)},
        seeds=[spec.seed for spec in specs],
        more={"agreement": found.by_step("final", ends=(0, 1)).to_dicts()},
    )


def work(terms: Terms) -> Work:
    """What it takes; see `studies.runs.work`."""
    given, places = terms.given, spread(terms.steps, terms.given.places)
    hidden = probed(given, terms.layers, places)
    edits_at = [step for step in places[: given.steered] for _ in (*given.strengths, *given.strengths)]
    found = terms.clean(read=terms.steps) + terms.stored(hidden, views="frame_mean")
    if edits_at:
        found += terms.measured(edits_at, given.problems)
    return found + terms.measured([0], group=given.seeds) if given.seeds > 1 else found


def probed(given: Namespace, layers: int, places: Sequence[int]) -> Selection:
    """What the probe reads."""
    layer = layers // 2 if given.layer is None else given.layer
    return select(f"blocks.{layer}.hook_resid_post", branch="cond", step=list(places))


def probes_of(bench: Bench, clean: CleanRuns, found: AnswerTrajectories, places: Sequence[int]) -> dict[int, Guide]:
    """By step: probes of whether a run will be right."""
    hidden = probed(bench.given, len(bench.lab.pipe.transformer.blocks), places)
    (site,) = hidden.resolve(bench.lab.space(clean.specs[0])).sites
    store = bench.store("plan", clean.specs, hidden, dtype="float32", views="frame_mean")
    keys = [spec.key for spec in clean.specs]
    problems = np.array([spec.sample.key for spec in clean.specs])
    right = dict(found.runs.select("run", "solved").iter_rows())
    labels = np.array([int(right[key]) for key in keys])
    frames = bench.lab.grid(clean.specs[0].sample).frames
    guides = {}
    for step in places:
        features = np.asarray(store.read(f"{site}@frame_mean", step=step, runs=keys)).reshape(len(keys), frames, -1)
        guides[step] = guide(features, labels, problems, keys, bench.given.seed)
    return guides


def steered(bench: Bench, clean: CleanRuns, guides: dict[int, Guide]) -> dict[tuple[str, float], Chosen]:
    """By name of the condition and strength: the first seed of every problem, pushed; and with random directions.

    Nothing where no probe has a direction: all runs are right, or all are wrong.
    """
    given, specs = bench.given, clean.specs[:: bench.given.seeds]
    hidden = probed(given, len(bench.lab.pipe.transformer.blocks), list(guides))
    (site,) = hidden.resolve(bench.lab.space(specs[0])).sites
    grid = bench.lab.grid(specs[0].sample)
    asked = {
        f"{rule} {step} {strength:g}": (rule, step, strength)
        for step in list(guides)[: given.steered]
        if any(towards is not None for towards in guides[step].directions.values())
        for strength in given.strengths
        for rule in (STEER, PLACEBO)
    }
    conditions: dict[str, EditGraph | Callable[[Sequence[RunSpec]], EditGraph]] = {
        name: steering(guides[step], site, step, strength, grid, placebo=given.seed if rule == PLACEBO else None)
        for name, (rule, step, strength) in asked.items()
    }
    if not conditions:
        return {}
    measured = measure(bench, specs, conditions, lambda run: read(bench, run))
    return {
        (name, strength): Chosen(rule, step, 1, *_won(measured, name, clean.steps))
        for name, (rule, step, strength) in asked.items()
    }


def ensembled(bench: Bench, clean: CleanRuns) -> dict[tuple[str, float], Chosen]:
    """The paper's ensemble, written to the first seed alone; the other seeds are needed for one step only."""
    seeds, layers = bench.given.seeds, len(bench.lab.pipe.transformer.blocks)
    if seeds == 1:
        return {}
    width = max(1, layers // 4)
    first = (layers - width) // 2

    def graph(batch: Sequence[RunSpec]) -> EditGraph:
        joined = EditGraph()
        for row in range(0, len(batch), seeds):
            worlds = range(row, row + seeds)
            joined = joined | mean_over_worlds(
                "blocks.*.hook_resid_post", worlds=worlds, into="first", layer=slice(first, first + width), step=0
            )
        return joined

    measured = measure(bench, clean.specs, {ENSEMBLE: graph}, lambda run: read(bench, run), group=seeds)
    firsts = measured.group_by("condition", "problem", maintain_order=True).first()
    right, cost = _won(firsts, ENSEMBLE, clean.steps)
    return {(ENSEMBLE, float("nan")): Chosen(ENSEMBLE, 0, seeds, right, cost + seeds - 1)}


def read(bench: Bench, run: EditedRun) -> dict[str, object]:
    """The answer of the finished video."""
    return read_video(bench.task, run.spec.sample, run.frames)


def _won(measured: pl.DataFrame, condition: str, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether the run of each problem, in the order of their keys, is right; and its cost."""
    right = measured.filter(condition=condition).sort("problem")["right"].cast(pl.Float64).to_numpy()
    return right, np.full(len(right), float(steps))


def with_edited(table: pl.DataFrame, edited: dict[tuple[str, float], Chosen]) -> pl.DataFrame:
    """The table of `choosing.tabled`, whose last rows are runs with edits, with the strength of each."""
    strengths = [None] * (len(table) - len(edited)) + [None if s != s else s for _, s in edited]
    return table.with_columns(pl.Series("strength", strengths, dtype=pl.Float64)).select(list(COLUMNS))


def claims(
    found: AnswerTrajectories, chosen: Sequence[Chosen], edited: dict[tuple[str, float], Chosen], steps: int
) -> list[Claim]:
    """Prediction by x0_hat early on, and what each way wins, at equal cost."""
    read_at = steps_of(found)
    quarter = read_at[len(read_at) // 4]
    rows = found.steps.filter(step=quarter).sort("run")
    problems = pl.Series(sorted(found.steps["sample"].unique()))
    stated = [
        above(
            f"after a quarter of the steps (step {quarter}) {X0} mostly shows the answer that the run ends with",
            paired(rows["final"], rows["sample"], (0, 1)),
            0.5,
            matters=MATTERS,
            paper=PAPER,
            measure=f"the share of runs with an answer whose {X0} shows it",
        )
    ]

    def gain(of: Chosen, over: Chosen, claim: str, paper: str | None = None, placebo: float | None = None) -> Claim:
        return above(
            claim,
            paired(pl.Series(of.right - over.right), problems, (-1, 1)),
            0.0,
            matters=MATTERS,
            paper=paper,
            placebo=placebo,
            measure="the share of right answers minus that of the other way, problem by problem",
        )

    one = next(of for of in chosen if of.rule == ONE)
    near = min((of.step for of in chosen if of.rule == "probe"), key=lambda step: abs(step - quarter))
    for of in chosen:
        if of.rule in EARLY and of.step == near:
            vote = equal_vote(chosen, of, steps)
            wins = f"a seed chosen after step {near} ({NAMES[of.rule]})"
            paper = PAPER if of.rule == "entropy" else None
            stated.append(gain(of, one, f"{wins} is right more often than one seed", paper=paper))
            cost = f"{of.cost.mean():.0f} steps a problem against {vote.cost.mean():.0f}"
            beats = f"{wins} is right more often than a vote of {counted(vote.seeds, 'whole run')} ({cost})"
            stated.append(gain(of, vote, beats))
    ways = {of.rule: (name, of) for (name, _), of in edited.items()}  # the strongest push at the last place
    if STEER in ways:
        (_, pushed), (_, placebo) = ways[STEER], ways[PLACEBO]
        claim = f"pushing hidden states at step {pushed.step} along the probe's direction gives more right answers"
        random = float((placebo.right - one.right).mean())
        stated.append(gain(pushed, one, f"{claim} than one seed", placebo=random))
    if ENSEMBLE in ways:
        claim = "averaging the middle layers over seeds at the first step gives more right answers than one seed"
        stated.append(gain(ways[ENSEMBLE][1], one, claim, paper=PAPER_ENSEMBLE))
    return stated


def findings(table: pl.DataFrame) -> str:
    """What was found, in numbers."""
    one = table.filter(rule=ONE).row(0, named=True)["value"]
    most = table["seeds"].to_numpy().max()
    best = table.filter(rule=ANY, seeds=most)["value"].to_list() or [one]
    parts = []
    for rule in (*EARLY, STEER, PLACEBO, ENSEMBLE, VOTE):
        of = table.filter(rule=rule).sort("value", descending=True, maintain_order=True)
        if len(of):
            row = of.row(0, named=True)
            share = "" if row["headroom"] is None else f" ({row['headroom']:.0%} of the headroom)"
            parts.append(f"{NAMES[rule]} {row['value']:.2f}{share}")
    alone = f"One seed is right in {one:.2f} of the problems, any of {most} in {best[0]:.2f}."
    return f"{alone} Each way at its best, which flatters it: {'; '.join(parts)}."


STUDY = Study(
    name="early_plan",
    question="Does the plan of the first steps predict the final one, and can it be used to choose or steer seeds?",
    needs="a task with candidate answers; a model that is right sometimes, not always",
    answer=answer,
    options=options,
    hardest=True,
    defaults={"problems": 20, "seeds": 4},
    quick={"problems": 10, "seeds": 3, "steps": 10, "strengths": [0.3], "steered": 1, "size": 6},
    minutes=(6.1, 0.7),
    work=work,
    real="--problems 20 --seeds 3 --strengths 0.3 --steered 1 --video 49 512 512",
)

if __name__ == "__main__":
    raise SystemExit(STUDY.main(sys.argv[1:]))
