"""How does a disturbance at one step spread over later steps, and which step is most sensitive?

At one step the latents are replaced by noise, or noised again to the step's level; then every later step is compared
with the undisturbed run: latents, x0_hat, and the hidden states of one layer. Dissimilarity is 1 - CKA (linear,
unbiased, rows are tokens): 0 for the same geometry, 1 for nothing in common. Beside it stands whether x0_hat shows
another answer. As a yardstick the same is measured between undisturbed runs of different seeds. Where a model has two
experts, the step at which they change is moved as well: a sensitivity that comes from the change moves with it, one of
the denoising stays.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from typing import Any

import polars as pl

from interp import RunSpec, Selection, select
from interp.intervals import cluster_mean
from studies.base.claim import Claim, Estimate, above, between
from studies.base.columns import INTERVAL, PROBLEMS
from studies.base.signs import X0
from studies.base.words import numbered
from studies.drawing.sensitivity_pictures import sections
from studies.frame.outcome import Outcome
from studies.frame.study import Parser, Study, positive
from studies.measures.disturbing import TITLES, disturb
from studies.measures.reference import ANSWER, STATES, Reference
from studies.measures.sensitivity import Effects
from studies.runs.bench import Bench
from studies.runs.conditions import CLEAN, measure, spread
from studies.runs.work import Terms, Work

PAPER_EARLY = "early noise propagates with almost no recovery"
PAPER_PEAK = "sensitivity peaks at steps 20-30 of 50"
MIDDLE = (0.4, 0.6)
MOVED = 0.2
"""How far the experts' change is moved towards less noise where ``--boundaries`` does not say."""
COLUMNS = {
    "boundary": "share of the noise schedule at which the experts change; null for the model's own",
    "change": "first step of the second expert; null where there is one",
    "kind": "replace or renoise; seeds: between undisturbed runs of one problem",
    "at": "step that was disturbed; null for seeds",
    "state": "; ".join(f"{name}: {text}" for name, text in STATES.items()) + f"; {ANSWER}: the one that {X0} shows",
    "step": "step at which it is compared",
    "sigma": "its noise level",
    "value": "1 - CKA, mean over runs; of answers, the share of runs that show another one",
    **INTERVAL,
    **PROBLEMS,
}


def options(parser: Parser) -> None:
    """What only this study asks for."""
    add = parser.add_argument
    add("--kinds", nargs="+", choices=["replace", "renoise"], default=["replace", "renoise"], help="kinds of noise")
    add("--places", type=positive, default=8, help="steps that are disturbed, spread evenly, the ends left out")
    add("--layer", type=int, default=None, help="block whose output is compared; the middle one if not given")
    add("--watch", type=int, default=20, help=f"steps whose {X0} is read for its answer, spread evenly; 0 for none")
    add(
        "--boundaries", type=float, nargs="*", default=None,
        help=f"boundary ratios beside the model's own; with two experts, {MOVED:g} below it if not given",
    )  # fmt: skip


def answer(bench: Bench) -> Outcome:
    """Run the study; see the module."""
    samples = bench.samples()
    rows: list[dict[str, Any]] = []
    for boundary in (None, *boundaries(bench.given, bench.lab.pipe.config.get("boundary_ratio"))):
        own: dict[str, Any] = {} if boundary is None else {"boundary_ratio": boundary}
        specs = bench.specs(samples, **own)
        rows += [{"boundary": boundary, **row} for row in compared(bench, specs)]
    raw = pl.DataFrame(rows, schema_overrides=_SCHEMA, infer_schema_length=None)
    table = summarised(raw)
    return Outcome(
        table=table,
        columns=COLUMNS,
        claims=claims(raw, bench.given.kinds),
        findings=findings(raw, bench.given.kinds),
        sections=sections(bench, table),
        n={"problems": len(samples), "runs": len(samples) * bench.given.seeds},
        seeds=sorted({spec.seed for spec in bench.specs(samples)}),
    )


