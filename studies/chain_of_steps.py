"""Are several answers entertained at first and pruned along the denoising steps?

The clean estimate x0_hat of every step is read for each candidate answer (see `interp.answers`): how likely, how fully
drawn, how many are live, several drawn in full (multi-path) or a pale mixture (superposition), when the run commits.
Mazes are fork mazes, with exactly two equally short routes, unless ``--ordinary`` asks for others.
"""

from __future__ import annotations

import sys

import numpy as np
import polars as pl

from interp.answers import COLUMNS, MODES, AnswerTrajectories
from studies.base.claim import Claim, above
from studies.base.signs import X0
from studies.drawing.canvas import BLUE, GREEN, ORANGE
from studies.drawing.figures import Line, lines
from studies.drawing.report import Picture, Section
from studies.frame.outcome import Outcome
from studies.frame.study import Parser, Study, positive
from studies.measures.following import at_step, candidate_samples, follow_clean, has_candidates, mixed, steps_of
from studies.runs.bench import Bench
from studies.runs.conditions import paired
from studies.runs.work import Terms, Work

PAPER = "shown in pictures: several paths or a superposition at first, then pruning, then a decision; no figures"
MATTERS = 0.1
SAID = {
    "one": "one answer",
    "several": "several in full",
    "blend": "a superposition",
    "empty": "none yet",
    "unclear": "something else",
}


def options(parser: Parser) -> None:
    """What only this study asks for."""
    add = parser.add_argument
    add("--ordinary", action="store_true", help="ordinary mazes instead of fork mazes")
    add("--apart", type=positive, default=4, help="cells in which the two routes of a fork differ, at least")
    add("--decode", type=int, nargs="+", default=None, metavar="STEP", help="steps to decode; all if not given")


def answer(bench: Bench) -> Outcome:
    """Run the study; see the module."""
    samples = bench.samples() if bench.given.ordinary else candidate_samples(bench, bench.given.apart)
    clean = bench.clean(bench.specs(samples))
    found = follow_clean(bench, clean, bench.given.decode)
    return Outcome(
        table=found.steps,
        columns=COLUMNS,
        claims=claims(found),
        findings=findings(found),
        sections=[_section(bench, found)],
        n={"problems": len({s.sample.key for s in clean.specs}), "runs": len(clean.specs)},
        seeds=[spec.seed for spec in clean.specs],
        more={"runs": found.runs.to_dicts()},
    )


def work(terms: Terms) -> Work:
    """What it takes; see `studies.runs.work`."""
    decoded = range(terms.steps) if terms.given.decode is None else {*terms.given.decode, terms.steps - 1}
    return terms.clean(read=len(decoded))


