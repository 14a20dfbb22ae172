"""From tables to sentences, claims and verdicts: every number comes from the tables, every rule is stated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from studies.base.claim import NOT, SHOWS, Claim, Estimate, exceeds
from studies.base.signs import DASH, SIGMA, X0
from studies.base.words import shown
from studies.measures.cells import Fits
from studies.measures.targets import TARGETS, Target

PAPER = (
    f"three phases in {X0}: several paths at once, pruning, final decision (shown in pictures; no figures published)"
)
NEAR_SIGMA = 0.9
REACHED = 0.9


def cell(table: pl.DataFrame, target: str, labels: str, layer: int, step: int) -> dict[str, Any]:
    """One row of the table: a probe on the residual stream."""
    found = table.filter(
        (pl.col("target") == target)
        & (pl.col("labels") == labels)
        & (pl.col("source") == "hook")
        & (pl.col("layer") == layer)
        & (pl.col("step") == step)
    )
    return found.row(0, named=True)


def near_step(table: pl.DataFrame) -> int:
    """The step whose sigma is nearest to 0.9: where the decision falls, fixed in advance."""
    steps = table.select("step", "sigma").unique().sort("step")
    return int(steps.sort((pl.col("sigma") - NEAR_SIGMA).abs(), "step")["step"][0])


def reached(table: pl.DataFrame, target: str, layer: int) -> int | None:
    """The first step from which on, to the last, a layer's interval lies above `REACHED`."""
    rows = [cell(table, target, "run", layer, step) for step in sorted(table["step"].unique())]
    below = [row["step"] for row in rows if not row["low"] > REACHED]
    after = [row["step"] for row in rows if not below or row["step"] > below[-1]]
    return after[0] if after else None


def targets_summary(fits: Fits) -> dict[str, Any]:
    """By target: n, the best cell, the last layer at three steps, the onset by layer, baselines, placebo."""
    table, found = fits.table, {}
    for target in table["target"].unique(maintain_order=True):
        mine = table.filter(pl.col("target") == target)
        layers = sorted(mine["layer"].drop_nulls().unique())
        last, steps = layers[-1], sorted(mine["step"].unique())
        real = mine.filter((pl.col("labels") == "run") & (pl.col("source") == "hook"))
        placebo = mine.filter((pl.col("labels") == "shuffled") & (pl.col("source") == "hook"))
        best = real.sort("score", descending=True).row(0, named=True)
        near = near_step(mine)
        found[target] = {
            **fits.counts[target],
            "metric": best["metric"],
            "accuracy": best["score"],
            **{key: best[key] for key in ("low", "high", "chance", "chance_high", "layer", "step", "sigma")},
            "last_layer": {
                name: _brief(cell(table, target, "run", last, step))
                for name, step in (("first_step", steps[0]), ("near_sigma_0.9", near), ("last_step", steps[-1]))
            },
            "first_layer_near_sigma_0.9": _brief(cell(table, target, "run", layers[0], near)),
            "onset": fits.onsets[target].to_dicts(),
            "reached": {str(layer): reached(mine, target, layer) for layer in layers},
            "baselines_near_sigma_0.9": {
                row["source"]: _brief(row)
                for row in mine.filter(
                    (pl.col("labels") == "run") & (pl.col("source") != "hook") & (pl.col("step") == near)
                ).to_dicts()
            },
            "shuffled": {
                "mean": placebo["score"].mean(),
                "lowest": placebo["score"].min(),
                "highest": placebo["score"].max(),
                "above_chance": int((placebo["low"] > placebo["chance_high"]).sum()),
                "cells": len(placebo),
            },
        }
    return found


def _brief(row: dict[str, Any]) -> dict[str, Any]:
    return {k: row[k] for k in ("step", "sigma", "layer", "score", "low", "high", "chance")}


def claims(summary: dict[str, Any], occupancy: pl.DataFrame) -> list[Claim]:
    """What the study says of the paper's claims."""
    found = []
    for target, of in summary.items():
        first, near, last = (_estimate(of["last_layer"][k], of) for k in ("first_step", "near_sigma_0.9", "last_step"))
        said = f'"{TARGETS[target].title}"'
        bottom, noise = _estimate(of["first_layer_near_sigma_0.9"], of), of["shuffled"]
        found.append(
            exceeds(
                f"{said} becomes decodable over denoising steps (last layer, last step against first)",
                last,
                first,
                chance=of["chance_high"],
                paper=PAPER if TARGETS[target].fork else None,
                placebo=noise["mean"],
                names=("the score at the last step", "the score at the first step"),
            )
        )
        found.append(
            exceeds(
                f"{said} becomes decodable over layers (last layer against first, at {SIGMA} nearest {NEAR_SIGMA})",
                near,
                bottom,
                chance=of["chance_high"],
                placebo=noise["mean"],
                names=("the score of the last layer", "the score of the first layer"),
            )
        )
        share = noise["above_chance"] / noise["cells"]
        found.append(
            Claim(
                f"{said}: with shuffled labels nothing is decodable (a check of the probes)",
                None, noise["mean"], noise["lowest"], noise["highest"], of["chance"], noise["mean"], of["mazes"],
                SHOWS if noise["above_chance"] <= max(1, 0.1 * noise["cells"]) else NOT,
                f"{SHOWS}: at most one cell in ten has an interval above the chance level (here {share:.3f}); "
                f"otherwise {NOT}; low and high are the extreme cells",
            )
        )  # fmt: skip
    if len(occupancy):
        found.append(_pruning(occupancy))
    return found


