"""How does a disturbance at one step spread over later steps, and which step is most sensitive?

At one step the latents are replaced by noise, or noised again to the step's level; then every later step is compared
with the undisturbed run: latents, x0_hat, and the hidden states of one layer. Dissimilarity is 1 - CKA (linear,
unbiased, rows are tokens): 0 for the same geometry, 1 for nothing in common. As a yardstick the same is measured
between undisturbed runs of different seeds. Where a model has two experts, ``--boundaries`` moves the step at which
they change: that tells a sensitivity of the denoising from one of the change.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from interp import RunSpec, Selection, select
from interp.intervals import cluster_mean
from studies.base.claim import Claim, Estimate, above, between
from studies.base.columns import INTERVAL, PROBLEMS
from studies.base.signs import X0
from studies.base.words import numbered
from studies.drawing.canvas import BLUE, CHANCE, GREEN, ORANGE
from studies.drawing.figures import Series, points
from studies.drawing.report import Picture, Section
from studies.frame.outcome import Outcome
from studies.frame.study import Parser, Study, positive
from studies.measures.disturbing import TITLES, disturb
from studies.measures.peaks import where_largest
from studies.measures.reference import STATES, Reference
from studies.runs.bench import Bench
from studies.runs.conditions import CLEAN, measure, spread
from studies.runs.work import Terms, Work

PAPER_EARLY = "early noise propagates with almost no recovery"
PAPER_PEAK = "sensitivity peaks at steps 20-30 of 50"
MIDDLE = (0.4, 0.6)
SHORT = {"latents": "noisy latents", "x0": X0, "hidden": "hidden states"}
SHOWN = 3
"""Disturbed steps whose effects are drawn over the later steps: the first, the middle and the last."""
COLUMNS = {
    "boundary": "share of the noise schedule at which the experts change; null for the model's own",
    "kind": "replace or renoise; seeds: between undisturbed runs of one problem",
    "at": "step that was disturbed; null for seeds",
    "state": "; ".join(f"{name}: {text}" for name, text in STATES.items()),
    "step": "step at which it is compared",
    "sigma": "its noise level",
    "value": "1 - CKA, mean over runs",
    **INTERVAL,
    **PROBLEMS,
}


def options(parser: Parser) -> None:
    """What only this study asks for."""
    add = parser.add_argument
    add("--kinds", nargs="+", choices=["replace", "renoise"], default=["replace", "renoise"], help="kinds of noise")
    add("--places", type=positive, default=8, help="steps that are disturbed, spread evenly, the ends left out")
    add("--layer", type=int, default=None, help="block whose output is compared; the middle one if not given")
    add("--boundaries", type=float, nargs="*", default=[], help="boundary ratios to try beside the model's own")


def answer(bench: Bench) -> Outcome:
    """Run the study; see the module."""
    samples = bench.samples()
    rows: list[dict[str, Any]] = []
    for boundary in (None, *bench.given.boundaries):
        specs = bench.specs(samples, **({} if boundary is None else {"boundary_ratio": boundary}))
        rows += [{"boundary": boundary, **row} for row in compared(bench, specs)]
    table = summarised(pl.DataFrame(rows, infer_schema_length=None))
    raw = pl.DataFrame(rows, infer_schema_length=None)
    return Outcome(
        table=table,
        columns=COLUMNS,
        claims=claims(raw, bench.given.kinds),
        findings=findings(raw, bench.given.kinds),
        sections=[_section(bench, table)],
        n={"problems": len(samples), "runs": len(samples) * bench.given.seeds},
        seeds=sorted({spec.seed for spec in bench.specs(samples)}),
    )


def work(terms: Terms) -> Work:
    """What it takes; see `studies.runs.work`."""
    hidden = compared_state(terms.given, terms.layers)
    found = Work()
    for boundary in (None, *terms.given.boundaries):
        own: dict[str, Any] = {} if boundary is None else {"boundary_ratio": boundary}
        found += terms.clean(**own) + terms.stored(hidden, **own)
        found += terms.measured(disturbed(terms.given, terms.steps) * len(terms.given.kinds), read=0, **own)
    return found


def compared_state(given: Namespace, layers: int) -> Selection:
    """The hidden states that are compared."""
    layer = layers // 2 if given.layer is None else given.layer
    return select(f"blocks.{layer}.hook_resid_post", branch="cond", frames=-1)


def disturbed(given: Namespace, steps: int) -> list[int]:
    """The steps that are disturbed, one at a time."""
    return [step for step in spread(steps, given.places + 2) if 0 < step < steps - 1]


def compared(bench: Bench, specs: Sequence[RunSpec]) -> list[dict[str, Any]]:
    """One row a run, disturbance, state and later step, and those between seeds."""
    clean = bench.clean(specs)
    hidden = compared_state(bench.given, len(bench.lab.pipe.transformer.blocks))
    reference = Reference(bench, clean, hidden)
    places = disturbed(bench.given, clean.steps)
    conditions = {
        f"{kind} {at}": disturb(kind, [at], range(bench.lab.grid(specs[0].sample).frames))
        for kind in bench.given.kinds
        for at in places
    }
    found = measure(bench, specs, conditions, reference.differences, capture=hidden)
    rows = []
    for row in found.filter(pl.col("condition") != CLEAN).to_dicts():
        kind, at = row["condition"].split()
        for state in STATES:
            for offset, value in enumerate(row[state]):
                step = int(at) + 1 + offset
                about = {"kind": kind, "at": int(at), "state": state, "step": step, "sigma": clean.sigmas[step]}
                rows.append({**about, "problem": row["problem"], "run": row["run"], "value": value})
    return rows + reference.between_seeds(places)


def summarised(raw: pl.DataFrame) -> pl.DataFrame:
    """Means with intervals over problems; columns as in `COLUMNS`."""
    rows = []
    keys = ["boundary", "kind", "at", "state", "step"]
    for key, of in raw.group_by(keys, maintain_order=True):
        mean, low, high = cluster_mean(of["value"].to_numpy()[:, None], of["problem"].to_numpy())
        about = {**dict(zip(keys, key, strict=True)), "sigma": of["sigma"][0], "n": of["problem"].n_unique()}
        rows.append({**about, "value": float(mean[0]), "low": float(low[0]), "high": float(high[0])})
    schema: dict[str, Any] = {"boundary": pl.Float64, "at": pl.Int64}
    return pl.DataFrame(rows, schema_overrides=schema, infer_schema_length=None).select(list(COLUMNS))


def final_effects(raw: pl.DataFrame, kind: str, state: str = "x0") -> tuple[np.ndarray, np.ndarray, list[int]]:
    """At the last step, with the model's own boundary: 1 - CKA [run, place], problem of each run, disturbed steps."""
    mine = raw.filter(pl.col("boundary").is_null() & (pl.col("kind") == kind) & (pl.col("state") == state))
    last = mine.filter(pl.col("step") == mine["step"].max())
    wide = last.pivot(on="at", index=["run", "problem"], values="value")
    places = sorted(int(at) for at in last["at"].unique())
    return wide.select([str(at) for at in places]).to_numpy(), wide["problem"].to_numpy(), places


