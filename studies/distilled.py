"""What do runs of few denoising steps lose: right answers, or the exploration before them?

The same problems with the same noise are sampled in several numbers of steps. Each count is compared with the largest
one, problem by problem: share of right answers, how often the favourite answer changes along the way, and the noise
level at which a run commits. On one and the same model that speaks of taking fewer steps; with ``--lora``, which
merges files of a distillation into a second copy of the model, it speaks of distillation too.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import polars as pl

from interp import Sample, lora
from interp.answers import AnswerTrajectories
from interp.errors import InterpError
from studies.base.claim import Claim, Estimate, above
from studies.base.columns import INTERVAL, PROBLEMS
from studies.base.signs import SIGMA, X0
from studies.drawing.canvas import BLUE, ORANGE
from studies.drawing.figures import Series, points
from studies.drawing.report import Picture, Section
from studies.frame.outcome import Outcome
from studies.frame.study import Parser, Study, positive
from studies.measures.following import follow_clean, mixed
from studies.runs.bench import Bench, open_lab
from studies.runs.conditions import paired
from studies.runs.work import Terms, Work

PAPER = "a model distilled to 4 steps scores 0.605 against 0.685: the exploration phase collapses"
MATTERS = 0.05
MEASURES = {
    "right": "share of runs with the right answer",
    "explored": f"share of steps at which {X0} shows several answers at once, of runs with candidates",
    "switches": "how often the favourite answer changes in a run",
    "committed_sigma": "noise level from which on the run shows its final answer, of runs that have one",
}
TITLES = {
    "right": "Right answers",
    "explored": "Steps that show several answers",
    "switches": "Changes of the favourite answer",
    "committed_sigma": f"Noise level ({SIGMA}) of commitment",
}
OWN, LORA = "own", "lora"
COLUMNS = {
    "weights": f"{OWN}: as the model comes; {LORA}: with the files of --lora merged in",
    "steps": "denoising steps",
    "measure": "; ".join(f"{name}: {text}" for name, text in MEASURES.items()),
    "value": "mean over runs",
    **INTERVAL,
    **PROBLEMS,
}


def options(parser: Parser) -> None:
    """What only this study asks for."""
    add = parser.add_argument
    add("--counts", type=positive, nargs="+", default=[1, 2, 4, 8, 20, 50], metavar="STEPS", help="numbers of steps")
    add("--few", type=positive, default=4, help="the number that is compared with the largest; one of --counts")
    add(
        "--lora", nargs="+", default=None, metavar="FILE",
        help="LoRA of a distillation: one file, or those of the high-noise and of the low-noise expert, none for none",
    )  # fmt: skip
    add(
        "--lora-counts",
        type=positive,
        nargs="+",
        default=None,
        metavar="STEPS",
        help="with it; that of --few if not given",
    )
    add("--lora-guidance", type=float, default=1.0, help="guidance with it; distilled models are made for none")
    add("--lora-scale", type=float, default=1.0, help="factor of the update")


def answer(bench: Bench) -> Outcome:
    """Run the study; see the module."""
    counts, distilled = asked(bench.given)
    samples = bench.samples()
    runs = {(OWN, count): sampled(bench, samples, count) for count in counts}
    if bench.given.lora:
        with with_lora(bench) as other:
            guidance = {"guidance_scale": bench.given.lora_guidance}
            runs |= {(LORA, count): sampled(other, samples, count, **guidance) for count in distilled}
    table = pl.DataFrame(
        [
            {"weights": weights, "steps": count, "measure": measure, **vars(_mean(of, measure))}
            for (weights, count), of in runs.items()
            for measure in MEASURES
        ]
    ).select(list(COLUMNS))
    names = (bench.given.few, counts[-1])
    many = runs[OWN, counts[-1]]
    stated = claims(runs[OWN, names[0]], many, names)
    for count in distilled if bench.given.lora else ():
        stated += claims(runs[LORA, count], many, (count, names[1]), " of the distilled model")
    return Outcome(
        table=table,
        columns=COLUMNS,
        claims=stated,
        findings=findings(table, names),
        sections=[_section(bench, table)],
        n={"problems": len({s.key for s in samples}), "runs": sum(len(of) for of in runs.values())},
        seeds=sorted(set(many["seed"].to_list())),
        settings={"denoising steps": ", ".join(map(str, counts))},
    )


def work(terms: Terms) -> Work:
    """What it takes; see `studies.runs.work`."""
    counts, distilled = asked(terms.given)
    found = sum((terms.clean(steps=count, read=count) for count in counts), Work())
    for count in distilled if terms.given.lora else ():
        found += terms.clean(steps=count, read=count, guidance_scale=terms.given.lora_guidance)
    return found


def asked(given: Namespace) -> tuple[list[int], list[int]]:
    """Numbers of steps with the model's own weights, and with the LoRA, ascending."""
    return sorted({*given.counts, given.few}), sorted({*(given.lora_counts or [given.few])})


def sampled(bench: Bench, samples: Sequence[Sample], count: int, **settings: Any) -> pl.DataFrame:
    """Runs in so many steps; see `per_run`."""
    return per_run(follow_clean(bench, bench.clean(bench.specs(samples, steps=count, **settings))))


