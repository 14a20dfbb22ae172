"""When, and in which layer, does the answer of a run become decodable?

Fork mazes have two equally short routes; which one a run takes depends on its seed. The study runs the model on fork
mazes and ordinary ones, keeps the hidden states of the last latent frame after every block at every step, and asks of
every step x layer cell how well a linear probe can tell the run's own answer, beside probes on what the network was
given and on shuffled labels. What x0_hat shows at every step, which takes no probe, is written to ``x0_hat.parquet``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import polars as pl

from interp import Lab, Selection, select
from interp.errors import TaskError
from interp.intervals import Proportion, wilson
from interp.mini.vae import is_block_exact
from interp.store import Store
from interp.tasks import MazeTask
from studies.base.folder import StudyFolder
from studies.base.signs import SIGMA, X0
from studies.base.words import shown
from studies.drawing.decodability_pictures import draw_curves, draw_heatmaps, draw_pruning, draw_strips, draw_x0
from studies.drawing.report import Section
from studies.frame.outcome import Outcome
from studies.frame.study import Parser, Study, positive
from studies.measures.cells import COLUMNS, Fits, fit_targets
from studies.measures.findings import REACHED, by_step, cell, claims, near_step, score_text, sentences, targets_summary
from studies.measures.readout import Readout, accuracy_by_step, occupancy_by_step, read_x0, seeds_disagree
from studies.measures.sets import Set, Settings
from studies.measures.targets import DEFAULTS, TARGETS, target_named
from studies.runs.bench import Bench
from studies.runs.work import Terms, Work


def options(parser: Parser) -> None:
    """What only this study asks for."""
    add = parser.add_argument
    add("--apart", type=positive, default=4, help="cells in which the two routes of a fork differ, at least")
    add(
        "--target", nargs="+", default=list(DEFAULTS), metavar="NAME",
        help=f"what to probe for: {', '.join(TARGETS)}; taken_route uses fork mazes, the others ordinary ones",
    )  # fmt: skip
    add("--hook", default="hook_resid_post", help="hook point of a block to probe")
    add("--shuffles", type=positive, default=10, help="label shuffles behind a chance level")
    add("--rows", type=positive, default=1500, help="tokens a probe is fitted on, at most; drawn evenly from the mazes")


def answer(bench: Bench) -> Outcome:
    """Run the study; see the module.

    Raises:
        TaskError: another task than mazes.
    """
    if not isinstance(bench.task, MazeTask):
        raise TaskError(f"this study needs the maze task, whose cells are labelled; {bench.given.task} is another")
    settings = Settings.of(bench)
    begun = time.perf_counter()
    sets = plan(bench, settings)
    specs = [spec for one in sets.values() for spec in one.specs]
    what = selection(settings.hook, is_block_exact(bench.lab.pipe.vae))
    store = bench.store("decodability", specs, what, dtype="bfloat16", labels=True)
    captured = time.perf_counter()
    print("reading x0_hat ...", flush=True)
    readouts = {name: read_out(bench.lab, bench.task, store, one) for name, one in sets.items()}
    fits = fit_targets(settings, store, sets)
    outcome = outcome_of(bench, settings, sets, readouts, fits)
    done = time.perf_counter()
    print(f"sampling {captured - begun:.0f} s, probes and figures {done - captured:.0f} s")
    return outcome


def plan(bench: Bench, settings: Settings) -> dict[str, Set]:
    """The runs of each kind of mazes that a target needs. Every run has noise of its own."""
    sets = {}
    for fork in sorted({target.fork for target in settings.targets}, reverse=True):
        specs = bench.specs(bench.samples(fork=fork, apart=settings.apart))
        name = "fork" if fork else "ordinary"
        sets[name] = Set(name, tuple(spec.sample for spec in specs), tuple(specs))
    return sets


def work(terms: Terms) -> Work:
    """What it takes; see `studies.runs.work`."""
    kinds = len({target_named(name).fork for name in terms.given.target})
    what = selection(terms.given.hook, terms.model.block_exact)
    return terms.stored(what, kinds * terms.runs, dtype="bfloat16", labels=True, read=terms.steps)


def selection(hook: str, block_exact: bool) -> Selection:
    """Hidden states, noisy latents and x0_hat, of the tokens of the last latent frame.

    x0_hat is kept whole where the VAE cannot decode the last latent frame without the others.
    """
    hidden = select(f"blocks.*.{hook}", branch="cond", frames=-1)
    estimate = select("latents.hook_x0", frames=-1 if block_exact else None)
    return hidden | select("latents.hook_in", frames=-1) | estimate


def read_out(lab: Lab, task: MazeTask, store: Store, one: Set) -> Readout:
    """x0_hat of a set, decoded and scored."""
    grid, schedule = lab.grid(one.samples[0]), lab.schedule(one.specs[0].settings)
    sigmas = [float(sigma) for sigma in schedule.sigmas[: schedule.steps]]
    answers = store.labels("on_path", runs=one.keys).reshape(len(one.keys), grid.frames, grid.rows, grid.cols)
    tokens = store.read("latents.hook_x0", runs=one.keys)
    return read_x0(task, one.specs, tokens, sigmas, grid, lab.frames, answers[:, -1])


def outcome_of(
    bench: Bench, settings: Settings, sets: dict[str, Set], readouts: dict[str, Readout], fits: Fits
) -> Outcome:
    """Draw the figures and put into words what the tables say; ``x0_hat.parquet`` is written here."""
    folder, table = bench.folder, fits.table
    sigmas = table.select("step", "sigma").unique().sort("step")["sigma"].to_list()
    x0 = {name: accuracy_by_step(readout) for name, readout in readouts.items()}
    occupancy = occupancy_by_step(readouts["fork"]) if "fork" in readouts else pl.DataFrame()
    summary = targets_summary(fits)
    solved = {name: _solved(readout) for name, readout in readouts.items()}
    x0_rows = pl.DataFrame(by_step(list(x0.items())))
    folder.write_with("x0_hat.parquet", x0_rows.write_parquet)
    valid = ", ".join(f"{share} of {name} mazes" for name, share in solved.items())
    return Outcome(
        table=table,
        columns=COLUMNS,
        claims=claims(summary, occupancy),
        findings=sentences(summary),
        sections=[
            _x0_section(folder, sets, readouts, x0, occupancy, sigmas, valid),
            *(_target_section(folder, table, name, of) for name, of in summary.items()),
        ],
        n={
            **{f"{name} mazes": one.mazes for name, one in sets.items()},
            **{f"{name} runs": len(one.specs) for name, one in sets.items()},
        },
        seeds=[spec.seed for one in sets.values() for spec in one.specs],
        more={
            "solved": {name: vars(share) for name, share in solved.items()},
            "targets": summary,
            "x0_hat": x0_rows.to_dicts(),
            "occupancy": occupancy.to_dicts(),
        },
    )


def _solved(readout: Readout) -> Proportion:
    return wilson(sum(bool(path) for path in readout.final), len(readout.final))


def _x0_section(
    folder: StudyFolder,
    sets: dict[str, Set],
    readouts: dict[str, Readout],
    x0: dict[str, pl.DataFrame],
    occupancy: pl.DataFrame,
    sigmas: Sequence[float],
    valid: str,
) -> Section:
    text = [
        f"{X0}, the noisy latents minus {SIGMA} times the velocity, is the model's estimate of the finished video at "
        f"each step. It is decoded and read by the same exact solver that scores the result. Runs that end "
        f"with a valid path: {valid}."
    ]
    if "fork" in readouts:
        differ, several = seeds_disagree(readouts["fork"])
        text.append(
            f"In {differ} of the {several} fork mazes in which several seeds ended on a shortest route, they took both."
        )
    pictures = [draw_strips(folder, sets[name], readout, sigmas) for name, readout in readouts.items()]
    pictures.append(draw_x0(folder, x0))
    if len(occupancy):
        pictures.append(draw_pruning(folder, occupancy))
    return Section(f"What {X0} shows", text, pictures)


def _target_section(folder: StudyFolder, table: pl.DataFrame, target: str, of: dict[str, Any]) -> Section:
    steps = sorted(table["step"].unique())
    compared = sorted({steps[0], near_step(table)})
    onsets = [
        {
            "after block": str(row["layer"]),
            **{f"at step {step}": score_text(cell(table, target, "run", row["layer"], step)) for step in compared},
            "above chance from step": f"{shown(row['onset'])} ({shown(row['low'])} to {shown(row['high'])})",
            f"above {REACHED} from step": of["reached"][str(row["layer"])],
        }
        for row in of["onset"]
        if row["layer"] is not None
    ]
    return Section(
        f"{TARGETS[target].title}",
        (
            f"{TARGETS[target].asked} In the table: scores with 95 % intervals, the onset (the first step from which "
            "on, to the last, the interval lies above the chance level, with its own interval), and the first step "
            f"from which on the interval lies above {REACHED}.",
        ),
        (draw_heatmaps(folder, table, target, of), draw_curves(folder, table, target, of)),
        (onsets,),
    )


STUDY = Study(
    name="decodability",
    question="When, and in which layer, does the answer of a run become decodable?",
    needs="the maze task",
    answer=answer,
    options=options,
    defaults={"size": 6, "problems": 48, "seeds": 2},
    quick={"problems": 16, "steps": 10, "rows": 600, "shuffles": 4},
    minutes=(7.5, 0.9),
    work=work,
    real="--task maze --problems 48 --seeds 2 --batch-size 8",
)

if __name__ == "__main__":
    raise SystemExit(STUDY.main(sys.argv[1:]))
