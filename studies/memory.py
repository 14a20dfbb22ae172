"""Is the start state kept in mind at every step, and is attention to the first frame what keeps it?

Reading: at every step and layer, a linear probe is asked of tokens of a later latent frame whether the moving thing of
the task was there at first, beside the same probe on what the network was given. The last frame is asked, and the
middle one, in which the thing of the reappearance task is out of sight.

Knocking out: attention from all other frames to the first one is closed in spans of steps, in windows of layers, and
everywhere; with another frame's keys, or as many random tokens', as placebos. What may be lost is the right answer, and
the start state in the middle frame: probes fitted on undisturbed runs of other problems are asked again. (What they
cannot read may still be there in another form; that is what the placebos are for.)
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence

import polars as pl

from interp import select
from studies.base.claim import Claim, Estimate, above
from studies.base.columns import INTERVAL, PROBLEMS
from studies.base.signs import DASH, X0
from studies.drawing.memory_pictures import knocked, reading
from studies.frame.outcome import Outcome
from studies.frame.study import Parser, Study, positive, several
from studies.measures.knockouts import FIRST, KINDS, PLACEBOS, Place, knocked_out, places
from studies.measures.probed import COLUMNS as PROBED
from studies.measures.probed import HOOK, Probed, kept, probe, states
from studies.measures.questions import start_state
from studies.measures.readers import RIGHT, START, Reading, start_of
from studies.runs.bench import Bench
from studies.runs.conditions import CLEAN, contrast, measure, shares, spread
from studies.runs.work import Terms, Work

PAPER = "an object returns to where it was, and an occluded one is kept (shown in pictures; no figures)"
MATTERS = 0.05
COLUMNS = {
    "condition": "what is closed, where; clean: nothing",
    "kind": f"{'; '.join(f'{kind}: {text}' for kind, text in KINDS.items())}; null for clean",
    "where": "all: at every step and layer; steps: in a span of steps; layers: in a window of layers. For clean, the "
    "steps over which the start state is read",
    "first": "first step or layer of it",
    "last": "last step or layer of it",
    "measure": "right: the answer of the finished video; start: the start state, read in the middle frame, mean over "
    "the edited steps",
    "layer": "block after which the start state is read; null for right",
    "value": "share of right answers, or balanced accuracy of the probes",
    **INTERVAL,
    **PROBLEMS,
}


def options(parser: Parser) -> None:
    """What only this study asks for."""
    add = parser.add_argument
    add("--places", type=positive, default=12, help="steps whose hidden states are read, spread evenly")
    add("--spans", type=positive, default=3, help="spans of steps in which attention is knocked out")
    add("--windows", type=positive, default=5, help="windows of layers in which attention is knocked out")
    add("--knocked", type=positive, default=16, help="problems whose first run is knocked out, at most")
    add("--shuffles", type=several, default=10, help="label shuffles behind a chance level")
    add("--rows", type=positive, default=1000, help="tokens a probe is fitted on, at most")


def answer(bench: Bench) -> Outcome:
    """Run the study; see the module."""
    given, specs = bench.given, bench.specs(bench.samples())
    samples, grid = [spec.sample for spec in specs], bench.lab.grid(specs[0].sample)
    count, layers = bench.lab.schedule(specs[0].settings).steps, len(bench.lab.pipe.transformer.blocks)
    closed, steps, frames = asked(given, count, layers, grid.frames)
    clean = states(bench, specs, frames, steps)
    questions = [start_state(bench.task, samples, grid, frame) for frame in frames]
    probed = [
        probe(clean, question, steps, shuffles=given.shuffles, max_rows=given.rows, seed=given.seed)
        for question in questions
    ]
    bench.folder.write_with("probes.parquet", pl.concat([one.table for one in probed]).write_parquet)
    read_at = sorted({layers // 3, 2 * layers // 3, layers - 1})
    found = measure(
        bench,
        specs[:: given.seeds][: given.knocked],
        {_name(kind, place): knocked_out(kind, place, grid, given.seed) for kind in KINDS for place in closed},
        Reading(bench, clean, questions[0], steps, read_at).read,
        capture=select(f"blocks.*.{HOOK}", branch="cond", frames=frames[0], layer=read_at),
        also={"probes of": sorted(spec.key for spec in specs)},
    )
    found = with_means(found, closed, steps, read_at)
    table = described(found, closed, read_at)
    return Outcome(
        table=table,
        columns=COLUMNS,
        claims=[*reading_claims(probed, 2 * layers // 3), *knockout_claims(found, closed, 2 * layers // 3)],
        findings=findings(probed, table, 2 * layers // 3),
        sections=[reading(bench, probed), knocked(bench, table, layers - 1)],
        n={"problems": len({s.key for s in samples}), "runs": len(specs), "knocked out": int(table["n"].to_numpy()[0])},
        seeds=[spec.seed for spec in specs],
        more={"columns of probes.parquet": PROBED},
    )


def work(terms: Terms) -> Work:
    """What it takes; see `studies.runs.work`."""
    given = terms.given
    closed, steps, frames = asked(given, terms.steps, terms.layers, terms.grid.frames)
    firsts = [place.steps[0] for place in closed for _ in KINDS]
    sampled = terms.stored(kept(frames, steps), dtype="bfloat16")
    return sampled + terms.measured(firsts, min(given.problems, given.knocked))


def asked(given: Namespace, steps: int, layers: int, frames: int) -> tuple[list[Place], list[int], list[int]]:
    """Places of knock-outs; steps and latent frames whose hidden states are read."""
    closed = places(steps, layers, given.spans, given.windows)
    read = sorted({*spread(steps, given.places), *(place.steps[0] for place in closed)})
    return closed, read, sorted({frames // 2, frames - 1})


def _name(kind: str, place: Place) -> str:
    return f"{kind} {place}"


def with_means(
    found: pl.DataFrame, closed: Sequence[Place], steps: Sequence[int], layers: Sequence[int]
) -> pl.DataFrame:
    """The measured rows, with the mean of the start state over the edited steps of every place."""
    return found.with_columns(
        pl.mean_horizontal(
            [pl.col(start_of(layer, step)).cast(pl.Float64) for step in steps if first <= step <= last]
        ).alias(start_of(layer, (first, last)))
        for first, last in dict.fromkeys(place.steps for place in closed)
        for layer in layers
    )


def described(found: pl.DataFrame, closed: Sequence[Place], layers: Sequence[int]) -> pl.DataFrame:
    """One row a condition and measure; columns as in `COLUMNS`."""
    rows = []
    for layer in (None, *layers):
        for place in closed:
            column = RIGHT if layer is None else start_of(layer, place.steps)
            by = {row["condition"]: row for row in shares(found, column).to_dicts()}
            for kind in (None, *KINDS):
                condition = CLEAN if kind is None else _name(kind, place)
                about = {"kind": kind, "where": place.where, "first": place.first, "last": place.last, "layer": layer}
                rows.append({**by[condition], **about, "measure": RIGHT if layer is None else START})
    return pl.DataFrame(rows, infer_schema_length=None).select(list(COLUMNS))


def reading_claims(probed: Sequence[Probed], layer: int) -> list[Claim]:
    """At every step, in each frame that was asked; and more than is drawn there already."""
    stated = []
    for one in probed:
        curve, frame = one.curve(layer=layer), one.question.frame
        worst = curve.sort("low").row(0, named=True)
        stated.append(
            above(
                f"the start state can be read off latent frame {frame} after block {layer} at every step",
                Estimate(worst["score"], worst["low"], worst["high"], worst["groups"]),
                round(worst["chance_high"], 3),
                matters=MATTERS,
                paper=PAPER,
                placebo=worst["chance"],
                measure=f"the balanced accuracy at the worst step (step {worst['step']})",
            )
        )
        stated.append(
            above(
                f"hidden states tell the start state better than {X0} of the same frame (frame {frame}) does",
                one.gain("x0_hat", layer),
                0.0,
                matters=MATTERS,
                measure=f"the balanced accuracy after block {layer} minus that of {X0}, mean over steps,",
            )
        )
    return stated


def knockout_claims(found: pl.DataFrame, closed: Sequence[Place], layer: int) -> list[Claim]:
    """What is lost with the first frame, against the stronger placebo; early against late."""
    everywhere, spans = closed[0], [place for place in closed if place.where == "steps"]
    stated = []
    for column, what in ((RIGHT, "the right answer"), (start_of(layer, everywhere.steps), "the start state")):
        lost = {kind: contrast(found, column, [CLEAN], [_name(kind, everywhere)]) for kind in KINDS}
        stated.append(
            above(
                f"without attention to the first frame, {what} is lost more than without as many other tokens",
                lost[FIRST],
                0.0,
                matters=MATTERS,
                paper=PAPER,
                placebo=max(lost[kind].value for kind in PLACEBOS),
                measure=f"{_measured(column, layer)} undisturbed minus knocked out",
            )
        )
    early, late = spans[0], spans[-1]
    by_step = {kind: contrast(found, RIGHT, [_name(kind, late)], [_name(kind, early)]) for kind in KINDS}
    stated.append(
        above(
            f"attention to the first frame is needed more in the first steps ({DASH.join(map(str, early.steps))}) than "
            f"in the last ({DASH.join(map(str, late.steps))})",
            by_step[FIRST],
            0.0,
            matters=MATTERS,
            placebo=max(by_step[kind].value for kind in PLACEBOS),
            measure="the share of right answers knocked out late minus early",
        )
    )
    single = {kind: [_name(kind, place) for place in closed if place.where == "layers"] for kind in KINDS}
    by_layer = {kind: contrast(found, RIGHT, single[kind], [_name(kind, everywhere)]) for kind in KINDS}
    stated.append(
        above(
            "no window of layers is needed alone: closing one loses fewer right answers than closing all",
            by_layer[FIRST],
            0.0,
            matters=MATTERS,
            placebo=max(by_layer[kind].value for kind in PLACEBOS),
            measure="the share of right answers, mean over windows, minus that with all layers closed",
        )
    )
    return stated


def _measured(column: str, layer: int) -> str:
    return "the share of right answers" if column == RIGHT else f"the balanced accuracy after block {layer}"


def findings(probed: Sequence[Probed], table: pl.DataFrame, layer: int) -> str:
    """What was found, in numbers."""
    parts = []
    for one in probed:
        hidden, drawn = (rows["score"].to_numpy() for rows in (one.curve(layer=layer), one.curve("x0_hat")))
        parts.append(
            f"frame {one.question.frame}, {hidden.min():.2f} to {hidden.max():.2f} over the steps ({X0}: "
            f"{drawn.min():.2f} to {drawn.max():.2f})"
        )
    chance = probed[0].curve(layer=layer)["chance"].to_numpy().mean()
    everywhere = table.filter(pl.col("where") == "all")
    right = dict(everywhere.filter(measure=RIGHT).select("kind", "value").iter_rows())
    kept = dict(everywhere.filter(pl.col("layer") == layer).select("kind", "value").iter_rows())
    lost = ", ".join(f"{right[kind]:.2f} and {kept[kind]:.2f} without {_SAID[kind]}" for kind in KINDS)
    return (
        f"Balanced accuracy of the start state after block {layer}: {'; '.join(parts)}; chance {chance:.2f}. Right "
        f"answers, and the start state in the middle frame: {right[None]:.2f} and {kept[None]:.2f} undisturbed; {lost}."
    )


_SAID = {FIRST: "attention to the first frame", "frame": "that to another frame", "tokens": "that to random tokens"}


STUDY = Study(
    name="memory",
    question="Is the start state kept in mind at every step, and is attention to the first frame what keeps it?",
    needs="a task that says where something is at first; a model that is given the first frame",
    answer=answer,
    options=options,
    defaults={"problems": 48, "seeds": 1, "steps": 12, "size": 5},
    quick={"problems": 14, "knocked": 4, "spans": 2, "windows": 2, "places": 5, "shuffles": 4},
    minutes=(3.6, 0.6),
    work=work,
    real="--task reappearance --problems 48 --seeds 1 --batch-size 8",
    tasks=("reappearance", "maze"),
)

if __name__ == "__main__":
    raise SystemExit(STUDY.main(sys.argv[1:]))
