"""What x0_hat shows: the last frame of the clean estimate at every step, and what the maze's solver reads in it.

No probe is fitted here. A fork maze has two equally short routes; how far each is drawn in x0_hat, and which one more,
is read off the colours of its blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch

from interp.grid import TokenGrid
from interp.intervals import cluster_mean, wilson
from interp.patches import unpatchify
from interp.tasks import MazeTask, Sample
from interp.tasks.maze.maze import Maze, Route
from interp.tasks.maze.render import open_blocks, route_blocks
from interp.tasks.maze.score import blocks_from_pixels, occupancy

Frames = Callable[[torch.Tensor], np.ndarray]


@dataclass(frozen=True)
class Readout:
    """x0_hat of a set of runs, read by the solver.

    Attributes:
        samples: [run].
        colours: mean block colours of the last frame, 0..1: [run, step, block_row, block_col, rgb].
        valid: whether x0_hat shows an exact open path: bool [run, step].
        paths: the path it shows, () if none: [run][step].
        final: the run's own answer, () if it has none: [run].
        routes: which of the maze's shortest routes that is, -1 if none: int [run].
    """

    samples: tuple[Sample, ...]
    colours: np.ndarray
    valid: np.ndarray
    paths: tuple[tuple[Route, ...], ...]
    final: tuple[Route, ...]
    routes: np.ndarray


def read_x0(
    task: MazeTask, samples: Sequence[Sample], tokens: np.ndarray, grid: TokenGrid, frames: Frames, finals: np.ndarray
) -> Readout:
    """Decode and score x0_hat.

    Args:
        task: the maze task.
        samples: [run].
        tokens: x0_hat as tokens [run, step, token, feature]; the last latent frame is enough where the VAE can decode
            it alone.
        grid: the token grid of the video.
        frames: latents [batch, channel, latent_frame, row, col] to uint8 [batch, frame, row, col, rgb]; ``lab.frames``.
        finals: the runs' own answers as ``on_path`` of one latent frame, NaN without an answer: [run, row, col].
    """
    colours, valid, paths = [], [], []
    for sample, run in zip(samples, tokens, strict=True):
        pixels = frames(torch.from_numpy(unpatchify(run, grid)))[:, -1]
        blocks = blocks_from_pixels(pixels, sample.problem.size) / np.float32(255)
        scores = [task.score(sample, picture[None]) for picture in blocks]
        colours.append(blocks)
        valid.append([score.valid for score in scores])
        paths.append(tuple(score.path for score in scores))
    answers = tuple(_answer(paths[run][-1], finals[run]) for run in range(len(paths)))
    return Readout(
        samples=tuple(samples),
        colours=np.stack(colours),
        valid=np.array(valid),
        paths=tuple(paths),
        final=answers,
        routes=np.array([_route(s.problem, path) for s, path in zip(samples, answers, strict=True)]),
    )


def _answer(last: Route, on_path: np.ndarray) -> Route:
    """The path of the last x0_hat if the scored video says the same; the label decides."""
    cells = {(int(i), int(j)) for i, j in np.argwhere(on_path == 1)}
    return last if cells == set(last) else ()


def _route(maze: Maze, path: Route) -> int:
    return maze.routes.index(path) if path in maze.routes else -1


def accuracy_by_step(readout: Readout, sigmas: Sequence[float]) -> pl.DataFrame:
    """Shares of runs by step, with Wilson intervals.

    Returns:
        One row per measure and step: measure, step, sigma, share, low, high, n. Measures: ``valid`` (x0_hat shows an
        exact open path), ``shortest`` (and no route is shorter), ``final`` (it shows the answer that the run ends with;
        of runs that end with one), ``route`` (fork mazes: the route that the run ends with is drawn more strongly).
    """
    rows: list[dict[str, Any]] = []
    answered = np.array([bool(path) for path in readout.final])
    shortest = [
        [bool(path) and len(path) - 1 == s.problem.moves for path in paths]
        for s, paths in zip(readout.samples, readout.paths, strict=True)
    ]
    same = [[path == last for path in paths] for paths, last in zip(readout.paths, readout.final, strict=True)]
    drawn = route_occupancy(readout)
    measures = {
        "valid": readout.valid,
        "shortest": np.array(shortest),
        "final": np.array(same)[answered],
        "route": (drawn["taken"] > drawn["other"])[np.isfinite(drawn["taken"]).all(1)],
    }
    for measure, hits in measures.items():
        for step, sigma in enumerate(sigmas if len(hits) else []):
            share = wilson(int(hits[:, step].sum()), len(hits))
            rows.append(
                {
                    "measure": measure,
                    "step": step,
                    "sigma": float(sigma),
                    "share": share.share,
                    "low": share.low,
                    "high": share.high,
                    "n": share.n,
                }
            )
    return pl.DataFrame(rows)


def route_occupancy(readout: Readout) -> dict[str, np.ndarray]:
    """How strongly x0_hat draws blocks of three kinds, 0 (white) to 1 (trail): float [run, step] each.

    ``taken`` and ``other``: blocks on only one of a fork's two routes, the one that the run ends with and the other.
    ``elsewhere``: open blocks on no shortest route. NaN for runs that are no fork or took neither route.
    """
    runs, steps = readout.valid.shape
    found = {name: np.full((runs, steps), np.nan) for name in ("taken", "other", "elsewhere")}
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


def occupancy_by_step(readout: Readout, sigmas: Sequence[float], seed: int = 0) -> pl.DataFrame:
    """Means of `route_occupancy` by step with bootstrap intervals over mazes: kind, step, sigma, mean, low, high, n."""
    drawn = route_occupancy(readout)
    kept = np.isfinite(drawn["taken"]).all(1)
    mazes = np.array([sample.key for sample in readout.samples])[kept]
    rows: list[dict[str, Any]] = []
    for kind, values in drawn.items():
        if kept.any():
            mean, low, high = cluster_mean(values[kept], mazes, seed=seed)
            rows += [
                {
                    "kind": kind,
                    "step": step,
                    "sigma": float(sigma),
                    "mean": float(mean[step]),
                    "low": float(low[step]),
                    "high": float(high[step]),
                    "n": int(kept.sum()),
                }
                for step, sigma in enumerate(sigmas)
            ]
    return pl.DataFrame(rows)


def seeds_disagree(readout: Readout) -> tuple[int, int]:
    """Fork mazes whose seeds took both routes, of those with two or more runs that took one."""
    routes: dict[str, list[int]] = {}
    for sample, route in zip(readout.samples, readout.routes, strict=True):
        if sample.problem.is_fork and route >= 0:
            routes.setdefault(sample.key, []).append(int(route))
    several = [taken for taken in routes.values() if len(taken) > 1]
    return sum(len(set(taken)) > 1 for taken in several), len(several)