def work(terms: Terms) -> Work:
    """What it takes; see `studies.runs.work`."""
    given, steps, runs = terms.given, terms.steps, terms.given.problems * terms.given.seeds
    hidden, places = compared_state(given, terms.layers), disturbed(given, steps)
    read = watched(given, steps)
    seen = len(read) + len(given.kinds) * sum(step > at for at in places for step in read)
    found = Work()
    for boundary in (None, *boundaries(given, terms.model.boundary_ratio)):
        own: dict[str, Any] = {} if boundary is None else {"boundary_ratio": boundary}
        found += terms.clean(**own) + terms.stored(hidden, **own)
        found += terms.measured(places * len(given.kinds), read=0, **own)
        found += Work(videos=Counter({terms.grid: runs * seen}))
    return found


def boundaries(given: Namespace, own: float | None) -> list[float]:
    """Where the experts change beside the model's own boundary."""
    if given.boundaries is not None:
        return list(given.boundaries)
    return [] if own is None else [round(own - MOVED, 6)]


def watched(given: Namespace, steps: int) -> list[int]:
    """The steps whose x0_hat is read: those after the first disturbed one."""
    first = min(disturbed(given, steps))
    return [step for step in spread(steps, given.watch) if step > first] if given.watch else []


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
    reference = Reference(bench, clean, hidden, watched(bench.given, clean.steps))
    places = disturbed(bench.given, clean.steps)
    conditions = {
        f"{kind} {at}": disturb(kind, [at], range(bench.lab.grid(specs[0].sample).frames))
        for kind in bench.given.kinds
        for at in places
    }
    also = {"watched": reference.watched}
    found = measure(bench, specs, conditions, reference.differences, capture=hidden, also=also)
    rows = []
    for row in found.filter(pl.col("condition") != CLEAN).to_dicts():
        kind, at = row["condition"].split()
        for state in (*STATES, ANSWER):
            for offset, value in enumerate(row[state]):
                step = int(at) + 1 + offset
                about = {"kind": kind, "at": int(at), "state": state, "step": step, "sigma": clean.sigmas[step]}
                rows.append({**about, "problem": row["problem"], "run": row["run"], "value": value})
    experts = bench.lab.schedule(specs[0].settings).experts
    change = experts.index("low") if "low" in experts else None
    return [{"change": change, **row} for row in rows + reference.between_seeds(places) if row["value"] is not None]


_SCHEMA: dict[str, Any] = {"boundary": pl.Float64, "change": pl.Int64, "at": pl.Int64}


def summarised(raw: pl.DataFrame) -> pl.DataFrame:
    """Means with intervals over problems; columns as in `COLUMNS`."""
    rows = []
    keys = ["boundary", "change", "kind", "at", "state", "step"]
    for key, of in raw.group_by(keys, maintain_order=True):
        about = dict(zip(keys, key, strict=True))
        ends = (0.0, 1.0) if about["state"] == ANSWER else None
        mean, low, high = cluster_mean(of["value"].to_numpy()[:, None], of["problem"].to_numpy(), ends=ends)
        about |= {"sigma": of["sigma"][0], "n": of["problem"].n_unique()}
        rows.append({**about, "value": float(mean[0]), "low": float(low[0]), "high": float(high[0])})
    return pl.DataFrame(rows, schema_overrides=_SCHEMA, infer_schema_length=None).select(list(COLUMNS))


def claims(raw: pl.DataFrame, kinds: Sequence[str]) -> list[Claim]:
    """Early noise stays, the middle is most sensitive, and whether that is where the experts change."""
    stated = []
    for kind in kinds:
        effects = Effects.of(raw, kind)
        said = TITLES[kind].lower()
        stated.append(_early(effects, said, _yardstick(raw)))
        if ANSWER in raw["state"]:
            stated.append(_early_answers(Effects.of(raw, kind, ANSWER), said))
        stated.append(
            between(
                f"{said}: the final {X0} is most sensitive to noise at the middle steps",
                effects.peak,
                *MIDDLE,
                paper=PAPER_PEAK,
                chance=0.5,
                measure="the most sensitive step, as a share of the steps,",
            )
        )
        stated += _following(raw, kind, effects)
    return stated


