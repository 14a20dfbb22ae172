"""Does the model correct a wrong answer while it denoises?

Without interference: how often x0_hat goes from a wrong answer to the right one, and the other way. With interference:
a mistake of known size is put in. Each problem comes as a pair of nearly equal problems with different answers; at one
step the latents of the first are made again from its x0_hat, mixed with the video of the second's answer, and the same
noise. A mistake of size 0 is the placebo (nothing is changed but for rounding), of size 1 the other answer in full. A
repaired run ends with the right answer all the same.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from interp import RunSpec, Sample, edits
from interp.decode import latents_of
from interp.edits import EditedRun, EditGraph
from interp.patches import patchify
from studies.base.claim import Claim, above
from studies.base.columns import INTERVAL, PROBLEMS
from studies.base.words import numbered
from studies.drawing.canvas import BLUE, GREEN, INK, ORANGE
from studies.drawing.figures import Series, points
from studies.drawing.report import Picture, Section
from studies.frame.outcome import Outcome
from studies.frame.study import Parser, Study, several
from studies.measures.answers import read_video
from studies.measures.following import follow_clean
from studies.runs.bench import Bench
from studies.runs.clean import X0_SITE, CleanRuns
from studies.runs.conditions import CLEAN, contrast, measure, paired, shares, spread
from studies.runs.pairs import draw_pairs
from studies.runs.work import Terms, Work

PAPER = "wrong intermediate answers are corrected in later steps (shown in pictures; no figures)"
MATTERS = 0.05
PLACEBO = 0.0
COLUMNS = {
    "condition": "size of the mistake and step at which it is put in; clean: none",
    "size": "0: the run's own x0_hat, 1: the other problem's answer; null for clean",
    "step": "at which it is put in",
    "sigma": "its noise level",
    "value": "share of runs that end with the right answer",
    **INTERVAL,
    **PROBLEMS,
    "runs": "runs",
}


def options(parser: Parser) -> None:
    """What only this study asks for."""
    add = parser.add_argument
    add("--sizes", type=float, nargs="+", default=[0.5, 1.0], help="sizes of the mistake, above 0 and up to 1")
    add("--places", type=several, default=6, help="steps at which it is put in, spread evenly")


def answer(bench: Bench) -> Outcome:
    """Run the study; see the module."""
    pairs = draw_pairs(bench)
    specs = bench.specs([one for one, _ in pairs])
    clean = bench.clean(specs)
    mistakes = wrong_latents(bench, pairs)
    conditions = {
        f"size={size:g} step={step}": injection(clean, mistakes, step, size)
        for size, step in asked(bench.given, clean.steps)
    }
    found = measure(bench, specs, conditions, lambda run: read(bench, run))
    trajectories = follow_clean(bench, clean)
    table = described(shares(found, "right"), clean.sigmas)
    return Outcome(
        table=table,
        columns=COLUMNS,
        claims=claims(found, table, trajectories.runs),
        findings=findings(table, trajectories.runs),
        sections=[_section(bench, table)],
        n={"problems": len(pairs), "runs": len(specs), "conditions": len(conditions) + 1},
        seeds=[spec.seed for spec in specs],
        more={"transitions": trajectories.runs.to_dicts()},
    )


def work(terms: Terms) -> Work:
    """What it takes; see `studies.runs.work`."""
    return terms.clean(read=terms.steps) + terms.measured([step for _, step in asked(terms.given, terms.steps)])


def asked(given: Namespace, steps: int) -> list[tuple[float, int]]:
    """Size of the mistake and step of every condition."""
    places = [step for step in spread(steps, given.places) if step > 0]
    return [(size, step) for size in (PLACEBO, *sorted(set(given.sizes))) for step in places]


def read(bench: Bench, run: EditedRun) -> dict[str, Any]:
    """The answer of the finished video."""
    return read_video(bench.task, run.spec.sample, run.frames)


def wrong_latents(bench: Bench, pairs: Sequence[tuple[Sample, Sample]]) -> dict[str, Tensor]:
    """By problem: latents of the other problem's right video, [channel, latent_frame, row, col]."""
    found: dict[str, Tensor] = {}
    for batch in bench.batches(pairs):
        videos = np.stack([bench.task.render(other) for _, other in batch])
        found |= {one.key: z for (one, _), z in zip(batch, latents_of(bench.lab.pipe, videos), strict=True)}
    return found


def injection(
    clean: CleanRuns, mistakes: dict[str, Tensor], step: int, size: float
) -> Callable[[Sequence[RunSpec]], EditGraph]:
    """From the runs of a batch to the edit that puts the mistake into each.

    x_t = (1 - sigma) x0_hat + sigma eps gives the noise eps that a run believes it has; x_t is made again with that eps
    and (1 - size) x0_hat + size z, z being the mistake.
    """
    number = {spec.key: k for k, spec in enumerate(clean.specs)}
    sigma, grid = clean.sigmas[step], clean.lab.grid(clean.specs[0].sample)

    def graph(batch: Sequence[RunSpec]) -> EditGraph:
        runs = [number[spec.key] for spec in batch]
        latents, x0 = clean.tokens("latents.hook_in", step, runs), clean.tokens(X0_SITE, step, runs)
        joined = EditGraph()
        for row, spec in enumerate(batch):
            wrong = patchify(mistakes[spec.sample.key][None], grid)[0]
            shift = (1 - sigma) * size * (wrong - torch.from_numpy(x0[row]))
            changed = torch.from_numpy(latents[row]) + shift
            joined = joined | edits.set_to("latents.hook_in", changed, step=step, rows=row)
        return joined

    return graph


