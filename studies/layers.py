"""What do layers specialise in: where do objects stand out, where can the answer be read, where does a lens show it?

Three looks at the residual stream after every block, at every step or some:

- token energy: how much longer the vectors of foreground tokens are than those of the background, and those of what the
  prompt names than those of the other candidates; as L2, as the median over channels (which a few massive channels
  cannot move), and normalised per layer. Placebo: the masks of other problems.
- probes: can the tokens that the answer is about be told from those of the other candidates? Placebo: labels shuffled
  within each run; baselines: x0_hat, the noisy latents, and the first frame.
- lenses: the task's score of the head applied to the layer, as it is and after an affine map fitted on other problems.

Early are the layers of the first quarter of the depth (0-9 of 40), late those of the last.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl

from interp import RunSpec, Selection, select
from interp.lenses import AffineLens, fit_affine_lens, layer_lens
from interp.tasks.blocks import BLOCK
from interp.views import norm
from studies.base.claim import Estimate
from studies.base.columns import INTERVAL, PROBLEMS
from studies.base.ledger import key_of
from studies.drawing.layer_pictures import sections, stage_table
from studies.drawing.report import Section
from studies.frame.outcome import Outcome
from studies.frame.study import Parser, Study, positive
from studies.measures.energy import PARTS, Contrasts, contrasts_of
from studies.measures.masks import named
from studies.measures.probing import Probed, TokenRows, probe_tokens
from studies.measures.stages import by_stage, claims, findings
from studies.runs.bench import Bench
from studies.runs.conditions import spread
from studies.runs.work import Terms, Work

NORMS = (norm(), norm("robust"))
STAGES = (
    "Means over the layers of a stage and all steps that were read, with 95 % intervals over problems. Early: the "
    "first quarter of the depth; late: the last. Placebo: masks of other problems, or shuffled labels."
)
COLUMNS = {
    "measure": "energy_l2, energy_robust: log2 of mean energy of a part over that of the rest; energy_layer: "
    "difference of means in units of the layer's mean; agreement: rank correlation over tokens of L2 and median; "
    "probe: balanced accuracy; lens_plain, lens_tuned: share of runs whose x0_hat from this layer is right; "
    "lens_plain_error, lens_tuned_error: distance of the velocity from the model's, as a share of its length",
    "part": "; ".join(f"{name}: {text}" for name, text in PARTS.items()) + "; null for lenses and agreement",
    "source": "layer; for probes also the baselines x0_hat, x_t, first_frame",
    "layer": "block after which it was read; -1: the embedded patches; null: baselines, and the model's own output",
    "step": "denoising step, from 0",
    "sigma": "its noise level",
    "value": "mean over runs, or the probe's score",
    **INTERVAL,
    "chance": "the probe's mean score on shuffled labels, many times; null elsewhere",
    "placebo": "the same with the masks of other problems; for probes, of the control with shuffled labels",
    **PROBLEMS,
}


def options(parser: Parser) -> None:
    """What only this study asks for."""
    add = parser.add_argument
    add("--places", type=positive, default=4, help="steps of probes and lenses, spread evenly")
    add("--shuffles", type=positive, default=5, help="label shuffles behind a chance level")
    add(
        "--tuned",
        type=int,
        default=8,
        metavar="N",
        help="problems to fit the tuned lens on, others than those; 0: none",
    )


def answer(bench: Bench) -> Outcome:
    """Run the study; see the module."""
    samples = bench.samples()
    specs = bench.specs(samples)
    depth = len(bench.lab.pipe.transformer.blocks)
    sigmas = [float(s) for s in bench.lab.schedule(specs[0].settings).sigmas]
    places = spread(len(sigmas) - 1, bench.given.places)
    energies = energy_of(bench, specs, depth)
    probed = probes_of(bench, specs, places, sigmas, depth)
    lenses = lenses_of(bench, specs, places)
    table = pl.concat([energies.table(sigmas), probe_table(probed, sigmas), lens_table(lenses)]).select(list(COLUMNS))
    numbers = by_stage(energies, probed, lenses, depth)
    return Outcome(
        table=table,
        columns=COLUMNS,
        claims=claims(energies, probed, lenses, depth),
        findings=findings(numbers),
        sections=[*sections(bench, table), Section("Early, middle, late", (STAGES,), tables=(stage_table(numbers),))],
        n={"problems": len(samples), "runs": len(specs)},
        seeds=[spec.seed for spec in specs],
        more={"stages": numbers},
    )


def work(terms: Terms) -> Work:
    """What it takes; see `studies.runs.work`."""
    given, places = terms.given, spread(terms.steps - 1, terms.given.places)
    found = terms.stored(streams(), views=NORMS) + terms.stored(last_frame(places), dtype="bfloat16")
    for _ in range(2 if given.tuned > 0 else 1):
        found += terms.sampled(stop=max(places) + 1, read=len(places) * terms.layers)
    return found + terms.sampled(given.tuned)


def streams() -> Selection:
    """Whose energy is measured."""
    return select(["blocks.*.hook_resid_post", "blocks.0.hook_resid_pre"], branch="cond")


def last_frame(places: Sequence[int]) -> Selection:
    """What probes read."""
    hidden = select("blocks.*.hook_resid_post", branch="cond", frames=-1, step=list(places))
    return hidden | select(["latents.hook_in", "latents.hook_x0"], frames=-1, step=list(places))


def energy_of(bench: Bench, specs: Sequence[RunSpec], depth: int) -> Contrasts:
    """Energy of every token after every layer, as contrasts between parts."""
    store = bench.store("energy", specs, streams(), views=NORMS)
    keys = [spec.key for spec in specs]
    sites = {-1: "blocks.0.hook_resid_pre"} | {k: f"blocks.{k}.hook_resid_post" for k in range(depth)}
    maps = {
        kind: np.stack([store.read(f"{site}@{view}", runs=keys) for site in sites.values()], axis=2)
        for kind, view in (("l2", "norm"), ("robust", "norm-robust"))
    }  # [run, step, layer, token]
    grid = bench.lab.grid(specs[0].sample)
    return contrasts_of(bench.task, [spec.sample for spec in specs], grid, maps, list(sites))


def probes_of(
    bench: Bench, specs: Sequence[RunSpec], places: Sequence[int], sigmas: Sequence[float], depth: int
) -> Probed | None:
    """Probes for the tokens that the answer is about; None where too few problems name such tokens."""
    store = bench.store("layers", specs, last_frame(places), dtype="bfloat16")
    grid = bench.lab.grid(specs[0].sample)
    labels: list[np.ndarray | None] = []
    for spec in specs:
        parts = named(spec.sample, grid)
        labels.append(None if parts is None else np.where(parts[0], 1.0, np.where(parts[1], 0.0, np.nan)).reshape(-1))
    rows = TokenRows.of([spec.key for spec in specs], [spec.sample.key for spec in specs], labels)
    if not rows.enough:
        return None
    cells = {
        (step, layer): rows.read(store, f"blocks.{layer}.hook_resid_post", step)
        for step in places
        for layer in range(depth)
    }
    baselines: dict[str, Any] = {
        name: {step: rows.read(store, site, step)() for step in places}
        for name, site in (("x0_hat", "latents.hook_x0"), ("x_t", "latents.hook_in"))
    }
    pictures = np.stack([_blocks(bench.task.render(spec.sample)[0], grid.rows, grid.cols) for spec in specs])
    baselines["first_frame"] = pictures[rows.run, rows.token]
    return probe_tokens(
        rows,
        cells,
        {step: sigmas[step] for step in places},
        baselines,
        shuffles=bench.given.shuffles,
        seed=bench.given.seed,
    )


def _blocks(frame: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """What a frame shows in each token, block by block: [token, feature]."""
    small = frame[BLOCK // 2 :: BLOCK, BLOCK // 2 :: BLOCK] / 255
    high, wide = small.shape[0] // rows, small.shape[1] // cols
    return np.asarray(small.reshape(rows, high, cols, wide, 3).transpose(0, 2, 1, 3, 4).reshape(rows * cols, -1))


def lenses_of(bench: Bench, specs: Sequence[RunSpec], places: Sequence[int]) -> pl.DataFrame:
    """One row a lens, run, step and layer: solved, error; batch by batch in the ledger."""
    tables = []
    ready: list[Callable[[], AffineLens | None]] = [lambda: None]
    if bench.given.tuned > 0:
        ready.append(lambda: tuned_lens(bench))
    for name, lens in zip(("lens_plain", "lens_tuned"), ready, strict=False):
        for batch in bench.batches(list(specs)):
            key = key_of(lens=name, tuned=bench.given.tuned, runs=[spec.key for spec in batch], steps=list(places))
            if key not in bench.ledger:
                read = layer_lens(
                    bench.lab, batch, bench.task, steps=places, branches=("cond",), lens=lens(), batch_size=len(batch)
                )
                bench.ledger.put(
                    key, read.select("run", "sample", "step", "sigma", "layer", "solved", "error").to_dicts()
                )
            tables.append(pl.DataFrame(bench.ledger[key], infer_schema_length=None).with_columns(measure=pl.lit(name)))
    return pl.concat(tables)


def tuned_lens(bench: Bench) -> AffineLens:
    """The affine lens, fitted on other problems or read from the cache."""
    given = bench.given
    others = bench.given_to_model(bench.task.sample(given.problems + given.tuned, seed=given.seed)[given.problems :])
    specs = bench.specs(others, seeds=1)
    folder = bench.cache / f"lens-{key_of(runs=[spec.key for spec in specs])}"
    if (folder / "config.json").is_file():
        return AffineLens.load(folder)
    lens = fit_affine_lens(bench.lab, specs, batch_size=given.batch_size)
    lens.save(folder)
    return lens


def probe_table(probed: Probed | None, sigmas: Sequence[float]) -> pl.DataFrame:
    """Rows of the table."""
    rows: list[dict[str, Any]] = []
    if probed is not None:
        control = {(row["step"], row["layer"]): row["score"] for row in probed.control.table.to_dicts()}
        n = int(probed.real.table["groups"][0])
        common = {"measure": "probe", "part": "named", "n": n}
        for row in probed.real.table.to_dicts():
            where = {**common, "source": "layer", "layer": row["layer"], "step": row["step"], "value": row["score"]}
            rows.append({**where, **_ends(row), "chance": row["chance"], "placebo": control[row["step"], row["layer"]]})
        for row in probed.real.baselines.to_dicts():
            steps = probed.real.steps if row["step"] is None else [row["step"]]
            for step in steps:
                where = {**common, "source": row["baseline"], "layer": None, "step": step, "value": row["score"]}
                rows.append({**where, **_ends(row), "chance": None, "placebo": None})
    return _as_table([{**row, "sigma": sigmas[row["step"]]} for row in rows])


def lens_table(lenses: pl.DataFrame) -> pl.DataFrame:
    """Rows of the table."""
    rows = []
    for (measure, step, layer), of in lenses.group_by(["measure", "step", "layer"], maintain_order=True):
        for column, name in (("solved", measure), ("error", f"{measure}_error")):
            ends = (0.0, 1.0) if column == "solved" else None
            found = Estimate.of(of[column].cast(pl.Float64).to_numpy(), of["sample"].to_numpy(), ends)
            about = {"measure": name, "part": None, "source": "layer", "layer": layer, "step": step}
            rows.append({**about, "sigma": of["sigma"][0], **_numbers(found), "chance": None, "placebo": None})
    return _as_table(rows)


def _as_table(rows: list[dict[str, Any]]) -> pl.DataFrame:
    words, whole = ("measure", "part", "source"), ("layer", "step", "n")
    schema: dict[str, Any] = {
        name: pl.String if name in words else pl.Int64 if name in whole else pl.Float64 for name in COLUMNS
    }
    return pl.DataFrame([{name: row.get(name) for name in COLUMNS} for row in rows], schema=schema)


def _ends(row: dict[str, Any]) -> dict[str, Any]:
    return {"low": row["low"], "high": row["high"]}


def _numbers(found: Estimate) -> dict[str, Any]:
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n}


STUDY = Study(
    name="layers",
    question="What do early, middle and late layers specialise in?",
    needs="a task; one with named parts for the contrast of what the prompt names and for probes",
    answer=answer,
    options=options,
    tasks=("grounding", "maze"),
    defaults={"problems": 32, "seeds": 1, "steps": 8, "size": 5},
    quick={"problems": 10, "places": 2, "tuned": 0},
    minutes=(1, 0.3),
    work=work,
    real="--task grounding --problems 32 --seeds 1 --batch-size 8",
)

if __name__ == "__main__":
    raise SystemExit(STUDY.main(sys.argv[1:]))
