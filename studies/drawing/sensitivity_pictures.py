"""What a disturbance at one step does to later ones, and how that depends on the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from probes.style import CATEGORIES
from studies.base.signs import X0
from studies.drawing.canvas import BLUE, CHANCE, GREEN, ORANGE
from studies.drawing.figures import Series, points
from studies.drawing.report import Picture, Section
from studies.measures.disturbing import TITLES
from studies.measures.reference import ANSWER
from studies.runs.bench import Bench
from studies.runs.conditions import spread

STATES = {
    "latents": ("noisy latents", BLUE),
    "x0": (X0, ORANGE),
    "hidden": ("hidden states", GREEN),
    ANSWER: ("answers", CATEGORIES[3]),
}
"""Name and colour of what is compared."""
SHOWN = 3
"""Disturbed steps whose effects are drawn over the later steps: the first, the middle and the last."""
Lines = Sequence[tuple[str, str, pl.DataFrame, str]]
"""Name, colour, rows of the table, state."""


def sections(bench: Bench, table: pl.DataFrame) -> list[Section]:
    """What a disturbance does to later steps, what is left of it, and the same with the change of experts moved."""
    own = table.filter(pl.col("boundary").is_null())
    bars = f"Bars: 95 % intervals over {own.row(0, named=True)['n']} problems."
    drawn = [
        _spread(bench, own, bars),
        _picture(
            bench,
            "sensitivity",
            {kind: [(*named, own, state) for state, named in STATES.items()] for kind in bench.given.kinds},
            f"1 - CKA (0: as the undisturbed run, 1: nothing in common), and the share of runs that show another "
            f"answer, at the last step. {bars}",
            "What is left at the last step",
        ),
    ]
    others = [b for b in table["boundary"].unique(maintain_order=True) if b is not None]
    if others:
        ways = [(None, BLUE), *zip(others, (ORANGE, GREEN, CATEGORIES[3]), strict=False)]
        of = [(table.filter(pl.col("boundary").eq_missing(pl.lit(b, pl.Float64))), colour) for b, colour in ways]
        drawn.append(
            _picture(
                bench,
                "boundary",
                {
                    kind: [(f"change at step {rows['change'][0]}", colour, rows, "x0") for rows, colour in of]
                    for kind in bench.given.kinds
                },
                f"1 - CKA of {X0} at the last step, with the experts changing at their own step (the first) and at "
                f"others. {bars}",
                "The change of experts moved",
            )
        )
    return [Section("Sensitivity", (), tuple(drawn))]


def _picture(
    bench: Bench,
    name: str,
    panels: Mapping[str, Lines],
    caption: str,
    title: str,
) -> Picture:
    """What is left at the last step by the step that was disturbed; a panel a kind, lines by name, colour and rows."""
    drawn = []
    for kind, lines in panels.items():
        found = [(label, colour, rows.filter(kind=kind, state=state)) for label, colour, rows, state in lines]
        found = [(label, colour, rows.filter(step=rows["step"].max())) for label, colour, rows in found if len(rows)]
        series = [Series.of(label, colour, rows.sort("at"), "at") for label, colour, rows in found]
        drawn.append((TITLES[kind], series))
    with bench.folder.writing(f"{name}.png") as path:
        points(path, drawn, xlabel="disturbed at step", ylabel="left at the last step", ylim=None)
    return Picture(bench.folder / f"{name}.png", title, caption)


def _spread(bench: Bench, own: pl.DataFrame, bars: str) -> Picture:
    """What becomes of a disturbance over the later steps."""
    panels = []
    for kind in bench.given.kinds:
        mine = own.filter(kind=kind, state="x0")
        places = mine["at"].unique().sort().to_list()
        shown = [places[i] for i in spread(len(places), SHOWN)]
        series = [
            Series.of(f"noise at step {at}", colour, mine.filter(at=at).sort("step"), "step")
            for at, colour in zip(shown, (BLUE, ORANGE, GREEN), strict=False)
        ]
        seeds = own.filter(kind="seeds", state="x0").sort("step")
        series += [Series.of("another seed", CHANCE, seeds, "step")] if len(seeds) else []
        panels.append((TITLES[kind], series))
    with bench.folder.writing("spread.png") as path:
        points(path, panels, xlabel="compared at step", ylabel=f"1 - CKA of {X0}", ylim=None)
    caption = (
        f"{X0} of every later step against that of the undisturbed run; grey: between two undisturbed seeds. {bars}"
    )
    return Picture(bench.folder / "spread.png", "What a disturbance does to later steps", caption)
