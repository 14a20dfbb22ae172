"""The decodability study's figures, drawn from its tables; each comes back with its caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from interp.tasks.maze.maze import Maze
from interp.tasks.maze.render import render_symbols, to_rgb
from studies.base.folder import StudyFolder
from studies.base.signs import X0, XT
from studies.drawing.canvas import BLUE, FAINT, GREEN, ORANGE
from studies.drawing.figures import Line, lines
from studies.drawing.heat import Heat, heatmaps
from studies.drawing.report import Picture
from studies.drawing.strips import StripRow, strips
from studies.measures.readout import Readout
from studies.measures.sets import Set
from studies.measures.targets import TARGETS

STRIP_ROWS, STRIP_STEPS = 6, 10
SHADES = ("#8fc1e3", "#4596cc", BLUE)
SOURCES = {"x0_hat": f"{X0} of the step", "x_t": f"{XT} (noisy latents)", "first_frame": "first frame"}
_SOURCE_COLOURS = {"x0_hat": ORANGE, "x_t": FAINT, "first_frame": GREEN}
_LOW, _HIGH = 0.45, 1.0


def draw_strips(folder: StudyFolder, one: Set, readout: Readout, sigmas: Sequence[float]) -> Picture:
    """x0_hat of a few runs over the steps."""
    chosen = strip_runs(readout, fork=one.name == "fork")
    steps = strip_steps(len(sigmas))
    rows = [
        StripRow(
            name=f"maze {_number(readout, run)}\nseed {one.specs[run].seed}",
            given=_drawn(readout.samples[run].problem, None),
            estimates=[readout.colours[run, step] for step in steps],
            truth=_drawn(readout.samples[run].problem, readout.samples[run].problem.routes),
            answer=_answer(readout, run),
        )
        for run in chosen
    ]
    name = f"strips_{one.name}.png"
    with folder.writing(name) as path:
        strips(path, rows, steps, [sigmas[step] for step in steps])
    fork = one.name == "fork"
    first = "first the mazes whose seeds took different routes, then the others" if fork else "the first mazes"
    return Picture(
        folder / name,
        f"The last frame of {X0} over the steps, {one.name} mazes",
        f"{len(rows)} of {len(one.specs)} runs: {first}, in the order in which they were drawn, solved or not. Pale "
        "blue is a trail that is drawn in part. The result is that of the last step. The column on the right shows "
        "every shortest route" + (", pale where only one of the two goes." if fork else "."),
    )


def strip_runs(readout: Readout, rows: int = STRIP_ROWS, *, fork: bool) -> list[int]:
    """Which runs are shown: of forks, two seeds of a maze that took different routes; then the first of each maze."""
    by_maze: dict[str, list[int]] = {}
    for run, sample in enumerate(readout.samples):
        by_maze.setdefault(sample.key, []).append(run)
    pairs: list[int] = []
    for runs in by_maze.values():
        taken = {int(readout.routes[run]): run for run in reversed(runs) if readout.routes[run] >= 0}
        if fork and len(taken) > 1:
            pairs += sorted(taken.values())[:2]
    singles = [runs[0] for runs in by_maze.values() if runs[0] not in pairs[:rows]]
    return (pairs[: rows - rows % 2] + singles)[:rows]


def strip_steps(steps: int, shown: int = STRIP_STEPS) -> list[int]:
    """Which steps are shown: the first, the last, and more of the early ones, where x0_hat changes."""
    spread = np.linspace(0, 1, min(shown, steps)) ** 1.4 * (steps - 1)
    return sorted({round(float(step)) for step in spread})


def draw_x0(folder: StudyFolder, x0: dict[str, pl.DataFrame]) -> Picture:
    """How often x0_hat already shows a path, and the final answer."""
    panels = []
    for name, table in x0.items():
        drawn = []
        for measure, (label, colour) in _MEASURES.items():
            rows = table.filter(pl.col("measure") == measure).sort("step")
            if len(rows) and (measure != "route" or name == "fork"):
                drawn.append(_line(label, rows, "share", colour))
        panels.append((f"{name.capitalize()} mazes", drawn))
    sigmas = next(iter(x0.values())).filter(pl.col("measure") == "valid").sort("step")["sigma"].to_list()
    with folder.writing("x0_hat.png") as path:
        lines(path, panels, sigmas, ylabel="share of runs", ylim=(0, 1.02))
    told = "; ".join(f"{name}: n = {_most(table)} runs" for name, table in x0.items())
    return Picture(
        folder / "x0_hat.png",
        f"What {X0} shows, by step",
        f"Read by the exact solver, no probe is fitted. {told}; bands are 95 % bootstrap intervals over mazes. The "
        "final answer and the route are asked of runs that end with a valid one; by chance the route drawn more "
        "strongly is the right one in half of the runs.",
    )


_MEASURES = {
    "valid": ("an exact open path", BLUE),
    "final": ("the run's final answer", ORANGE),
    "route": ("the route to be taken, more strongly than the other", GREEN),
}


def draw_pruning(folder: StudyFolder, occupancy: pl.DataFrame) -> Picture:
    """How strongly the two routes of a fork are drawn."""
    names = {
        "taken": ("the route taken only", BLUE),
        "other": ("the other route only", ORANGE),
        "elsewhere": ("neither", FAINT),
    }
    drawn = [
        _line(label, rows, "mean", colour)
        for kind, (label, colour) in names.items()
        if len(rows := occupancy.filter(pl.col("kind") == kind).sort("step"))
    ]
    sigmas = occupancy.filter(pl.col("kind") == "taken").sort("step")["sigma"].to_list()
    with folder.writing("pruning.png") as path:
        lines(
            path,
            [("Blocks that lie on ...", drawn)],
            sigmas,
            ylabel=f"trail drawn in {X0} (0 to 1)",
            ylim=(-0.02, 1.02),
        )
    return Picture(
        folder / "pruning.png",
        "Two candidates, then one",
        f"How strongly {X0} draws blocks that lie only on the route that the run ends up taking, only on the other, "
        f"and on neither. n = {_most(occupancy)} runs that ended on one of the two; bands are 95 % bootstrap "
        "intervals over mazes.",
    )


def draw_heatmaps(folder: StudyFolder, table: pl.DataFrame, target: str, of: dict[str, Any]) -> Picture:
    """The step x layer grid of a target, beside the same with shuffled labels."""
    mine = table.filter(pl.col("target") == target)
    heats = [
        _heat(mine.filter(pl.col("labels") == labels), title)
        for labels, title in (("run", TARGETS[target].title), ("shuffled", "The same with shuffled labels"))
    ]
    sigmas = _sigmas(mine)
    classes = TARGETS[target].model == "logistic"
    low, high = (_LOW, _HIGH) if classes else (-0.1, 1.0)
    with folder.writing(f"heat_{target}.png") as path:
        heatmaps(path, heats, sigmas, low=low, high=high, label=of["metric"].replace("_", " "))
    return Picture(
        folder / f"heat_{target}.png",
        f"{TARGETS[target].title}: probes over steps and layers",
        f"{TARGETS[target].asked} {_n(of)}. Each cell is a {TARGETS[target].model} probe on the tokens "
        f"after one block at one step, five folds, no maze on both sides. Chance from shuffled labels: "
        f"{of['chance']:.2f} (97.5 % of shuffles below {of['chance_high']:.2f}); hatched cells have a 95 % interval "
        "(bootstrap over mazes) that does not clear it. Rows below: the same probe on what the network was given or "
        "has drawn.",
    )


def draw_curves(folder: StudyFolder, table: pl.DataFrame, target: str, of: dict[str, Any]) -> Picture:
    """A few layers over the steps, with intervals, chance and baselines."""
    mine = table.filter((pl.col("target") == target) & (pl.col("labels") == "run"))
    hooked = mine.filter(pl.col("source") == "hook")
    layers = sorted(hooked["layer"].unique())
    shown = sorted({layers[0], layers[len(layers) // 2], layers[-1]})
    drawn = [
        _line(f"after block {layer}", hooked.filter(pl.col("layer") == layer).sort("step"), "score", colour)
        for layer, colour in zip(shown, SHADES[-len(shown) :], strict=True)
    ]
    for source, label in SOURCES.items():
        rows = mine.filter(pl.col("source") == source).sort("step")
        if len(rows):
            drawn.append(Line(label, rows["score"].to_list(), colour=_SOURCE_COLOURS[source], dashed=True))
    noise = table.filter(
        (pl.col("target") == target)
        & (pl.col("labels") == "shuffled")
        & (pl.col("source") == "hook")
        & (pl.col("layer") == layers[-1])
    ).sort("step")
    drawn.append(Line(f"block {layers[-1]}, shuffled labels", noise["score"].to_list(), colour="#7a5c3e", dashed=True))
    last = hooked.filter(pl.col("layer") == layers[-1]).sort("step")
    logistic = TARGETS[target].model == "logistic"
    with folder.writing(f"curves_{target}.png") as path:
        lines(
            path,
            [(TARGETS[target].title, drawn)],
            _sigmas(mine),
            ylabel=of["metric"].replace("_", " "),
            ylim=(0.3, 1.02) if logistic else (-0.1, 1.02),
            chance=(last["chance"].to_list(), last["chance_high"].to_list()),
        )
    return Picture(
        folder / f"curves_{target}.png",
        f"{TARGETS[target].title}: over the steps",
        f"{_n(of)}. Bands: 95 % bootstrap intervals over mazes. Grey: chance level from shuffled labels, mean and "
        f"97.5 % bound. Dashed: the same probe on {X0} and on the noisy latents of the step, on the first frame, and "
        "on the last block with shuffled labels.",
    )


def _line(name: str, rows: pl.DataFrame, value: str, colour: str) -> Line:
    return Line(name, rows[value].to_list(), rows["low"].to_list(), rows["high"].to_list(), colour)


def _heat(rows: pl.DataFrame, title: str) -> Heat:
    hooked = rows.filter(pl.col("source") == "hook").sort("layer", "step")
    shape = (hooked["layer"].n_unique(), hooked["step"].n_unique())
    return Heat(
        title,
        hooked["score"].to_numpy().reshape(shape),
        (hooked["low"] > hooked["chance_high"]).to_numpy().reshape(shape),
        {
            label: rows.filter(pl.col("source") == source).sort("step")["score"].to_numpy()
            for source, label in SOURCES.items()
            if source in rows["source"].to_list()
        },
    )


def _sigmas(table: pl.DataFrame) -> list[float]:
    return table.select("step", "sigma").unique().sort("step")["sigma"].to_list()


def _most(table: pl.DataFrame) -> int:
    return max(table["n"].to_list())


def _n(of: dict[str, Any]) -> str:
    seeds = f"{of['seeds']} seed{'s' * (of['seeds'] > 1)} a maze"
    return f"n = {of['rows']} tokens of {of['runs']} runs of {of['mazes']} mazes, {seeds}"


def _number(readout: Readout, run: int) -> int:
    order = list(dict.fromkeys(sample.key for sample in readout.samples))
    return order.index(readout.samples[run].key) + 1


def _answer(readout: Readout, run: int) -> str:
    if not readout.final[run]:
        return "no valid path"
    if readout.samples[run].problem.is_fork and readout.routes[run] >= 0:
        return f"route {'AB'[int(readout.routes[run])]}"
    return "shortest" if readout.routes[run] >= 0 else "valid, longer"


def _drawn(maze: Maze, routes: Sequence[Any] | None) -> np.ndarray:
    """The first frame, or the mean of the last frames of some routes: [block_row, block_col, rgb] in 0..1."""
    if routes is None:
        return to_rgb(render_symbols(maze, (maze.start,), num_frames=1)[0]) / 255.0
    return np.mean([to_rgb(render_symbols(maze, route)[-1]) / 255.0 for route in routes], axis=0)
