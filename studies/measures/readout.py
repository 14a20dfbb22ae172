"""What x0_hat of mazes shows: the last frame of the clean estimate at every step, and what the solver reads in it.

No probe is fitted here. A fork maze has two equally short routes; how far each is drawn in x0_hat, and which one more,
is read off the colours of its blocks. Everything else is read as from any task's pictures, by `interp.answers`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch

from interp import RunSpec
from interp.answers import AnswerTrajectories, read_answers
from interp.grid import TokenGrid
from interp.intervals import mean_by
from interp.patches import unpatchify
from interp.tasks import MazeTask, Sample
from interp.tasks.maze.maze import Maze, Route
from interp.tasks.maze.render import open_blocks, route_blocks
from interp.tasks.maze.score import blocks_from_pixels, occupancy

Frames = Callable[[torch.Tensor], np.ndarray]
KINDS = ("taken", "other", "elsewhere")


@dataclass(frozen=True)
class Readout:
    """x0_hat of a set of runs, read by the solver.

    Attributes:
        specs: [run].
        colours: mean block colours of the last frame, 0..1: [run, step, block_row, block_col, rgb].
        answers: of every run and step.
        final: the run's own answer, () if it has none: [run].
        routes: which of the maze's shortest routes that is, -1 if none: int [run].
    """

    specs: tuple[RunSpec, ...]
    colours: np.ndarray
    answers: AnswerTrajectories
    final: tuple[Route, ...]
    routes: np.ndarray

    @property
    def samples(self) -> list[Sample]:
        """Problem of each run."""
        return [spec.sample for spec in self.specs]


def read_x0(
    task: MazeTask,
    specs: Sequence[RunSpec],
    tokens: np.ndarray,
    sigmas: Sequence[float],
    grid: TokenGrid,
    frames: Frames,
    finals: np.ndarray,
) -> Readout:
    """Decode and score x0_hat.

    Args:
        task: the maze task.
        specs: [run].
        tokens: x0_hat as tokens [run, step, token, feature]; the last latent frame is enough where the VAE can decode
            it alone.
        sigmas: [step].
        grid: the token grid of the video.
        frames: latents [batch, channel, latent_frame, row, col] to uint8 [batch, frame, row, col, rgb]; ``lab.frames``.
        finals: the runs' own answers as ``on_path`` of one latent frame, NaN without an answer: [run, row, col].
    """
    pictures = []
    for spec, run in zip(specs, tokens, strict=True):
        pixels = frames(torch.from_numpy(unpatchify(run, grid)))[:, -1]
        pictures.append(blocks_from_pixels(pixels, spec.sample.problem.size) / np.float32(255))
    colours = np.stack(pictures)
    last = [task.score(spec.sample, picture[-1:]).path for spec, picture in zip(specs, colours, strict=True)]
    final = tuple(_answer(path, own) for path, own in zip(last, finals, strict=True))
    return Readout(
        specs=tuple(specs),
        colours=colours,
        answers=read_answers(task, specs, ((k, float(s), colours[:, k, None]) for k, s in enumerate(sigmas))),
        final=final,
        routes=np.array([_route(s.sample.problem, path) for s, path in zip(specs, final, strict=True)]),
    )


def _answer(last: Route, on_path: np.ndarray) -> Route:
    """The path of the last x0_hat if the scored video says the same; the label decides."""
    cells = {(int(i), int(j)) for i, j in np.argwhere(on_path == 1)}
    return last if cells == set(last) else ()


def _route(maze: Maze, path: Route) -> int:
    return maze.routes.index(path) if path in maze.routes else -1


def accuracy_by_step(readout: Readout) -> pl.DataFrame:
    """Shares of runs by step, with bootstrap intervals over mazes.

    Returns:
        One row per measure and step: measure, step, sigma, share, low, high, n (runs), mazes. Measures: ``valid``
        (x0_hat shows an exact open path), ``final`` (it shows the answer that the run ends with; of runs that end with
        one), ``route`` (fork mazes: the route that the run ends with is drawn more strongly).
    """
    drawn = drawn_routes(readout).pivot(on="kind", index=["run", "step"], values="drawn")
    route = drawn.select("run", "step", route=pl.col("taken") > pl.col("other"))
    steps = readout.answers.steps.join(route, on=["run", "step"], how="left", maintain_order="left")
    steps = steps.with_columns(valid=pl.col("state") != "none")
    found = [
        mean_by(steps, measure, by=("step",), ends=(0.0, 1.0)).with_columns(measure=pl.lit(measure))
        for measure in ("valid", "final", "route")
    ]
    table = pl.concat(found).filter(pl.col("n") > 0).rename({"mean": "share", "groups": "mazes"})
    return table.select("measure", "step", "sigma", "share", "low", "high", "n", "mazes")


def route_occupancy(readout: Readout) -> dict[str, np.ndarray]:
    """How strongly x0_hat draws blocks of three kinds, 0 (white) to 1 (trail): float [run, step] each.

    ``taken`` and ``other``: blocks on only one of a fork's two routes, the one that the run ends with and the other.
    ``elsewhere``: open blocks on no shortest route. NaN for runs that are no fork or took neither route.
    """
    found = {name: np.full(readout.colours.shape[:2], np.nan) for name in KINDS}
    for run, sample in enumerate(readout.samples):
        maze, route = sample.problem, int(readout.routes[run])
        if not maze.is_fork or route < 0:
            continue
        drawn = occupancy(readout.colours[run] * 255)
        taken, other = set(route_blocks(maze.routes[route])), set(route_blocks(maze.routes[1 - route]))
        free = {(int(r), int(c)) for r, c in np.argwhere(open_blocks(maze))} - taken - other
        for name, blocks in (("taken", taken - other), ("other", other - taken), ("elsewhere", free)):
            where = np.array(sorted(blocks)).reshape(-1, 2)
            if len(where):
                found[name][run] = drawn[:, where[:, 0], where[:, 1]].mean(1)
    return found


def drawn_routes(readout: Readout) -> pl.DataFrame:
    """`route_occupancy` as a table: run, sample, step, sigma, kind, drawn; null where it says nothing."""
    sigmas = dict(readout.answers.steps.select("step", "sigma").unique().iter_rows())
    rows = [
        {"run": spec.key, "sample": spec.sample.key, "step": step, "sigma": sigmas[step], "kind": kind, "drawn": value}
        for kind, values in route_occupancy(readout).items()
        for spec, of_run in zip(readout.specs, values.tolist(), strict=True)
        for step, value in enumerate(of_run)
    ]
    return pl.DataFrame(rows).with_columns(pl.col("drawn").fill_nan(None))


def occupancy_by_step(readout: Readout) -> pl.DataFrame:
    """Means of `route_occupancy` by step with bootstrap intervals over mazes: kind, step, sigma, mean, low, high, n."""
    drawn = drawn_routes(readout).filter(pl.col("drawn").is_not_null())
    return mean_by(drawn, "drawn", by=("kind", "step")).drop("groups") if len(drawn) else pl.DataFrame()


def seeds_disagree(readout: Readout) -> tuple[int, int]:
    """Fork mazes whose seeds took both routes, of those with two or more runs that took one."""
    routes: dict[str, list[int]] = {}
    for sample, route in zip(readout.samples, readout.routes, strict=True):
        if sample.problem.is_fork and route >= 0:
            routes.setdefault(sample.key, []).append(int(route))
    several = [taken for taken in routes.values() if len(taken) > 1]
    return sum(len(set(taken)) > 1 for taken in several), len(several)