def _estimate(row: dict[str, Any], of: dict[str, Any]) -> Estimate:
    return Estimate(row["score"], row["low"], row["high"], of["mazes"])


def _pruning(occupancy: pl.DataFrame) -> Claim:
    def at(kind: str, last: bool) -> Estimate:
        row = occupancy.filter(pl.col("kind") == kind).sort("step").row(-1 if last else 0, named=True)
        return Estimate(row["mean"], row["low"], row["high"], row["n"])

    free = occupancy.filter(pl.col("kind") == "elsewhere")
    return exceeds(
        f"{X0} draws the route that is not taken at the first step, and gives it up by the last",
        at("other", False),
        at("other", True),
        chance=at("elsewhere", False).high if len(free) else 0.0,
        paper=PAPER,
        placebo=at("elsewhere", True).value if len(free) else None,
        names=("how strongly it is drawn (0 to 1) at the first step", "that at the last step"),
    )


def sentences(summary: dict[str, Any]) -> str:
    """What was found, in two sentences: over steps, and over layers with the controls."""
    target = "taken_route" if "taken_route" in summary else next(iter(summary))
    of = summary[target]
    return f"{_over_steps(of, TARGETS[target])} {_over_layers(of)}"


def _over_steps(of: dict[str, Any], target: Target) -> str:
    first, near, last = (of["last_layer"][k] for k in ("first_step", "near_sigma_0.9", "last_step"))
    begin = next(row for row in of["onset"] if row["layer"] == near["layer"])
    asked = (
        "Which of two equally short routes a run will take"
        if target.name == "taken_route"
        else f"The target {target.name}"
    )
    if begin["onset"] is None:
        when = f"cannot be read off block {near['layer']} above chance up to the last step"
    else:
        noise = f"{SIGMA} {begin['sigma']:.2f}"
        between = f"95 % interval: steps {shown(begin['low'])} to {shown(begin['high'])}"
        when = f"can be read off block {near['layer']} from step {begin['onset']} on ({noise}; {between})"
    grows = ", ".join(f"{score_text(row)} at step {row['step']}" for row in (first, near, last))
    return (
        f"{asked} {when}: {METRICS[of['metric']]} is {grows} (chance {last['chance']:.2f}; {of['runs']} runs of "
        f"{of['mazes']} {'fork ' if target.fork else ''}mazes)."
    )


def _over_layers(of: dict[str, Any]) -> str:
    bottom, top = of["first_layer_near_sigma_0.9"], of["last_layer"]["near_sigma_0.9"]
    others = of["baselines_near_sigma_0.9"]
    compared = [f"{others[name]['score']:.2f} from {said}" for name, said in _GIVEN.items() if name in others]
    noise = of["shuffled"]
    return (
        f"At step {top['step']} ({SIGMA} {top['sigma']:.2f}) it is {score_text(bottom)} after block {bottom['layer']} "
        f"and {score_text(top)} after block {top['layer']}, where the same probe gets {' and '.join(compared)}; with "
        f"shuffled labels probes average {noise['mean']:.2f}, and {noise['above_chance']} of {noise['cells']} cells "
        "clear the chance level."
    )


METRICS = {"balanced_accuracy": "balanced accuracy", "accuracy": "accuracy", "r2": "R\u00b2"}
_GIVEN = {"x0_hat": X0, "x_t": "the noisy latents", "first_frame": "the first frame"}


def score_text(row: dict[str, Any]) -> str:
    """A score with its interval."""
    return f"{row['score']:.2f} ({row['low']:.2f}{DASH}{row['high']:.2f})"


def by_step(tables: Sequence[tuple[str, pl.DataFrame]]) -> list[dict[str, Any]]:
    """x0_hat accuracy as JSON rows, with the set of mazes named."""
    return [{"mazes": name, **row} for name, table in tables for row in table.to_dicts()]
