"""Figures of the memory study: where the start state can be read, and what closing attention takes away."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from studies.base.signs import DASH
from studies.drawing.canvas import BLUE, GREEN, INK, ORANGE
from studies.drawing.figures import Series, points
from studies.drawing.probe_maps import draw_maps
from studies.drawing.report import Picture, Section
from studies.measures.knockouts import FIRST, KINDS
from studies.measures.probed import Probed
from studies.measures.readers import RIGHT, START
from studies.runs.bench import Bench


def reading(bench: Bench, probed: Sequence[Probed]) -> Section:
    """The start state by step and layer."""
    picture = draw_maps(bench.folder, "start.png", probed, "Start state by step and layer")
    return Section("The start state", (), (picture,))


def knocked(bench: Bench, table: pl.DataFrame, layer: int) -> Section:
    """Right answers, and the start state read after one block, with attention closed."""
    pictures = []
    for measure_, name in ((RIGHT, "right answers"), (START, f"balanced accuracy after block {layer}")):
        rows = table.filter(pl.col("measure") == measure_)
        rows = rows.filter(pl.col("layer") == layer) if measure_ == START else rows
        panels, ticks = [], {}
        for number, (where, title) in enumerate(
            (("steps", "Closed in a span of steps"), ("layers", "Closed in a window of layers"))
        ):
            of = rows.filter(pl.col("where").is_in([where, "all"]))
            of = of.sort(pl.col("where") == "all", "first", maintain_order=True)
            panels.append((title, [_series(of, kind, colour) for kind, colour in _COLOURS.items()]))
            ticks[number] = [
                "all" if where == "all" else f"{first}{DASH}{last}"
                for where, first, last in of.filter(pl.col("kind").is_null())
                .select("where", "first", "last")
                .iter_rows()
            ]
        file = f"knocked_out_{measure_}.png"
        with bench.folder.writing(file) as path:
            points(path, panels, xlabel=("steps (all layers)", "layers (all steps)"), ylabel=name, ticks=ticks)
        pictures.append(Picture(bench.folder / file, _TITLES[measure_], f"{_CAPTIONS[measure_]} {_bars(rows)}"))
    text = (
        f"Attention of all other frames is closed to the {KINDS[FIRST]}; as placebos, to the {KINDS['frame']}, or to "
        f"{KINDS['tokens']}. Closed in spans of steps (all layers), in windows of layers (all steps), and everywhere."
    )
    return Section("Attention to the first frame", (text,), pictures)


_COLOURS = {None: INK, FIRST: ORANGE, "frame": BLUE, "tokens": GREEN}


def _series(of: pl.DataFrame, kind: str | None, colour: str) -> Series:
    mine = of.filter(pl.col("kind").is_null() if kind is None else pl.col("kind") == kind)
    columns = (mine[name].to_list() for name in ("value", "low", "high"))
    return Series(_NAMES[kind], colour, range(len(mine)), *columns)


_NAMES = {
    None: "undisturbed",
    FIRST: "first frame closed",
    "frame": "another frame closed",
    "tokens": "random tokens closed",
}
_TITLES = {RIGHT: "Right answers with attention knocked out", START: "The start state with attention knocked out"}
_CAPTIONS = {
    RIGHT: "Share of runs that end with the right answer.",
    START: "Probes of the start state, fitted on undisturbed runs of other problems, asked again in the middle frame; "
    "chance is 0.5.",
}


def _bars(rows: pl.DataFrame) -> str:
    return f"Bars: 95 % intervals over {rows['n'].to_numpy().max()} problems."
