"""The decodability study's summary and page, made from its tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from interp.intervals import Proportion, wilson
from studies.base.folder import StudyFolder
from studies.base.signs import SIGMA, X0
from studies.drawing.pictures import draw_curves, draw_heatmaps, draw_pruning, draw_strips, draw_x0
from studies.frame.outcome import Outcome
from studies.frame.report import Section, shown
from studies.measures.cells import COLUMNS, Fits
from studies.measures.findings import REACHED, by_step, cell, claims, near_step, score_text, sentences, targets_summary
from studies.measures.readout import Readout, accuracy_by_step, occupancy_by_step, seeds_disagree
from studies.measures.targets import TARGETS

if TYPE_CHECKING:
    from studies.decodability import Set, Settings
    from studies.runs.bench import Bench


def outcome_of(
    bench: Bench, settings: Settings, sets: dict[str, Set], readouts: dict[str, Readout], fits: Fits
) -> Outcome:
    """Draw the figures and put into words what the tables say; ``x0_hat.parquet`` is written here."""
    folder, table = bench.folder, fits.table
    sigmas = table.select("step", "sigma").unique().sort("step")["sigma"].to_list()
    x0 = {name: accuracy_by_step(readout, sigmas) for name, readout in readouts.items()}
    occupancy = occupancy_by_step(readouts["fork"], sigmas) if "fork" in readouts else pl.DataFrame()
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
