"""Does averaging the hidden states of several seeds at the first step make the answer better?

K seeds of one problem travel as worlds of one batch, and at one step a window of layers averages them. The paper shows
one window of four; here every window of the width is measured, so that a best one is seen beside its neighbours, and
beside averages of other things (velocity, x0_hat, the initial noise, the final latents), with the shrinking that an
average brings undone, written to one seed only, and at later steps. Placebo: in the same window the seeds' states are
exchanged instead of averaged, which is as strong a change and pools nothing. Without any edit, the same K runs give
what choosing could win: the majority's answer, and any seed right.
"""

from __future__ import annotations

import sys
from typing import Any

import polars as pl

from interp.edits import EditedRun
from studies.base.claim import Claim, Estimate, above
from studies.base.columns import INTERVAL, PROBLEMS
from studies.base.words import counted, spanned
from studies.drawing.canvas import BLUE, GREEN, ORANGE
from studies.drawing.figures import Series, points
from studies.drawing.report import Picture, Section
from studies.frame.outcome import Outcome
from studies.frame.study import Parser, Study, positive
from studies.measures.answers import read_video
from studies.measures.gains import gain, with_choices
from studies.measures.pooling import WHAT, over_groups, variants, way
from studies.runs.bench import Bench
from studies.runs.conditions import CLEAN, contrast, measure, shares
from studies.runs.work import Terms, Work

PAPER = "three seeds, first step, 40 layers: none 0.685, layers 20-29 0.716, layers 0-9 0.688, all 0.690"
MATTERS = 0.02
COLUMNS = {
    "condition": "what is averaged, where, at which step; clean: nothing; majority and any are read off the clean runs",
    "what": "resid: the residual stream after the layers; velocity, x0, latents_in, latents_out; exchange: the placebo",
    "first_layer": "first layer of the window, null where there is none",
    "last_layer": "last layer of the window",
    "step": "at which it happens, null for final latents and clean",
    "match": "what the average keeps: norm or variance of what it was made from, or nothing (null)",
    "into": "all: every seed is overwritten; first: only the first, whose answer alone counts",
    "value": "share of right answers, over seeds and problems (first, majority and any: over problems)",
    **INTERVAL,
    "gain": "the same minus that of the clean runs of the same problems",
    "gain_low": "lower end of its interval",
    "gain_high": "upper end",
    **PROBLEMS,
}


def options(parser: Parser) -> None:
    """What only this study asks for."""
    add = parser.add_argument
    add("--width", type=positive, default=None, help="layers of a window; a quarter of the layers if not given")
    add("--windows", type=positive, default=None, help="windows that are tried, spread evenly; or all")
    add("--at", type=int, nargs="+", default=[0, 1, 2], metavar="STEP", help="steps; windows are tried at the first")


def answer(bench: Bench) -> Outcome:
    """Run the study; see the module."""
    seeds = bench.given.seeds
    specs = bench.specs(bench.samples())
    layers = len(bench.lab.pipe.transformer.blocks)
    steps = bench.lab.schedule(specs[0].settings).steps
    tried = variants(layers, bench.given, steps)
    found = measure(
        bench,
        specs,
        {name: over_groups(make, seeds) for name, (_, make) in tried.items()},
        lambda run: read(bench, run),
        group=seeds,
    )
    found = with_choices(found)
    table = described(found, {name: facts for name, (facts, _) in tried.items()})
    return Outcome(
        table=table,
        columns=COLUMNS,
        claims=claims(found, table),
        findings=findings(table),
        sections=[_section(bench, table)],
        n={"problems": len({s.sample.key for s in specs}), "runs": len(specs), "conditions": len(tried) + 1},
        seeds=[spec.seed for spec in specs],
    )


def work(terms: Terms) -> Work:
    """What it takes; see `studies.runs.work`."""
    given = terms.given
    tried = variants(terms.layers, given, terms.steps)
    return terms.measured((make((0, 1)) for _, make in tried.values()), group=given.seeds)


def read(bench: Bench, run: EditedRun) -> dict[str, Any]:
    """The answer of the finished video."""
    return read_video(bench.task, run.spec.sample, run.frames)


def described(found: pl.DataFrame, facts: dict[str, dict[str, Any]]) -> pl.DataFrame:
    """One row a condition; columns as in `COLUMNS`."""
    rows = []
    for row in shares(found, "right").to_dicts():
        of = facts.get(row["condition"], {"what": row["condition"]})
        first = of.get("into") == "first"
        if first:
            only = found.filter(condition=row["condition"]).group_by("problem", maintain_order=True).first()
            row = shares(only, "right").row(0, named=True)
        more = gain(found, row["condition"], first=first)
        changed = row["condition"] != CLEAN
        rows.append(
            {name: of.get(name) for name in COLUMNS}
            | {name: row[name] for name in ("condition", "value", "low", "high", "n")}
            | {"into": of.get("into", "all" if row["condition"] in facts else None)}
            | {
                "gain": more.value if changed else 0.0,
                "gain_low": more.low if changed else 0.0,
                "gain_high": more.high if changed else 0.0,
            }
        )
    return pl.DataFrame(rows, infer_schema_length=None)


