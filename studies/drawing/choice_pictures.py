"""What choosing seeds early wins, and at what cost: figure and table of the study of early plans."""

from __future__ import annotations

from typing import Any

import polars as pl

from studies.base.words import interval
from studies.drawing.canvas import BLUE, GREEN, INK, ORANGE
from studies.drawing.figures import Series, points
from studies.drawing.report import Noted, Picture, Section
from studies.measures.choosing import ANY, ENSEMBLE, NAMES, ONE, RULES, VOTE
from studies.runs.bench import Bench

COLOURS = {"entropy": BLUE, "probe": GREEN, "majority": ORANGE, "redraw": INK}


def choices(bench: Bench, table: pl.DataFrame) -> Section:
    """By the step after which a seed is chosen, and by cost; every way in a table."""
    one = table.filter(rule=ONE).row(0, named=True)["value"]
    early = [Series.of(NAMES[of], colour, table.filter(rule=of).sort("step"), "step") for of, colour in COLOURS.items()]
    paid = []
    for rule, colour, also in ((ANY, INK, [ONE]), (VOTE, ORANGE, [ONE]), ("probe", GREEN, []), (ENSEMBLE, BLUE, [])):
        of = table.filter(pl.col("rule").is_in([rule, *also])).sort("cost")
        paid += [Series.of(NAMES[rule], colour, of, "cost")] if len(of) else []
    with bench.folder.writing("choices.png") as path:
        points(
            path,
            [("Seeds chosen early", early), ("At what cost", paid)],
            xlabel=("chosen after step", "denoising steps a problem"),
            ylabel="right answers",
            level=one,
        )
    n = table.row(0, named=True)["n"]
    caption = (
        f"Share of {n} problems whose chosen seed (of {bench.given.seeds}) ends right, by the step after which it is "
        "chosen (left), and by its cost in denoising steps, seeds given up included, beside votes of whole runs and "
        "any seed right (right). Bars: 95 % intervals over problems. Dashed: one seed."
    )
    picture = Picture(bench.folder / "choices.png", "Choices and their cost", caption)
    said = ". ".join(f"{NAMES[rule].capitalize()}: {text}" for rule, text in RULES.items())
    return Section("Choosing seeds early", (f"{said}.",), (picture,), (_lines(table),))


def _lines(table: pl.DataFrame) -> list[dict[str, Any]]:
    """The table for readers."""
    return [
        {
            "way": NAMES[row["rule"]],
            "seeds": row["seeds"],
            "at step": row["step"],
            "strength": row["strength"],
            "right": Noted(*interval(row["value"], row["low"], row["high"])),
            "share of the headroom": row["headroom"],
            "steps a problem": row["cost"],
            "vote of whole runs that costs as much": row["vote"],
        }
        for row in table.to_dicts()
    ]
