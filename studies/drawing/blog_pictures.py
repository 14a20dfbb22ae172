"""Figures of the study of the blog's claims, drawn from its table."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from interp.answers import AnswerTrajectories
from studies.base.signs import X0
from studies.drawing.canvas import BLUE, GREEN, INK, ORANGE
from studies.drawing.figures import Line, Series, lines, points
from studies.drawing.report import Picture, Section
from studies.measures.averaging import WAYS
from studies.runs.bench import Bench


def draw_accuracy(bench: Bench, found: AnswerTrajectories, blog: Mapping[int, float]) -> Section:
    """x0_hat by step, beside what the blog says of two or more steps."""
    means = found.by_step("right").sort("step")
    sigmas = means["sigma"].to_list()
    told = np.interp(range(len(means)), list(blog), list(blog.values()), right=np.nan).tolist()
    drawn = [
        Line("this model", means["mean"].to_list(), means["low"].to_list(), means["high"].to_list()),
        Line("the blog's figures, joined", told, colour=ORANGE, dashed=True),
    ]
    with bench.folder.writing("accuracy.png") as path:
        lines(path, [(f"Right answers in {X0}", drawn)], sigmas, ylabel="share of runs")
    caption = (
        f"{means['n'][0]} runs of {means['groups'][0]} problems; band: 95 % interval over problems. The blog counts "
        "100 steps; here its steps stand at the same share of the schedule."
    )
    return Section("Accuracy by step", (), (Picture(bench.folder / "accuracy.png", "Accuracy by step", caption),))


def draw_recovery(bench: Bench, table: pl.DataFrame) -> Section:
    """x0_hat after noise."""
    rows = table.filter(part="recovery").sort("step")
    whole, panels = rows.filter(size=0.0), []
    for at in rows["at"].drop_nulls().unique().sort():
        series = [_series("undisturbed", INK, whole.filter(pl.col("step") >= at))]
        sizes = rows.filter(pl.col("at") == at)["size"].unique().sort()
        for size, colour in zip(sizes, [GREEN, BLUE, ORANGE] * len(sizes), strict=False):
            of = rows.filter((pl.col("at") == at) & (pl.col("size") == size))
            series.append(_series(f"size {size:g}", colour, of))
        panels.append((f"Corrupted at step {at}", series))
    with bench.folder.writing("recovery.png") as path:
        points(path, panels, xlabel="step", ylabel=f"right answers in {X0}")
    caption = (
        f"Right answers in {X0} from the corrupted step on; noise of a size is that multiple of the latents' standard "
        f"deviation. Bars: 95 % intervals over {whole['n'][0]} problems."
    )
    return Section("Recovery", (), (Picture(bench.folder / "recovery.png", "Recovery after noise", caption),))


def draw_averaging(bench: Bench, table: pl.DataFrame) -> Section:
    """Finished videos of seeds put together."""
    rows = table.filter(part="averaging")
    series, counts = [], []
    for seeds, name, colour in (
        ("all", "all problems", BLUE),
        ("agree", "seeds agree", GREEN),
        ("differ", "seeds differ", ORANGE),
    ):
        of = rows.filter(seeds=seeds)
        if len(of):
            at = [list(WAYS).index(way) for way in of["way"]]
            series.append(Series.of(name, colour, of, at))
            counts.append(f"{name}: {of['n'][0]}")
    names = ["one seed", "mean of latents", "nearest to it", "majority vote", "any seed right"]
    with bench.folder.writing("averaging.png") as path:
        points(path, [("Seeds put together", series)], xlabel="", ylabel="right answers", ticks={0: names})
    caption = (
        f"Share of right answers in finished videos of {bench.given.seeds} seeds put together: "
        f"{'; '.join(WAYS.values())}. Over all problems, and over those whose seeds agree or differ in their answers "
        f"({', '.join(counts)}). Bars: 95 % intervals over problems."
    )
    return Section("Averages", (), (Picture(bench.folder / "averaging.png", "Seeds put together", caption),))


def _series(name: str, colour: str, of: pl.DataFrame) -> Series:
    return Series.of(name, colour, of, "step")