def claims(found: pl.DataFrame, table: pl.DataFrame) -> list[Claim]:
    """The middle window, the best window against the others, and the ensemble against plain voting."""
    windows = table.filter((pl.col("what") == "resid") & pl.col("match").is_null() & (pl.col("into") == "all"))
    windows = windows.filter(pl.col("step") == windows["step"].min())
    size = (windows["last_layer"] - windows["first_layer"]).min()
    windows = windows.filter(pl.col("last_layer") - pl.col("first_layer") == size).sort("first_layer")
    middle = windows.row(len(windows) // 2, named=True)
    swapped = table.filter(
        (pl.col("what") == "exchange")
        & (pl.col("first_layer") == middle["first_layer"])
        & (pl.col("last_layer") == middle["last_layer"])
    ).row(0, named=True)
    span = spanned(middle["first_layer"], middle["last_layer"], "layer")
    others = [name for name in windows["condition"] if name != middle["condition"]]
    measured = found.filter(~pl.col("condition").is_in(["majority", "any"]))
    stated = [
        above(
            f"averaging the residual stream of the seeds in {span} at step {middle['step']} gives more right answers",
            Estimate(middle["gain"], middle["gain_low"], middle["gain_high"], middle["n"]),
            0.0,
            matters=MATTERS,
            paper=PAPER,
            placebo=swapped["gain"],
            measure="the share of right answers with the average minus without",
        ),
        above(
            "the ensemble at the middle window beats the majority vote of the same seeds",
            gain(found, middle["condition"], over="majority"),
            0.0,
            matters=MATTERS,
            measure="the share of right answers with the average minus that of the majority's answer",
        ),
    ]
    if others:
        stated.append(
            above(
                f"the middle window ({span}) is better than the mean of all other windows of its width",
                contrast(measured, "right", [middle["condition"]], others),
                0.0,
                matters=MATTERS,
                paper="0.716 against 0.688 (layers 0-9); other windows of that width were not shown",
                measure="the share of right answers at the middle window minus the mean of the others",
            )
        )
    return stated


def findings(table: pl.DataFrame) -> str:
    """What was found, in numbers."""

    def value(condition: str) -> str:
        row = table.filter(condition=condition).row(0, named=True)
        return f"{row['value']:.2f}"

    windows = table.filter((pl.col("what") == "resid") & (pl.col("into") == "all"))
    best = windows.sort("gain", descending=True).row(0, named=True)
    return (
        f"One seed alone is right in {value(CLEAN)} of the cases, the majority's answer in {value('majority')}, any of "
        f"the seeds in {value('any')}. Of {len(windows)} averages of the residual stream the best "
        f"({spanned(best['first_layer'], best['last_layer'], 'layer')}, {way(best)}) gains {best['gain']:+.2f} "
        f"({best['gain_low']:+.2f} to {best['gain_high']:+.2f}; the best of so many is flattered)."
    )


def _section(bench: Bench, table: pl.DataFrame) -> Section:
    stream = table.filter(pl.col("what") == "resid")
    width = (stream["last_layer"] - stream["first_layer"]).to_numpy().min()
    panels = []
    for name, what, colour in (("average", "resid", BLUE), (WHAT["exchange"], "exchange", ORANGE)):
        rows = table.filter(
            (pl.col("what") == what)
            & (pl.col("last_layer") - pl.col("first_layer") == width)
            & (pl.col("step") == table["step"].min())
            & pl.col("match").is_null()
            & (pl.col("into") == "all")
        ).sort("first_layer")
        panels.append(Series.of(name, colour, rows, "first_layer", "gain"))
    plain = pl.col("match").is_null() & (pl.col("into") == "all") & (pl.col("step") == table["step"].min())
    others = table.filter(~pl.col("what").is_in([CLEAN, "exchange"]) & ~((pl.col("what") == "resid") & plain))
    rest = Series.of("other", GREEN, others, range(len(others)), "gain")
    names = [way(row, bench.given.at[0]) for row in others.to_dicts()]
    with bench.folder.writing("ensemble.png") as path:
        points(
            path,
            [("Windows of layers", panels), ("Other ways", [rest])],
            xlabel=("first layer of the window", ""),
            ylabel="gain in right answers",
            ylim=None,
            level=0.0,
            ticks={1: names},
        )
    n = table.row(0, named=True)["n"]
    caption = (
        f"Share of right answers minus that of the same runs without an edit, {n} problems with {bench.given.seeds} "
        "seeds each; bars: 95 % intervals over problems. Left: the residual stream of "
        f"{counted(int(width) + 1, 'layer')} is averaged over seeds, or exchanged between them. Right: the middle "
        "window averaged in other ways (its norm or variance kept, written into one seed only, at other steps), or "
        "other things averaged; the vote and any seed right choose among the runs without an edit."
    )
    return Section(
        "Ensembles of seeds", (), (Picture(bench.folder / "ensemble.png", "Gain in right answers", caption),)
    )


STUDY = Study(
    name="ensemble",
    question="Does averaging the hidden states of several seeds at the first step make the answer better?",
    needs="any task with right answers; a model that is right sometimes, not always",
    answer=answer,
    options=options,
    hardest=True,
    defaults={"problems": 12, "seeds": 3, "windows": 5, "batch_size": 24},
    quick={"problems": 5, "steps": 10, "windows": 3, "at": [0], "size": 6},
    minutes=(8.6, 0.9),
    work=work,
    real="--problems 10 --seeds 3 --width 10 --windows 5 --at 0 --batch-size 3 --video 49 512 512",
)

if __name__ == "__main__":
    raise SystemExit(STUDY.main(sys.argv[1:]))