def _early(effects: Effects, said: str, yardstick: str) -> Claim:
    early, late = effects.early_and_late()
    values, problems = effects.values, effects.problems
    alone = Estimate.of(values[:, early].mean(1), problems)
    return above(
        f"{said}: noise in the first third of the steps changes the final {X0} more than noise later",
        Estimate.of(values[:, early].mean(1) - values[:, late].mean(1), problems),
        0.0,
        matters=0.05,
        paper=PAPER_EARLY,
        measure=f"1 - CKA of the last {X0}, noise at {numbered([effects.places[i] for i in early], 'step')} minus "
        f"later (early alone: {alone.value:.3f}, {alone.low:.3f} to {alone.high:.3f}{yardstick})",
    )


def _early_answers(effects: Effects, said: str) -> Claim:
    early, late = effects.early_and_late()
    return above(
        f"{said}: noise in the first third of the steps changes the final answer more often than noise later",
        Estimate.of(
            effects.values[:, early].mean(1) - effects.values[:, late].mean(1), effects.problems, ends=(-1.0, 1.0)
        ),
        0.0,
        matters=0.1,
        paper=PAPER_EARLY,
        measure="the share of runs that end with another answer than undisturbed, early minus later,",
    )


def _following(raw: pl.DataFrame, kind: str, own: Effects) -> list[Claim]:
    """Whether the most sensitive step moves with the experts' change, one claim a boundary that moves it."""
    changes = dict(raw.select("boundary", "change").unique(maintain_order=True).iter_rows())
    stated = []
    for boundary, change in changes.items():
        if boundary is None or change is None or change == changes[None]:
            continue
        by = change - changes[None]
        found = own.shift_to(Effects.of(raw, kind, boundary=boundary))
        low, high = sorted((found.low / by, found.high / by))
        stated.append(
            above(
                f"{TITLES[kind].lower()}: the most sensitive step moves with the change of experts, "
                f"here from step {changes[None]} to step {change}",
                Estimate(found.value / by, low, high, found.n),
                0.0,
                matters=0.5,
                measure="the shift of the most sensitive step, as a share of that of the change (0: it stays, 1: it "
                "follows),",
            )
        )
    return stated


def _yardstick(raw: pl.DataFrame) -> str:
    seeds = raw.filter((pl.col("kind") == "seeds") & (pl.col("state") == "x0"))["value"].to_numpy()
    return f"; between seeds of one problem: {float(seeds.mean()):.3f}" if len(seeds) else ""


def findings(raw: pl.DataFrame, kinds: Sequence[str]) -> str:
    """What was found, in numbers."""

    def curve(kind: str, state: str) -> str:
        of = Effects.of(raw, kind, state)
        means = zip(of.places, of.values.mean(0), strict=True)
        return f"{TITLES[kind].lower()}: {', '.join(f'{value:.2f} (step {at})' for at, value in means)}"

    what = f"1 - CKA of the last {X0} to that of the undisturbed run, after noise at one step"
    said = f"{what}: {'; '.join(curve(kind, 'x0') for kind in kinds)}{_yardstick(raw)}."
    if ANSWER not in raw["state"]:
        return said
    return f"{said} Another final answer: {'; '.join(curve(kind, ANSWER) for kind in kinds)}."


STUDY = Study(
    name="propagation",
    question="How does a disturbance at one step spread over later steps, and which step is most sensitive?",
    needs="any task; two experts for --boundaries",
    answer=answer,
    options=options,
    defaults={"problems": 12, "seeds": 2, "size": 5},
    quick={"problems": 3, "places": 3, "watch": 5, "boundaries": []},
    minutes=(3.8, 0.4),
    work=work,
    real="--problems 8 --places 6 --kinds renoise --boundaries 0.95 --watch 4",
)

if __name__ == "__main__":
    raise SystemExit(STUDY.main(sys.argv[1:]))
