"""Which part of the network carries the answer, at which step: values of one run put in place of another's.

Pairs of nearly equal problems with different answers (in grounding: one picture, another object named) are run with the
same noise, and at one step and layer the first run takes values of the second, and the other way round: the whole
residual stream, what the block adds to it, or what its self-attention, cross-attention or MLP adds. Read early, x0_hat
of that step tells whether the step's own estimate turns; read to the end, the video tells whether that lasts. Placebos:
values of a third problem, a change as large in a random direction, the run's own values, and as many tokens elsewhere.

The whole stream at layer k is the other run from k on, but for the prompt that later layers read; what a block adds is
local.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from interp.intervals import cluster_mean
from studies.base.claim import Claim, Estimate, above, between
from studies.base.signs import X0
from studies.drawing.trial_pictures import TITLES, sections
from studies.frame.outcome import Outcome
from studies.frame.study import Parser, Study, positive
from studies.measures.peaks import where_largest
from studies.measures.trials import DIRECTIONS, KEPT_BYTES, OPS, Swaps, Trial, measure_swaps
from studies.runs.bench import Bench
from studies.runs.conditions import spread
from studies.runs.pairs import DECIDED, draw_pairs
from studies.runs.work import Terms, Work

PAPER = "the whole representation at layer 20 of 40, at the first step, reverses the answer; no flip rate published"
MATTERS = 0.1
NOISE = " (placebo: the larger of a third run and noise)"
PEAK = (0.4, 0.6)
COLUMNS = {
    "op": "; ".join(f"{name}: {title}" for name, title in TITLES.items()),
    "tokens": "all; object: those that tell the two answers apart; random: as many others",
    "branch": "passes in which it is swapped",
    "source": "other: the other problem of the pair; third: a third one; noise: a change as large in a random "
    "direction; self: the run's own values",
    "read": f"early: {X0} of the step itself; final: the finished video",
    "until": "whether all steps up to this one are swapped, or this one alone",
    "step": "denoising step, from 0",
    "sigma": "its noise level",
    "layer": "block",
    "direction": "which problem's run takes values of which, or both",
    "share": "how far the picture goes, 0: not at all, 1: as far as the other run's; over runs whose undisturbed "
    "pictures are half of that way apart, or more",
    "share_low": "lower end of its 95 % interval (bootstrap over pairs)",
    "share_high": "upper end",
    "flip": f"share of runs whose answer becomes the other one (place above {DECIDED:g} of -1 to 1); over pairs that "
    "undisturbed show both their answers",
    "flip_low": "lower end of its 95 % interval (bootstrap over pairs)",
    "flip_high": "upper end",
    "n": "pairs behind share",
    "n_flip": "pairs behind flip",
}


def options(parser: Parser) -> None:
    """What only this study asks for."""
    add = parser.add_argument
    add("--ops", nargs="+", choices=list(OPS), default=list(OPS), help="what is swapped")
    add("--places", type=positive, default=8, help="steps of the maps, spread evenly")
    add("--at", type=int, default=0, metavar="STEP", help="step whose swaps are read to the end, and of the controls")
    add("--every", type=positive, default=1, help="only every so many layers")


def answer(bench: Bench) -> Outcome:
    """Run the study; see the module."""
    pairs = draw_pairs(bench, more=1)
    specs = bench.specs([one for one, _ in pairs[:-1]])
    schedule = bench.lab.schedule(specs[0].settings)
    depth = len(bench.lab.pipe.transformer.blocks)
    branches = specs[0].settings.branches
    given = bench.given
    trials = planned(given.ops, depth, schedule.steps, given.places, given.at, branches, given.every)
    found = measure_swaps(bench, pairs, trials)
    table = summarised(found, [float(s) for s in schedule.sigmas])
    return Outcome(
        table=table,
        columns=COLUMNS,
        claims=claims(found, bench.given.at),
        findings=findings(found, bench.given.at),
        sections=sections(bench, table),
        n={"problems": len(pairs) - 1, "runs": len(found.problems), "swaps": len(found.problems) * len(found.cells)},
        seeds=[spec.seed for spec in specs],
    )


def work(terms: Terms) -> Work:
    """What it takes at most (cells may start from kept layers); see `studies.runs.work`."""
    given, space = terms.given, terms.space()
    trials = planned(given.ops, terms.layers, terms.steps, given.places, given.at, space.branches, given.every)
    sites = dict.fromkeys(site for trial in trials for site in OPS[trial.op])
    last = max(step for trial in trials for step in trial.steps)
    layer = sum(math.prod(space.widths[site.replace("*", "0")]) for site in sites) * len(space.branches)
    at_once = max(1, int(KEPT_BYTES // (3 * (last + 1) * layer * (2 if given.dtype else 4))))
    pieces = [math.ceil(len(trial.layers) / at_once) for trial in trials]
    sampled = 2 * sum(pieces) if max(pieces) > 1 else 1  # the pair and its third problem, kept for each piece of layers
    found = terms.rows(range(terms.steps), 2) + terms.rows(range(last + 1), 3 * sampled)
    for trial in trials:
        for step in trial.steps:
            first, end = (0 if trial.until else step), (step + 1 if trial.read == "early" else terms.steps)
            found += terms.rows(range(first, end), 2 * len(trial.layers), read=1)
    return found.times(given.problems * given.seeds)


def planned(
    ops: Sequence[str], depth: int, steps: int, places: int, at: int, branches: Sequence[str], every: int = 1
) -> list[Trial]:
    """Every trial of the study: maps of all operations, controls at one step, and lasting effects."""
    layers = tuple(sorted({*range(0, depth, every), depth // 2}))
    few = tuple(sorted({0, depth // 4, depth // 2, 3 * depth // 4, depth - 1}))
    ends = tuple(spread(steps, 4))
    main = ops[0]
    passes = branches if len(branches) > 1 else ()
    controls: list[dict[str, Any]] = [
        *({"source": source} for source in ("third", "noise", "self")),
        *({"tokens": tokens} for tokens in ("object", "random")),
        *({"branch": branch} for branch in passes),
    ]
    return [
        *(Trial(tuple(spread(steps, places)), layers, op) for op in ops),
        *(Trial((at,), layers, main, **control) for control in controls),
        *(Trial((at,), few, op, read="final") for op in ops),
        *(Trial((at,), few, main, source=source, read="final") for source in ("third", "noise")),
        Trial(ends, tuple(sorted({depth // 2, depth - 1})), main, read="final", until=True),
    ]


def summarised(found: Swaps, sigmas: Sequence[float]) -> pl.DataFrame:
    """One row a cell and direction; columns as in `COLUMNS`."""
    rows: list[dict[str, Any]] = []
    for direction in ("both", *DIRECTIONS):
        chosen = found.directions == direction if direction != "both" else np.full(len(found.directions), True)
        problems = found.problems[chosen]
        measured = {}
        for name in ("share", "flip"):
            values = getattr(found, name)[chosen]
            n = [len(set(problems[known])) for known in np.isfinite(values).T]
            measured[name] = (*cluster_mean(values, problems, ends=(0.0, 1.0)), n)
        for i, cell in enumerate(found.cells):
            row = {**cell, "sigma": sigmas[cell["step"]], "direction": direction}
            for name, (mean, low, high, n) in measured.items():
                some = n[i] > 0
                row |= {name: mean[i] if some else None, f"{name}_low": low[i] if some else None}
                row |= {f"{name}_high": high[i] if some else None, "n" if name == "share" else "n_flip": n[i]}
            rows.append(row)
    reals = [name for name in COLUMNS if name.startswith(("share", "flip"))]
    schema: dict[str, Any] = dict.fromkeys(reals, pl.Float64)
    return pl.DataFrame(rows, schema_overrides=schema, infer_schema_length=None).select(list(COLUMNS))


def claims(found: Swaps, at: int) -> list[Claim]:
    """The paper's swap read early and to the end, its place, and the controls."""
    main = found.cells[0]["op"]
    layers = sorted({cell["layer"] for cell in found.cells})
    middle = _middle(layers)
    plain = {"tokens": "all", "branch": "both", "source": "other", "until": False, "step": at}
    here = {**plain, "op": main, "layer": middle}
    ends = sorted({cell["step"] for cell in found.cells if cell["until"]})
    end = ends[min(1, len(ends) - 1)]

    def turns(claim: str, measure: str, *, placebo: bool = True, **facts: Any) -> Claim:
        def flips(**more: Any) -> Estimate:
            return found.mean("flip", found.where(**{**here, **facts, **more}))

        return above(
            claim,
            flips(),
            0.0,
            matters=MATTERS,
            paper=PAPER if placebo else None,
            placebo=max(flips(source=name).value for name in ("third", "noise")) if placebo else None,
            measure=f"the share of runs {measure}{NOISE if placebo else ''}",
        )

    def more(first: str, second: str, one: dict[str, Any], other: dict[str, Any]) -> Claim:
        these, those = (found.where(**{**plain, "read": "early", **facts}) for facts in (one, other))
        return above(
            f"at step {at} {first} than {second} (mean over layers)",
            found.mean("share", these, those),
            0.0,
            matters=MATTERS,
            measure=f"how far {X0} goes towards the other answer, the first minus the second",
        )

    part = f"{TITLES[main]} of layer {middle}"
    stated = [
        turns(
            f"{part} at step {at}, put in from the other run, reverses the finished answer",
            "that end with the other answer",
            read="final",
        ),
        turns(
            f"{part} at step {at}, put in from the other run, reverses {X0} of that step",
            f"whose {X0} shows the other answer",
            read="early",
        ),
        turns(
            f"{part}, put in at every step up to {end}, reverses the finished answer",
            "that end with the other answer",
            placebo=False,
            read="final",
            step=end,
            until=True,
        ),
        more("the tokens of the two answers carry more", "as many others", {"tokens": "object"}, {"tokens": "random"}),
    ]
    if found.where(branch="uncond"):
        passes = {"branch": "cond"}, {"branch": "uncond"}
        stated.append(more("the conditional pass carries more", "the unconditional one", *passes))
    ops = {cell["op"] for cell in found.cells}
    if len(layers) > 2 and "update" in ops:
        stated.append(_peak(found, {**plain, "op": "update", "read": "early"}, max(layers)))
    if {"cross_attn", "attn"} <= ops:
        stated.append(more("cross-attention carries more", "self-attention", {"op": "cross_attn"}, {"op": "attn"}))
    return stated