@contextmanager
def with_lora(bench: Bench) -> Iterator[Bench]:
    """The same bench on a second copy of the model that has the LoRA; the first leaves the GPU meanwhile.

    Raises:
        InterpError: the files do not fit the model, see `interp.lora.load`.
    """
    given, files = bench.given, [None if name == "none" else name for name in bench.given.lora]
    home = bench.lab.pipe.device
    bench.lab.pipe.to("cpu")
    try:
        other = open_lab(given.model, given.dtype, given.device)
        if len(files) > 2:
            raise InterpError(f"--lora names {len(files)} files; it takes one, or one for each of two experts")
        named = {"source": files[0]} if len(files) == 1 else {"high": files[0], "low": files[1]}
        lora.load(other, **named, scale=given.lora_scale)
        yield replace(bench, lab=other)
    finally:
        bench.lab.pipe.to(home)


def per_run(found: AnswerTrajectories) -> pl.DataFrame:
    """One row a run: sample, seed, and the columns of `MEASURES`."""
    several = found.steps.with_columns(mixed(found.steps).alias("several"))
    explored = several.filter(pl.col("candidates") > 1).group_by("run").agg(pl.col("several").mean().alias("explored"))
    runs = found.runs.with_columns(
        pl.col("solved").cast(pl.Float64).alias("right"), pl.col("switches").cast(pl.Float64)
    ).join(explored, on="run", how="left")
    return runs.select("sample", "seed", *MEASURES).sort("sample", "seed")


def _mean(of: pl.DataFrame, measure: str) -> Estimate:
    ends = (0.0, 1.0) if measure == "right" else None
    return paired(of[measure], of["sample"], ends)


def claims(few: pl.DataFrame, many: pl.DataFrame, names: tuple[int, int], whose: str = "") -> list[Claim]:
    """Few steps, of whose model, against many of the model as it comes, run by run."""

    def difference(measure: str, ends: tuple[float, float]) -> Estimate:
        return paired(many[measure] - few[measure], many["sample"], ends)

    what = f"{names[1]} steps minus {names[0]}"
    most = max([1.0, *(float(x) for of in (few, many) for x in of["switches"].drop_nulls())])  # changes of a run
    stated = [
        above(
            f"{names[0]} steps{whose} give fewer right answers than {names[1]}",
            difference("right", (-1, 1)),
            0.0,
            matters=MATTERS,
            paper=PAPER,
            measure=f"the share of right answers, {what}",
        )
    ]
    if few["explored"].drop_nulls().len():
        stated.append(
            above(
                f"with {names[0]} steps{whose} the favourite answer changes less often than with {names[1]}",
                difference("switches", (-most, most)),
                0.0,
                matters=0.1,
                paper=PAPER,
                measure=f"changes of the favourite in a run, {what}",
            )
        )
    return stated


def findings(table: pl.DataFrame, names: tuple[int, int]) -> str:
    """What was found, in numbers."""

    def said(count: int, measure: str) -> str:
        row = table.filter(weights=OWN, steps=count, measure=measure).row(0, named=True)
        return f"{row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f})"

    few, many = names
    merged = table.filter(weights=LORA, measure="right").select("steps", "value", "low", "high").rows()
    told = "".join(
        f" Right with the LoRA in {n} steps: {v:.2f} ({low:.2f} to {high:.2f})." for n, v, low, high in merged
    )
    return (
        f"Right answers: {said(few, 'right')} with {few} steps, {said(many, 'right')} with {many}. Changes of the "
        f"favourite in a run: {said(few, 'switches')} and {said(many, 'switches')}.{told}"
    )


def _section(bench: Bench, table: pl.DataFrame) -> Section:
    counts = table["steps"].unique().sort().to_list()
    panels = []
    for measure in MEASURES:
        series = []
        for weights, colour in ((OWN, BLUE), (LORA, ORANGE)):
            rows = table.filter(weights=weights, measure=measure).sort("steps")
            at = [counts.index(count) for count in rows["steps"]]
            if at:
                series.append(Series.of({OWN: "the model's own", LORA: "with the LoRA"}[weights], colour, rows, at))
        panels.append((TITLES[measure], series))
    with bench.folder.writing("steps.png") as path:
        names: dict[int, list[str]] = {panel: [str(count) for count in counts] for panel in range(len(panels))}
        points(path, panels, xlabel="denoising steps", ylabel="mean over runs", ylim=None, ticks=names)
    told = ". ".join(f"{TITLES[name]}: {text}" for name, text in MEASURES.items())
    caption = f"{told}. Bars: 95 % intervals over {table['n'].to_list()[0]} problems."
    return Section("Numbers of steps", (), (Picture(bench.folder / "steps.png", "By number of steps", caption),))


STUDY = Study(
    name="distilled",
    question="What do runs of few denoising steps lose: right answers, or the exploration before them?",
    needs="any task; candidate answers for the measures of exploration",
    answer=answer,
    options=options,
    defaults={"problems": 24, "seeds": 1, "size": 6},
    quick={"problems": 8, "counts": [1, 4, 20]},
    minutes=(1.4, 0.2),
    work=work,
)

if __name__ == "__main__":
    raise SystemExit(STUDY.main(sys.argv[1:]))
