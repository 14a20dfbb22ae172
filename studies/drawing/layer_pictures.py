"""Figures of the study of layers, drawn from its table: energy contrasts, probes, lenses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from studies.base.signs import X0, XT
from studies.base.words import interval, shown
from studies.drawing.canvas import BLUE, CHANCE, GREEN, ORANGE
from studies.drawing.figures import Series, points
from studies.drawing.heat import Heat, heatmaps
from studies.drawing.report import Noted, Picture, Section
from studies.measures.energy import PARTS
from studies.runs.bench import Bench

_UNITS = {
    "energy_l2": "L2 norm",
    "energy_robust": "Median over channels",
    "energy_layer": "L2 norm, in units of the layer's mean",
}
MEASURES = {
    "energy_l2": "energy (L2), log2 of the ratio",
    "energy_robust": "energy (median over channels), log2 of the ratio",
    "energy_layer": "energy (L2), difference in units of the layer's mean",
    "probe": "probe, balanced accuracy",
    "lens_plain": "plain lens, share of right answers",
    "lens_tuned": "tuned lens, share of right answers",
}
_TITLES = {"foreground": "Foreground against background", "named": "The answer's tokens against other candidates'"}
_GIVEN = {"x0_hat": X0, "x_t": XT, "first_frame": "first frame"}


def sections(bench: Bench, table: pl.DataFrame) -> list[Section]:
    """Energy, probes and lenses."""
    found = [Section("Token energy", (), _energies(bench, table))]
    if len(table.filter(measure="probe")):
        found.append(Section("What can be read from a layer", (), (_probes(bench, table),)))
    found.append(Section("What the head makes of a layer", (), (_lenses(bench, table),)))
    return found


def _energies(bench: Bench, table: pl.DataFrame) -> list[Picture]:
    steps = table["step"].unique().sort().to_list()
    chosen = dict(
        zip(dict.fromkeys((steps[0], steps[len(steps) // 2], steps[-1])), (BLUE, ORANGE, GREEN), strict=False)
    )
    pictures = []
    for part, text in PARTS.items():
        of = table.filter(part=part)
        panels = []
        for measure, unit in _UNITS.items():
            rows = of.filter(measure=measure)
            series = [
                Series(f"step {step}", colour, *(_columns(rows.filter(step=step), "value", "low", "high")))
                for step, colour in chosen.items()
            ]
            mean = rows.group_by("layer").agg(pl.col("placebo").mean().alias("value")).sort("layer")
            flat = _columns(mean, "value", "value", "value")
            panels.append((unit, [*series, Series("masks of other problems", CHANCE, *flat)]))
        if not len(of.filter(measure="energy_l2")):
            continue
        path = bench.folder / f"energy_{part}.png"
        with bench.folder.writing(path.name) as place:
            points(place, panels, xlabel="layer", ylabel="contrast of energies", ylim=None, level=0.0)
        caption = (
            f"{text[0].upper()}{text[1:]}: log2 of the ratio of mean energies (left, middle), and difference of means "
            "in units of the layer's mean (right); latent frames after the first, conditional pass. Layer -1: the "
            f"embedded patches. Bars: 95 % intervals over {rows['n'][0]} problems; grey: masks of other problems, mean "
            "over steps."
        )
        pictures.append(Picture(path, _TITLES[part], caption))
    return pictures


def _columns(rows: pl.DataFrame, *names: str) -> list[list[float]]:
    rows = rows.sort("layer")
    return [rows["layer"].to_list(), *(rows[name].to_list() for name in names)]


def _probes(bench: Bench, table: pl.DataFrame) -> Picture:
    rows = table.filter(measure="probe")
    layered = rows.filter(source="layer").sort("layer", "step")
    steps, layers = (layered[name].unique().sort().to_list() for name in ("step", "layer"))
    shape = (len(layers), len(steps))
    baselines = {title: rows.filter(source=name).sort("step")["value"].to_numpy() for name, title in _GIVEN.items()}
    value, low, chance, control = (
        layered[name].to_numpy().reshape(shape) for name in ("value", "low", "chance", "placebo")
    )
    heats = [
        Heat(
            "Tokens of the answer", value, low > chance, {X0 if k == "x0_hat" else k: v for k, v in baselines.items()}
        ),
        Heat("Shuffled labels", control, np.ones(shape, dtype=bool), {}),
    ]
    path = bench.folder / "probes.png"
    with bench.folder.writing(path.name) as place:
        heatmaps(
            place, heats, _sigmas(layered), low=0.4, high=1.0, label="balanced accuracy", steps=steps, layers=layers
        )
    caption = (
        "Linear probes on tokens of the last latent frame: is the token one that the answer is about, or one of "
        f"another candidate's? Out of fold, {layered['n'][0]} problems, none on both sides of a split. Hatched: the "
        "95 % interval reaches down to chance. Rows below: the same probe on what the network was given and on the "
        "step's estimate."
    )
    return Picture(path, "Probes by step and layer", caption)


def _lenses(bench: Bench, table: pl.DataFrame) -> Picture:
    names = [name for name in ("lens_plain", "lens_tuned") if len(table.filter(measure=name))]
    heats = []
    for name in names:
        rows = table.filter(measure=name)
        layered = rows.filter(pl.col("layer").is_not_null()).sort("layer", "step")
        steps, layers = (layered[column].unique().sort().to_list() for column in ("step", "layer"))
        value = layered["value"].to_numpy().reshape(len(layers), len(steps))
        own = rows.filter(pl.col("layer").is_null()).sort("step")["value"].to_numpy()
        heats.append(Heat(f"{name[5:].capitalize()} lens", value, np.ones(value.shape, dtype=bool), {"output": own}))
    path = bench.folder / "lenses.png"
    with bench.folder.writing(path.name) as place:
        heatmaps(place, heats, _sigmas(layered), low=0.0, high=1.0, label="right answers", steps=steps, layers=layers)
    caption = (
        f"Share of runs whose {X0} is right when the final norm and head read the residual stream after a block (-1: "
        "the embedded patches), conditional pass; plain as it is, tuned after an affine map fitted on other problems. "
        f"{layered['n'][0]} problems. Row below: the model's own output."
    )
    return Picture(path, "Lenses by step and layer", caption)


def _sigmas(rows: pl.DataFrame) -> list[float]:
    return [float(s) for s in rows.select("step", "sigma").unique().sort("step")["sigma"]]


def stage_table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same for readers: one row a measure and part, stages side by side."""
    found: dict[tuple[str, str | None], dict[str, Any]] = {}
    for row in rows:
        about = {"measure": MEASURES[row["measure"]], "of": PARTS.get(row["part"], "finished answers")}
        line = found.setdefault((row["measure"], row["part"]), about)
        value, ends = interval(row["value"], row["low"], row["high"])
        placebo = "" if row["placebo"] is None else f"; placebo {shown(row['placebo'], 2)}"
        line[row["stage"]] = Noted(value, f"{ends}{placebo}")
    return list(found.values())