def _middle(layers: Sequence[int]) -> int:
    """The layer half-way up, as layer 20 of 40."""
    return min(layers, key=lambda layer: (abs(layer - (max(layers) + 1) / 2), layer))


def _peak(found: Swaps, facts: dict[str, Any], last: int) -> Claim:
    """Where what a block adds carries most, as a share of the depth."""
    cells = found.where(**facts)
    depths = [found.cells[i]["layer"] / last for i in cells]
    return between(
        f"what one block adds carries the answer most in the middle layers (step {facts['step']})",
        where_largest(found.share[:, cells], found.problems, depths),
        *PEAK,
        paper=PAPER,
        chance=0.5,
        measure=f"the layer whose block carries {X0} furthest, as a share of the depth,",
    )


def findings(found: Swaps, at: int) -> str:
    """What was found, in numbers."""
    main = found.cells[0]["op"]
    middle = _middle(sorted({cell["layer"] for cell in found.cells}))
    plain = {"tokens": "all", "branch": "both", "until": False, "step": at}

    def said(measure: str, **facts: Any) -> str:
        of = found.mean(measure, found.where(**{**plain, "source": "other", **facts}))
        return f"{of.value:.2f} ({of.low:.2f} to {of.high:.2f})"

    each = ", ".join(
        f"{TITLES[op]} {said('share', op=op, read='early')}" for op in dict.fromkeys(c["op"] for c in found.cells)
    )
    answered = np.isfinite(found.flip[:, found.where(**plain, source="other", op=main, read="final")]).any(1)
    return (
        f"{answered.sum()} of {len(answered)} runs belong to pairs that undisturbed show both answers. At step {at}, "
        f"layer {middle}, the {TITLES[main]} of the other run turns {X0} of the step in "
        f"{said('flip', op=main, layer=middle, read='early')} of them and the finished video in "
        f"{said('flip', op=main, layer=middle, read='final')}; that of a third run turns {X0} in "
        f"{said('flip', op=main, layer=middle, read='early', source='third')}. {_over_steps(found, main, middle)} "
        f"How far {X0} goes towards the other answer, mean over layers: {each}."
    )


def _over_steps(found: Swaps, op: str, layer: int) -> str:
    cells = found.where(op=op, layer=layer, until=True, read="final")
    each = ", ".join(f"{found.mean('flip', [i]).value:.2f} up to step {found.cells[i]['step']}" for i in cells)
    return f"Swapped at every step up to one, the finished video turns in {each}."


STUDY = Study(
    name="swap",
    question="Which part of the network carries the answer, at which step and layer?",
    needs="a task with pairs of problems whose answers differ; guidance above 1 to tell the two passes apart",
    answer=answer,
    options=options,
    tasks=("grounding", "maze"),
    defaults={"problems": 8, "places": 4, "seeds": 1, "steps": 8, "size": 5, "guidance_scale": 2.0},
    quick={"problems": 3, "places": 2, "every": 4, "ops": ["resid", "cross_attn"], "guidance_scale": 1.0},
    minutes=(6.5, 0.7),
    work=work,
    real="--task grounding --problems 8 --places 8 --every 4",
)

if __name__ == "__main__":
    raise SystemExit(STUDY.main(sys.argv[1:]))