def described(table: pl.DataFrame, sigmas: Sequence[float]) -> pl.DataFrame:
    """The table of `shares` with the condition taken apart."""
    parts = [dict(p.split("=") for p in name.split()) if name != CLEAN else {} for name in table["condition"]]
    steps = [int(p["step"]) if p else None for p in parts]
    return table.with_columns(
        pl.Series("size", [float(p["size"]) if p else None for p in parts], dtype=pl.Float64),
        pl.Series("step", steps, dtype=pl.Int64),
        pl.Series("sigma", [None if s is None else sigmas[s] for s in steps], dtype=pl.Float64),
    ).select(list(COLUMNS))


def claims(found: pl.DataFrame, table: pl.DataFrame, runs: pl.DataFrame) -> list[Claim]:
    """Spontaneous corrections, and repair of injected mistakes early against late."""
    largest = sizes_of(table)[-1]
    steps = table.filter(pl.col("size") == largest)["step"].sort().to_list()

    def names(at: Sequence[int], size: Any = largest) -> list[str]:
        return table.filter((pl.col("size") == size) & pl.col("step").is_in(list(at)))["condition"].to_list()

    early, late = steps[: max(1, len(steps) // 2)], steps[max(1, len(steps) // 2) :] or steps[-1:]
    corrected = (runs["wrong_to_right"] - runs["right_to_wrong"]).cast(pl.Float64)
    return [
        above(
            "left alone, runs go from wrong to right answers more often than from right to wrong",
            paired(corrected, runs["sample"], (-1, 1)),
            0.0,
            matters=MATTERS,
            paper=PAPER,
            measure="transitions wrong to right minus right to wrong, per run",
        ),
        above(
            f"a mistake of size {largest:g} is repaired more often when it is put in early than late",
            contrast(found, "right", names(early), names(late)),
            0.0,
            matters=MATTERS,
            paper=PAPER,
            placebo=contrast(found, "right", names(early, PLACEBO), names(late, PLACEBO)).value,
            measure=f"the share of right answers, put in at {numbered(early, 'step')} minus {numbered(late, 'step')}",
        ),
        above(
            f"a mistake of size {largest:g} put in late is not repaired",
            contrast(found, "right", [CLEAN], names(late)),
            0.0,
            matters=MATTERS,
            placebo=contrast(found, "right", [CLEAN], names(late, PLACEBO)).value,
            measure=f"the share of right answers without a mistake minus with one at {numbered(late, 'step')}",
        ),
    ]


def sizes_of(table: pl.DataFrame) -> list[float]:
    """Sizes of mistakes, ascending; the first is the placebo."""
    return [float(size) for size in table["size"].drop_nulls().unique().sort()]


def findings(table: pl.DataFrame, runs: pl.DataFrame) -> str:
    """What was found, in numbers."""
    clean = table.filter(pl.col("condition") == CLEAN).row(0, named=True)
    largest = sizes_of(table)[-1]
    rows = table.filter(pl.col("size") == largest).sort("step")
    curve = ", ".join(f"{value:.2f} (step {step})" for step, value in rows.select("step", "value").iter_rows())
    return (
        f"Left alone, {runs['wrong_to_right'].sum()} wrong answers of {len(runs)} runs became right along the way and "
        f"{runs['right_to_wrong'].sum()} right ones wrong. Right answers without a mistake: {clean['value']:.2f}; with "
        f"a mistake of size {largest:g}: {curve}."
    )


def _section(bench: Bench, table: pl.DataFrame) -> Section:
    clean = table.filter(pl.col("condition") == CLEAN).row(0, named=True)
    series = []
    sizes = sizes_of(table)
    for size, colour in zip(sizes, [INK, GREEN, ORANGE, BLUE] * len(sizes), strict=False):
        of = table.filter(pl.col("size") == size).sort("step")
        name = "nothing (placebo)" if size == PLACEBO else f"mistake of size {size:g}"
        series.append(Series.of(name, colour, of, "step"))
    with bench.folder.writing("repair.png") as path:
        points(
            path,
            [("Repair", series)],
            xlabel="step at which it is put in",
            ylabel="right answers",
            level=clean["value"],
        )
    caption = (
        "Share of runs that end right after a mistake was put in at one step. Size 1: the answer of the other problem "
        f"of the pair in full. Bars: 95 % intervals over {clean['n']} problems. Dashed: no interference."
    )
    return Section("Injected mistakes", (), (Picture(bench.folder / "repair.png", "Repair curve", caption),))


STUDY = Study(
    name="self_correction",
    question="Does the model correct a wrong answer while it denoises?",
    needs="a task with pairs of problems whose answers differ",
    answer=answer,
    options=options,
    defaults={"problems": 24, "seeds": 1, "size": 5},
    quick={"problems": 6, "places": 4, "sizes": [1.0]},
    minutes=(1.4, 0.2),
    work=work,
    real="--task maze --problems 24 --seeds 1 --batch-size 8",
)

if __name__ == "__main__":
    raise SystemExit(STUDY.main(sys.argv[1:]))
