"""The decodability study's summary and page, made from its tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from interp.collect import versions
from studies.cells import COLUMNS, Fits
from studies.findings import REACHED, by_step, cell, claims, near_step, score_text, sentences, targets_summary
from studies.folder import StudyFolder
from studies.intervals import Proportion, wilson
from studies.pictures import draw_curves, draw_heatmaps, draw_pruning, draw_strips, draw_x0
from studies.readout import Readout, accuracy_by_step, occupancy_by_step, seeds_disagree
from studies.report import Report, Section, render, shown
from studies.signs import SIGMA, TIMES, X0
from studies.targets import TARGETS

if TYPE_CHECKING:
    from interp.lab import Lab
    from studies.decodability import Set, Settings


def write_page(
    folder: StudyFolder,
    settings: Settings,
    lab: Lab,
    sets: dict[str, Set],
    readouts: dict[str, Readout],
    fits: Fits,
) -> Path:
    """Write table.parquet, x0_hat.parquet, summary.json, the figures and report.html; the path of the page."""
    table = fits.table
    sigmas = table.select("step", "sigma").unique().sort("step")["sigma"].to_list()
    x0 = {name: accuracy_by_step(readout, sigmas) for name, readout in readouts.items()}
    occupancy = occupancy_by_step(readouts["fork"], sigmas) if "fork" in readouts else pl.DataFrame()
    summary = targets_summary(fits)
    findings, stated = sentences(summary), claims(summary, occupancy)
    solved = {name: _solved(readout) for name, readout in readouts.items()}
    x0_rows = pl.DataFrame(by_step(list(x0.items())))
    folder.write_with("table.parquet", table.write_parquet)
    folder.write_with("x0_hat.parquet", x0_rows.write_parquet)
    folder.write_json(
        "summary.json",
        {
            **_facts(settings, lab, sets),
            "findings": findings,
            "solved": {name: vars(share) for name, share in solved.items()},
            "targets": summary,
            "claims": stated,
            "x0_hat": x0_rows.to_dicts(),
            "occupancy": occupancy.to_dicts(),
        },
    )
    sections = [
        _x0_section(folder, sets, readouts, x0, occupancy, sigmas),
        *(_target_section(folder, table, name, of) for name, of in summary.items()),
        Section("Claims", ("Each verdict follows from its numbers by the rule beside it.",), tables=(_claims(stated),)),
        Section("Columns of table.parquet", tables=([{"column": k, "meaning": v} for k, v in COLUMNS.items()],)),
    ]
    report = Report(
        title="From a maze video to a decodable answer",
        question="When, and in which layer, does the answer of a run become decodable?",
        findings=findings,
        facts=_shown(settings, lab, sets, solved),
        sections=sections,
        command=settings.command,
    )
    return folder.write_text("report.html", render(report))


def _facts(settings: Settings, lab: Lab, sets: dict[str, Set]) -> dict[str, Any]:
    return {
        "study": "decodability",
        "command": settings.command,
        "model": settings.model,
        "model_hash": lab.model_hash,
        "n": {name: len(one.specs) for name, one in sets.items()},
        "mazes": {name: one.mazes for name, one in sets.items()},
        "seeds": {
            name: {"per_maze": settings.seeds, "all": [spec.seed for spec in one.specs]} for name, one in sets.items()
        },
        "size": settings.size,
        "steps": settings.steps,
        "guidance_scale": settings.guidance_scale,
        "hook": settings.hook,
        "versions": versions(),
    }


def _shown(settings: Settings, lab: Lab, sets: dict[str, Set], solved: dict[str, Proportion]) -> dict[str, Any]:
    facts: dict[str, Any] = {"model": settings.model, "weights": lab.model_hash}
    for name, one in sets.items():
        facts[f"{name} mazes {TIMES} seeds"] = f"{one.mazes} {TIMES} {settings.seeds} = {len(one.specs)} runs"
        facts[f"valid path, {name}"] = str(solved[name])
    facts["cells a side"] = settings.size
    facts["steps"] = settings.steps
    facts["guidance"] = settings.guidance_scale
    facts["versions"] = ", ".join(f"{k} {v}" for k, v in versions().items() if k in ("torch", "diffusers"))
    return facts


def _solved(readout: Readout) -> Proportion:
    return wilson(sum(bool(path) for path in readout.final), len(readout.final))


def _x0_section(
    folder: StudyFolder,
    sets: dict[str, Set],
    readouts: dict[str, Readout],
    x0: dict[str, pl.DataFrame],
    occupancy: pl.DataFrame,
    sigmas: Sequence[float],
) -> Section:
    text = [
        f"{X0}, the noisy latents minus {SIGMA} times the velocity, is the model's estimate of the finished video at "
        "each step. It is decoded and read by the same exact solver that scores the result."
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


def _claims(stated: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {k: row[k] for k in ("claim", "value", "low", "high", "chance", "placebo", "verdict", "rule")} for row in stated
    ]