def claims(found: AnswerTrajectories) -> list[Claim]:
    """Exploration, pruning and commitment."""
    steps = steps_of(found)
    first, last = at_step(found, steps[0]), at_step(found, steps[-1])
    groups = first["sample"]
    stated = []
    if has_candidates(found):
        stated += [
            above(
                f"at the first step {X0} shows several answers at once, drawn in full or as a superposition",
                paired(mixed(first), groups, (0, 1)),
                0.0,
                matters=MATTERS,
                paper=PAPER,
                placebo=float(mixed(last).to_numpy().mean()),
                measure="the share of runs",
            ),
            above(
                "the second most drawn answer is given up by the last step",
                paired(first["drawn_second"] - last["drawn_second"], groups, None),
                0.0,
                matters=0.05,
                paper=PAPER,
                measure="how fully it is drawn (0 to 1), first step minus last",
            ),
            above(
                "uncertainty about the answer falls from the first step to the last",
                paired(first["entropy"] - last["entropy"], groups, None),
                0.0,
                matters=MATTERS,
                paper=PAPER,
                measure="entropy of the posterior over candidates in bits, first step minus last",
            ),
        ]
    runs = found.runs.filter(pl.col("committed").is_not_null())
    half = runs["committed"] <= steps[len(steps) // 2] if len(runs) else pl.Series([], dtype=pl.Boolean)
    stated.append(
        above(
            "most runs that end with an answer have committed to it in the first half of the steps",
            paired(half, runs["sample"], (0, 1)),
            0.5,
            matters=MATTERS,
            paper="the decision falls in the early and middle steps; no figures",
            measure="the share of those runs",
        )
    )
    return stated


def findings(found: AnswerTrajectories) -> str:
    """What was found, in numbers."""
    steps, runs = steps_of(found), found.runs
    parts = []
    if has_candidates(found):
        for step in (steps[0], steps[-1]):
            modes = at_step(found, step)["mode"].to_list()
            said = ", ".join(f"{SAID[mode]} in {modes.count(mode) / len(modes):.2f}" for mode in MODES if mode in modes)
            parts.append(f"At step {step}, {X0} shows (shares of runs): {said}.")
    committed = runs["committed"].drop_nulls().to_numpy()
    if len(committed):
        parts.append(
            f"{len(committed)} of {len(runs)} runs end with an answer; half of them have committed to it by step "
            f"{np.median(committed):.0f} of {steps[-1]}."
        )
    parts.append(
        f"Wrong answers became right {runs['wrong_to_right'].sum()} times and right ones wrong "
        f"{runs['right_to_wrong'].sum()} times."
    )
    return " ".join(parts)


def _section(bench: Bench, found: AnswerTrajectories) -> Section:
    panels: list[tuple[str, list[Line]]] = [
        (
            "The solver's verdict",
            [_line(found, "right", "right answer", BLUE), _line(found, "wrong", "wrong answer", ORANGE)],
        )
    ]
    if has_candidates(found):
        panels += [
            (
                "How fully it is drawn",
                [
                    _line(found, "drawn_best", "answer drawn most", BLUE, None),
                    _line(found, "drawn_second", "second most", ORANGE, None),
                ],
            ),
            (
                "How many answers it shows",
                [
                    _line(found, "several", SAID["several"], GREEN),
                    _line(found, "blend", SAID["blend"], ORANGE),
                    _line(found, "one", SAID["one"], BLUE),
                ],
            ),
        ]
    sigmas = found.steps.select("step", "sigma").unique().sort("step")["sigma"].to_list()
    with bench.folder.writing("answers.png") as path:
        lines(path, panels, sigmas, ylabel="share of runs, or how fully (0 to 1)")
    n, runs = found.steps["sample"].n_unique(), found.steps["run"].n_unique()
    caption = (
        f"{X0} of every step, decoded. Left: the share of runs in which the task's exact solver finds the right answer "
        "in it, or a wrong one (the rest: none). Middle: how fully the answers are drawn, 1 as in a finished video. "
        "Right: the share of runs that show one answer, several in full, or a superposition of pale ones. "
        f"{runs} runs of {n} problems; bands: 95 % intervals over problems."
    )
    return Section(f"Answers in {X0}", (), (Picture(bench.folder / "answers.png", "Answers by step", caption),))


def _line(
    found: AnswerTrajectories, column: str, name: str, colour: str, ends: tuple[float, float] | None = (0.0, 1.0)
) -> Line:
    rows = found.by_step(column, ends=ends).sort("step")
    return Line(name, rows["mean"].to_list(), rows["low"].to_list(), rows["high"].to_list(), colour=colour)


STUDY = Study(
    name="chain_of_steps",
    question="Are several answers entertained at first and pruned along the denoising steps?",
    needs="a task with candidate answers",
    answer=answer,
    options=options,
    defaults={"problems": 48, "seeds": 2, "size": 6},
    quick={"problems": 10},
    minutes=(1.3, 0.4),
    work=work,
    real="--problems 20 --seeds 2",
)

if __name__ == "__main__":
    raise SystemExit(STUDY.main(sys.argv[1:]))