def peak(raw: pl.DataFrame, kind: str, steps: int) -> Estimate:
    """Where the effect on the last x0_hat is largest, as a share of the steps.

    The interval is a bootstrap over problems, widened by half the distance between disturbed steps: the peak may lie
    between them.
    """
    values, problems, places = final_effects(raw, kind)
    found = where_largest(values, problems, [at / (steps - 1) for at in places])
    apart = float(np.diff(places).max()) / (steps - 1) / 2 if len(places) > 1 else 1.0
    return replace(found, low=found.low - apart, high=found.high + apart)


def claims(raw: pl.DataFrame, kinds: Sequence[str]) -> list[Claim]:
    """Early noise stays, and the middle is most sensitive."""
    steps = int(raw["step"].to_numpy().max()) + 1
    stated = []
    for kind in kinds:
        values, problems, places = final_effects(raw, kind)
        early = [i for i, at in enumerate(places) if at <= steps / 3] or [0]
        late = [i for i in range(len(places)) if i not in early] or early
        mean, low, high = cluster_mean(values[:, early].mean(1)[:, None], problems)
        seeds = raw.filter((pl.col("kind") == "seeds") & (pl.col("state") == "x0"))["value"].to_numpy()
        yardstick = f"; between seeds of one problem: {float(seeds.mean()):.3f}" if len(seeds) else ""
        said = TITLES[kind].lower()
        stated.append(
            above(
                f"{said}: noise in the first third of the steps changes the final {X0} more than noise later",
                _difference(values, problems, early, late),
                0.0,
                matters=0.05,
                paper=PAPER_EARLY,
                measure=f"1 - CKA of the last {X0}, noise at {numbered([places[i] for i in early], 'step')} minus "
                f"later (early alone: {float(mean[0]):.3f}, {float(low[0]):.3f} to {float(high[0]):.3f}{yardstick})",
            )
        )
        stated.append(
            between(
                f"{said}: the final {X0} is most sensitive to noise at the middle steps",
                peak(raw, kind, steps),
                *MIDDLE,
                paper=PAPER_PEAK,
                chance=0.5,
                measure="the most sensitive step, as a share of the steps,",
            )
        )
    return stated


