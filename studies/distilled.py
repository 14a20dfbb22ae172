"""What do runs of few denoising steps lose: right answers, or the exploration before them?

The same problems with the same noise are sampled in several numbers of steps. Each count is compared with the largest
one, problem by problem: share of right answers, how often the favourite answer changes along the way, and the noise
level at which a run commits. On a distilled model (``--model``) it speaks of distillation; on any other, of taking
fewer steps with the same model.
"""

from __future__ import annotations

import sys

import polars as pl

from interp.answers import AnswerTrajectories
from studies.bench import Bench
from studies.chain_of_steps import follow_clean, mixed, paired
from studies.claim import Claim, Estimate, above
from studies.figures import BLUE, GREEN, ORANGE, Series, points
from studies.outcome import Outcome
from studies.report import Picture, Section
from studies.study import Parser, Study, positive

PAPER = "a model distilled to 4 steps scores 0.605 against 0.685: the exploration phase collapses"
MATTERS = 0.05
MEASURES = {
    "right": "share of runs with the right answer",
    "explored": "share of steps at which x0_hat shows several answers at once, of runs with candidates",
    "switches": "how often the favourite answer changes in a run",
    "committed_sigma": "noise level from which on the run shows its final answer, of runs that have one",
}
COLUMNS = {
    "steps": "denoising steps",
    "measure": "; ".join(f"{name}: {text}" for name, text in MEASURES.items()),
    "value": "mean over runs",
    "low": "lower end of its 95 % interval (bootstrap over problems)",
    "high": "upper end",
    "n": "problems",
}


def options(parser: Parser) -> None:
    """What only this study asks for."""
    add = parser.add_argument
    add("--counts", type=positive, nargs="+", default=[1, 2, 4, 8, 20, 50], metavar="STEPS", help="numbers of steps")
    add("--few", type=positive, default=4, help="the number that is compared with the largest; one of --counts")


def answer(bench: Bench) -> Outcome:
    """Run the study; see the module."""
    counts = sorted({*bench.given.counts, bench.given.few})
    samples = bench.samples()
    runs = {count: per_run(follow_clean(bench, bench.clean(bench.specs(samples, steps=count)))) for count in counts}
    table = pl.DataFrame(
        [
            {"steps": count, "measure": measure, **vars(_mean(of, measure))}
            for count, of in runs.items()
            for measure in MEASURES
        ]
    ).select(list(COLUMNS))
    few, many = runs[bench.given.few], runs[counts[-1]]
    names = (bench.given.few, counts[-1])
    return Outcome(
        table=table,
        columns=COLUMNS,
        claims=claims(few, many, names),
        findings=findings(table, names),
        sections=[_section(bench, table)],
        n={"problems": len({s.key for s in samples}), "runs": sum(len(of) for of in runs.values())},
        seeds=sorted(set(many["seed"].to_list())),
    )


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


def claims(few: pl.DataFrame, many: pl.DataFrame, names: tuple[int, int]) -> list[Claim]:
    """Few steps against many, run by run."""

    def difference(measure: str, ends: tuple[float, float] | None) -> Estimate:
        return paired(many[measure] - few[measure], many["sample"], ends)

    what = f"{names[1]} steps minus {names[0]}"
    stated = [
        above(
            f"{names[0]} steps give fewer right answers than {names[1]}",
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
                f"with {names[0]} steps the favourite answer changes less often than with {names[1]}",
                difference("switches", None),
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
        row = table.filter((pl.col("steps") == count) & (pl.col("measure") == measure)).row(0, named=True)
        return f"{row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f})"

    few, many = names
    return (
        f"Right answers: {said(few, 'right')} with {few} steps, {said(many, 'right')} with {many}. Changes of the "
        f"favourite in a run: {said(few, 'switches')} and {said(many, 'switches')}."
    )


def _section(bench: Bench, table: pl.DataFrame) -> Section:
    counts = table["steps"].unique().sort().to_list()
    panels = []
    for measure, colour in zip(MEASURES, (BLUE, GREEN, ORANGE, BLUE), strict=True):
        rows = table.filter(pl.col("measure") == measure).sort("steps")
        columns = [rows[name].to_list() for name in ("value", "low", "high")]
        panels.append((measure, [Series(measure, colour, range(len(counts)), *columns)]))
    with bench.folder.writing("steps.png") as path:
        names: dict[int, list[str]] = {panel: [str(count) for count in counts] for panel in range(len(panels))}
        points(path, panels, xlabel="denoising steps", ylabel="mean over runs", ylim=None, ticks=names)
    told = "; ".join(f"{name}: {text}" for name, text in MEASURES.items())
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
    minutes=(2, 0.5),
)

if __name__ == "__main__":
    raise SystemExit(STUDY.main(sys.argv[1:]))
