"""What is there first in hidden states: which object is where, where it moves, or which answer?

Linear probes are fitted at every step and layer for three questions. *Object*: was the moving thing here at first? It
is asked of tokens of the first generated latent frame. *Motion*: does something move in here in the first moment? It is
asked of the same tokens, the thing's own left out. *Plan*: is this part of the answer that the run ends with, and not
of another? It is asked of the last frame. Each has an onset, see `studies.measures.onsets`; differences are paired over
problems. The same probes on x0_hat tell when the picture shows it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from studies.base.claim import Claim, above
from studies.base.signs import X0
from studies.drawing.canvas import BLUE, GREEN, ORANGE
from studies.drawing.figures import Series, points
from studies.drawing.probe_maps import draw_maps
from studies.drawing.report import Picture, Section
from studies.frame.outcome import Outcome
from studies.frame.study import Parser, Study, positive, several
from studies.measures.following import candidate_samples
from studies.measures.onsets import Onset, later, onset_of
from studies.measures.probed import COLUMNS, HIDDEN, Probed, kept, probe, states
from studies.measures.questions import motion_and_plan, of_shared_problems, start_state
from studies.runs.bench import Bench
from studies.runs.work import Terms, Work

PAPER = "objects are located first, then they move, then the goal is reached (a car, a door; pictures, no figures)"
OBJECT, MOTION, PLAN = "object", "motion", "plan"
COLOURS = {OBJECT: GREEN, MOTION: BLUE, PLAN: ORANGE}


def options(parser: Parser) -> None:
    """What only this study asks for."""
    add = parser.add_argument
    add("--places", type=positive, default=10, help="steps whose hidden states are read, denser at first")
    add("--share", type=float, default=0.5, help="of the most that is ever won over chance, from which on it is there")
    add("--apart", type=positive, default=4, help="cells in which the two routes of a fork maze differ, at least")
    add("--shuffles", type=several, default=10, help="label shuffles behind a chance level")
    add("--rows", type=positive, default=800, help="tokens a probe is fitted on, at most; as many for each question")


@dataclass(frozen=True)
class Found:
    """By question: its probes, its onset in hidden states, and that in x0_hat."""

    probed: Mapping[str, Probed]
    hidden: Mapping[str, Onset]
    drawn: Mapping[str, Onset]


def answer(bench: Bench) -> Outcome:
    """Run the study; see the module."""
    specs = bench.specs(candidate_samples(bench, apart=bench.given.apart))
    found = read_off(bench, specs)
    return Outcome(
        table=pl.concat([one.table for one in found.probed.values()]),
        columns=COLUMNS,
        claims=claims(found),
        findings=findings(found),
        sections=[_onsets(bench, found), _maps(bench, found)],
        n={
            "problems": len({spec.sample.key for spec in specs}),
            "runs": len(specs),
            "problems asked": found.hidden[PLAN].problems,
        },
        seeds=[spec.seed for spec in specs],
        more={"onsets": onset_rows(found)},
    )


def work(terms: Terms) -> Work:
    """What it takes; see `studies.runs.work`."""
    steps = denser_at_first(terms.steps, terms.given.places)
    return terms.stored(kept([1, terms.grid.frames - 1], steps), dtype="bfloat16", read=1)


def read_off(bench: Bench, specs: Sequence[Any]) -> Found:
    """Fit the probes of all questions, on the same problems, and find their onsets."""
    given, samples = bench.given, [spec.sample for spec in specs]
    grid = bench.lab.grid(samples[0])
    steps = denser_at_first(bench.lab.schedule(specs[0].settings).steps, given.places)
    runs = states(bench, specs, [1, grid.frames - 1], steps)
    motion, plan = motion_and_plan(bench.task, samples, runs.videos(steps[-1]), grid)
    place = replace(start_state(bench.task, samples, grid, 1), name=OBJECT)
    questions = of_shared_problems([place, motion, plan], samples)
    rows = min(given.rows, *(len(question.rows(samples, given.seed).label) for question in questions))
    fit = {"shuffles": given.shuffles, "max_rows": rows, "seed": given.seed}
    probed = {question.name: probe(runs, question, steps, **fit) for question in questions}
    return Found(
        probed,
        {name: onset_of(one.hidden, given.share) for name, one in probed.items()},
        {name: onset_of(one.given["x0_hat"], given.share) for name, one in probed.items()},
    )


def denser_at_first(steps: int, count: int) -> list[int]:
    """At most ``count`` steps from the first to the last, denser at first.

    >>> denser_at_first(20, 10), denser_at_first(3, 10)
    ([0, 1, 2, 4, 6, 8, 11, 15, 19], [0, 1, 2])
    """
    places = np.linspace(0, 1, max(2, count)) ** 2 if steps > count else np.linspace(0, 1, steps)
    return sorted({round(float(place) * (steps - 1)) for place in places})


def claims(found: Found) -> list[Claim]:
    """The order of the three, pair by pair; and hidden states before the picture."""
    block = 1 / len(found.probed[PLAN].hidden.layers)
    pairs = [(first, second, found.hidden[first], found.hidden[second]) for first, second in _PAIRS]
    stated = []
    for first, second, one, other in pairs:
        difference, placebo = later(one, other)
        stated.append(
            above(
                f"{first} can be read off hidden states before {second} can",
                difference,
                0.0,
                matters=block,
                paper=PAPER,
                placebo=placebo,
                measure=f"the onset of {second} minus that of {first}, in steps (one block is {block:.2f}),",
            )
        )
    difference, placebo = later(found.hidden[PLAN], found.drawn[PLAN])
    stated.append(
        above(
            f"the plan can be read off hidden states before it can be read off {X0}",
            difference,
            0.0,
            matters=block,
            placebo=placebo,
            measure=f"the onset in {X0} minus that in hidden states, in steps,",
        )
    )
    return stated


_PAIRS = ((OBJECT, MOTION), (MOTION, PLAN), (OBJECT, PLAN))


def onset_rows(found: Found) -> list[dict[str, Any]]:
    """One row a question and source: onset with interval, in steps, and how often shuffled labels have one."""
    rows = []
    for source, onsets in ((HIDDEN, found.hidden), ("x0_hat", found.drawn)):
        for name, onset in onsets.items():
            about = {"question": name, "source": source, **vars(onset.estimate)}
            rows.append({**about, "never": onset.at >= onset.end, "shuffled labels with an onset": onset.false})
    return rows


def findings(found: Found) -> str:
    """What was found, in numbers."""
    onsets = ", ".join(f"{name} {onset}" for name, onset in found.hidden.items())
    drawn = ", ".join(f"{name} {onset}" for name, onset in found.drawn.items())
    best = ", ".join(f"{name} {one.hidden.table['score'].to_numpy().max():.2f}" for name, one in found.probed.items())
    order = sorted(found.hidden, key=lambda name: found.hidden[name].at)
    false = np.mean([onset.false for onset in found.hidden.values()])
    return (
        f"Onsets in hidden states, in steps: {onsets}; in {X0}: {drawn}. In the order of onsets: {', '.join(order)}. "
        f"Best balanced accuracy: {best}. {false:.0%} of the grids with shuffled labels have an onset at all."
    )


def _onsets(bench: Bench, found: Found) -> Section:
    names, series = list(found.probed), []
    for name, onsets, colour in (("hidden states", found.hidden, BLUE), (X0, found.drawn, ORANGE)):
        estimates = [onset.estimate for onset in onsets.values()]
        columns = ([getattr(e, part) for e in estimates] for part in ("value", "low", "high"))
        series.append(Series(name, colour, range(len(names)), *columns))
    by_step = [
        _series(name, one.hidden.table.sort("score").group_by("step").last().sort("step"), "step")
        for name, one in found.probed.items()
    ]
    first = found.probed[PLAN].hidden.steps[0]
    by_layer = [
        _series(name, one.hidden.table.filter(step=first).sort("layer"), "layer") for name, one in found.probed.items()
    ]
    folder, n = bench.folder, found.hidden[PLAN].problems
    with folder.writing("onsets.png") as path:
        points(path, [("Onsets", series)], xlabel="", ylabel="onset, in steps", ylim=None, ticks={0: names})
    with folder.writing("scores.png") as path:
        panels = [("Best block of every step", by_step), (f"Blocks of step {first}", by_layer)]
        points(path, panels, xlabel=("step", "block"), ylabel="balanced accuracy", ylim=(0.4, 1.0))
    asked = [f"{name.capitalize()}: {one.question.asked}" for name, one in found.probed.items()]
    rule = (
        f"Something is there once its probe has won {bench.given.share:.0%} of what it ever wins over chance, and lies "
        "above the chance level, and so at the next steps that were read; blocks are counted as fractions of a step. "
        "Whatever is never there stands at the end. The three are asked of equally many tokens."
    )
    bars = f"Bars: 95 % intervals over {n} problems."
    pictures = (
        Picture(folder / "onsets.png", "Onsets", f"When each can be read off, by the rule above. {bars}"),
        Picture(folder / "scores.png", "Scores over steps and blocks", f"{bars} Chance is about 0.5."),
    )
    return Section("What is there first", (" ".join(asked), rule), pictures)


def _series(name: str, of: pl.DataFrame, at: str) -> Series:
    return Series(name, COLOURS[name], *(of[column].to_list() for column in (at, "score", "low", "high")))


def _maps(bench: Bench, found: Found) -> Section:
    maps = [draw_maps(bench.folder, f"map_{name}.png", [one], name.capitalize()) for name, one in found.probed.items()]
    return Section("By step and layer", (), maps)


STUDY = Study(
    name="perception_before_action",
    question="What is there first in hidden states: which object is where, where it moves, or which answer?",
    needs="a task that says where something is at first and which tokens are whose answer",
    answer=answer,
    options=options,
    defaults={"problems": 48, "seeds": 1, "size": 5},
    quick={"problems": 16, "places": 5, "shuffles": 5, "rows": 400},
    minutes=(1, 0.4),
    tasks=("maze", "bounce"),
    work=work,
    real="--task maze --size 8 --problems 48 --seeds 1 --batch-size 8",
)

if __name__ == "__main__":
    raise SystemExit(STUDY.main(sys.argv[1:]))