def _difference(values: np.ndarray, problems: np.ndarray, first: list[int], second: list[int]) -> Estimate:
    mean, low, high = cluster_mean((values[:, first].mean(1) - values[:, second].mean(1))[:, None], problems)
    return Estimate(float(mean[0]), float(low[0]), float(high[0]), len(set(problems)))


def findings(raw: pl.DataFrame, kinds: Sequence[str]) -> str:
    """What was found, in numbers."""
    parts = []
    for kind in kinds:
        values, _, places = final_effects(raw, kind)
        curve = ", ".join(f"{v:.2f} (step {at})" for at, v in zip(places, values.mean(0), strict=True))
        parts.append(f"{TITLES[kind].lower()}: {curve}")
    seeds = raw.filter((pl.col("kind") == "seeds") & (pl.col("state") == "x0"))["value"].to_numpy()
    yardstick = f" Between seeds of one problem it is {seeds.mean():.2f}." if len(seeds) else ""
    what = f"1 - CKA of the last {X0} to that of the undisturbed run, after noise at one step"
    return f"{what}: {'; '.join(parts)}.{yardstick}"


def _section(bench: Bench, table: pl.DataFrame) -> Section:
    own = table.filter(pl.col("boundary").is_null())
    last = own["step"].to_numpy().max()
    panels = []
    for kind in bench.given.kinds:
        series = []
        for state, colour in (("latents", BLUE), ("x0", ORANGE), ("hidden", GREEN)):
            of = own.filter(kind=kind, state=state, step=last).sort("at")
            series.append(Series.of(SHORT[state], colour, of, "at"))
        panels.append((TITLES[kind], series))
    with bench.folder.writing("sensitivity.png") as path:
        points(path, panels, xlabel="disturbed at step", ylabel="1 - CKA at the last step", ylim=None)
    n = own.row(0, named=True)["n"]
    bars = f"0: as the undisturbed run, 1: nothing in common. Bars: 95 % intervals over {n} problems."
    return Section(
        "Sensitivity",
        (),
        (
            _spread(bench, own, bars),
            Picture(bench.folder / "sensitivity.png", "What is left at the last step", bars),
        ),
    )


def _spread(bench: Bench, own: pl.DataFrame, bars: str) -> Picture:
    """What becomes of a disturbance over the later steps."""
    panels = []
    for kind in bench.given.kinds:
        mine = own.filter(kind=kind, state="x0")
        places = mine["at"].unique().sort().to_list()
        shown = [places[i] for i in spread(len(places), SHOWN)]
        series = [
            Series.of(f"noise at step {at}", colour, mine.filter(at=at).sort("step"), "step")
            for at, colour in zip(shown, (BLUE, ORANGE, GREEN), strict=False)
        ]
        seeds = own.filter(kind="seeds", state="x0").sort("step")
        series += [Series.of("another seed", CHANCE, seeds, "step")] if len(seeds) else []
        panels.append((TITLES[kind], series))
    with bench.folder.writing("spread.png") as path:
        points(path, panels, xlabel="compared at step", ylabel=f"1 - CKA of {X0}", ylim=None)
    caption = (
        f"{X0} of every later step against that of the undisturbed run; grey: between two undisturbed seeds. {bars}"
    )
    return Picture(bench.folder / "spread.png", "What a disturbance does to later steps", caption)


STUDY = Study(
    name="propagation",
    question="How does a disturbance at one step spread over later steps, and which step is most sensitive?",
    needs="any task; two experts for --boundaries",
    answer=answer,
    options=options,
    defaults={"problems": 12, "seeds": 2, "size": 5},
    quick={"problems": 3, "places": 3},
    minutes=(2.6, 0.4),
    work=work,
    real="--problems 8 --places 6 --kinds renoise --boundaries 0.95",
)

if __name__ == "__main__":
    raise SystemExit(STUDY.main(sys.argv[1:]))
