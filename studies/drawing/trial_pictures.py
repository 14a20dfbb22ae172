"""Figures of the swap study, drawn from its table: maps of step and layer, controls, and what lasts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from studies.base.signs import X0
from studies.drawing.canvas import BLUE, CHANCE, GREEN, INK, ORANGE
from studies.drawing.figures import Series, points
from studies.drawing.heat import Heat, heatmaps
from studies.drawing.report import Picture, Section
from studies.runs.bench import Bench

TITLES = {
    "resid": "whole stream",
    "update": "what the block adds",
    "attn": "self-attention",
    "cross_attn": "cross-attention",
    "mlp": "MLP",
}
CONTROLS = {
    "From whom": (
        "source",
        {"other": "the other run of the pair", "third": "a third problem's run", "noise": "a random direction, as far"},
    ),
    "Which tokens": (
        "tokens",
        {"all": "all", "object": "those that tell the answers apart", "random": "as many others"},
    ),
    "Which pass": ("branch", {"both": "both", "cond": "conditional", "uncond": "unconditional"}),
}
LEAST = 0.1
"""A map is hatched where the interval reaches below this share of the way."""


def sections(bench: Bench, table: pl.DataFrame) -> list[Section]:
    """Maps of every operation, the controls, and what lasts."""
    both, at = table.filter(direction="both"), bench.given.at
    ops = list(dict.fromkeys(both["op"].to_list()))
    return [
        Section(f"Step by layer, read in {X0} of the step", (), _maps(bench, both, ops)),
        Section("Controls", (), (_controls(bench, both, ops[0], at),)),
        Section("What lasts", (), (_lasting(bench, both, ops, at),)),
    ]


def _maps(bench: Bench, both: pl.DataFrame, ops: Sequence[str]) -> list[Picture]:
    """Two operations a picture: more would be too small to read at the page's width."""
    chosen = both.filter(~pl.col("until"), tokens="all", branch="both", source="other", read="early")
    steps, layers = (chosen[name].unique().sort().to_list() for name in ("step", "layer"))
    sigmas = chosen.select("step", "sigma").unique().sort("step")["sigma"].to_list()
    pictures = []
    for first in range(0, len(ops), 2):
        shown = ops[first : first + 2]
        heats = []
        for op in shown:
            of = chosen.filter(op=op).sort("layer", "step")
            share, low = (of[c].fill_null(np.nan).to_numpy().reshape(len(layers), -1) for c in ("share", "share_low"))
            heats.append(Heat(TITLES[op].capitalize(), np.clip(share, 0, 1), low > LEAST, {}))
        path = bench.folder / f"map_{first // 2}.png"
        with bench.folder.writing(path.name) as place:
            heatmaps(place, heats, sigmas, low=0.0, high=1.0, label="share of the way", steps=steps, layers=layers)
        caption = (
            f"How far {X0} of the step goes towards the other run's when the values of one layer at one step are taken "
            f"from it; mean over both directions of {_pairs(both)} pairs. Hatched: the 95 % interval reaches below "
            f"{LEAST:g}."
        )
        pictures.append(Picture(path, " and ".join(TITLES[op] for op in shown).capitalize(), caption))
    return pictures


def _pairs(both: pl.DataFrame) -> int:
    return int(both["n"].to_numpy().max())


def _controls(bench: Bench, both: pl.DataFrame, op: str, at: int) -> Picture:
    plain = {"tokens": "all", "branch": "both", "source": "other"}
    early = both.filter(~pl.col("until"), op=op, read="early", step=at)
    panels = []
    for title, (axis, values) in CONTROLS.items():
        series = []
        for (value, name), colour in zip(values.items(), (BLUE, ORANGE, GREEN), strict=True):
            of = early.filter(**{**plain, axis: value})
            series += [_series(of, name, colour, "share")] if len(of) else []
        if len(series) > 1:
            panels.append((title, series))
    path = bench.folder / "controls.png"
    with bench.folder.writing(path.name) as place:
        points(place, panels, xlabel="layer", ylabel="share of the way")
    caption = (
        f"How far {X0} of step {at} goes towards the other run's when the {TITLES[op]} of one layer is swapped: taken "
        "from other places, at some of the tokens, in one pass of guidance. A picture that shows neither answer is "
        f"half of the way. Bars: 95 % intervals over {_pairs(both)} pairs, both directions."
    )
    return Picture(path, "Swaps and their controls", caption)


def _lasting(bench: Bench, both: pl.DataFrame, ops: Sequence[str], at: int) -> Picture:
    final = both.filter(tokens="all", branch="both", source="other", read="final")
    colours = dict(zip(TITLES, (BLUE, INK, ORANGE, GREEN, CHANCE), strict=True))
    single = [_series(final.filter(~pl.col("until"), op=op, step=at), TITLES[op], colours[op], "flip") for op in ops]
    until = final.filter(pl.col("until"))
    several = [
        _series(until.filter(layer=layer), f"layer {layer}", colour, "flip", along="step")
        for layer, colour in zip(until["layer"].unique().sort().to_list(), (BLUE, ORANGE), strict=False)
    ]
    path = bench.folder / "lasting.png"
    with bench.folder.writing(path.name) as place:
        points(
            place,
            [
                (f"Swapped at step {at} alone", single),
                (f"{TITLES[ops[0]].capitalize()}, at all steps up to one", several),
            ],
            xlabel=("layer", "last step that is swapped"),
            ylabel="answers reversed",
        )
    caption = (
        "Share of finished videos that show the other answer, over the pairs whose undisturbed videos show both "
        f"({int(final['n_flip'].to_numpy().max())} of {_pairs(both)}). Bars: 95 % intervals over pairs."
    )
    return Picture(path, "Answers of finished videos", caption)


def _series(rows: pl.DataFrame, name: str, colour: str, measure: str, along: str = "layer") -> Series:
    rows = rows.filter(pl.col(measure).is_not_null()).sort(along)
    return Series(name, colour, *(rows[c].to_list() for c in (along, measure, f"{measure}_low", f"{measure}_high")))
