"""x0_hat read by the solver, on videos whose latents are known in closed form."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from interp import RunSpec, tasks
from interp.grid import TokenGrid
from interp.mini.data import as_rgb
from interp.mini.latents import decode_blocks, encode_blocks
from interp.patches import patchify, unpatchify
from interp.tasks import Sample
from interp.tasks.maze.render import open_blocks, render_symbols, route_blocks
from studies.measures.readout import (
    Readout,
    accuracy_by_step,
    occupancy_by_step,
    read_x0,
    route_occupancy,
    seeds_disagree,
)

GRID = TokenGrid(frames=5, rows=5, cols=5)
SIGMAS = (1.0, 0.8, 0.4)
STEPS = len(SIGMAS)


def frames(latents: torch.Tensor) -> np.ndarray:
    """As ``Lab.frames``, with latents at the VAE's own scale."""
    blocks = np.rint((np.clip(decode_blocks(latents.numpy()), -1, 1) + 1) * 127.5).astype(np.uint8)
    return np.repeat(np.repeat(blocks, 8, axis=2), 8, axis=3)


def test_unpatchify_undoes_patchify() -> None:
    latents = torch.randn(2, 16, 5, 10, 10)
    tokens = patchify(latents, GRID).numpy()
    np.testing.assert_array_equal(unpatchify(tokens, GRID), latents.numpy())
    np.testing.assert_array_equal(unpatchify(tokens[:, -25:], GRID), latents[:, :, -1:].numpy())
    both = unpatchify(np.stack([tokens, tokens]), GRID)
    np.testing.assert_array_equal(both[1], latents.numpy())
    coarse = TokenGrid(frames=2, rows=3, cols=2, patch=(2, 1, 4))
    latents = torch.randn(1, 3, 4, 3, 8)
    np.testing.assert_array_equal(unpatchify(patchify(latents, coarse).numpy(), coarse), latents.numpy())


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    forks = tasks.get("maze", size=5).sample(6, fork=True, apart=4)
    return [sample for sample in forks for _ in range(2)]


def specs_of(samples: list[Sample]) -> list[RunSpec]:
    """One run each."""
    return [RunSpec("m", "h", sample, seed) for seed, sample in enumerate(samples)]


@pytest.fixture(scope="module")
def readout(samples: list[Sample]) -> Readout:
    """Runs whose x0_hat mixes both routes, 50:50 at first, then 75:25, then one alone; run 0 ends without an answer."""
    tokens, finals = [], []
    for run, sample in enumerate(samples):
        maze = sample.problem
        route, other = maze.routes[run % 2], maze.routes[1 - run % 2]
        a, b = (as_rgb(render_symbols(maze, r))[None] for r in (route, other))
        mixed = [(1 - share) * a + share * b for share in (0.5, 0.25, 0.0)]
        if run == 0:
            mixed[-1] = as_rgb(render_symbols(maze, (maze.start,)))[None]
        tokens.append([patchify(torch.from_numpy(encode_blocks(video)), GRID).numpy()[0, -25:] for video in mixed])
        on_path = np.full((5, 5), np.nan) if run == 0 else np.zeros((5, 5))
        for cell in route if run else ():
            on_path[cell] = 1
        finals.append(on_path)
    task = tasks.get("maze", size=5)
    hidden = np.array(tokens, dtype=np.float32)
    return read_x0(task, specs_of(samples), hidden, SIGMAS, GRID, frames, np.array(finals))


def test_the_answer_and_the_route_are_those_of_the_run(readout: Readout, samples: list[Sample]) -> None:
    assert readout.final[0] == ()
    assert readout.routes.tolist() == [-1, *(run % 2 for run in range(1, len(samples)))]
    states = {(row["seed"], row["step"]): row["state"] for row in readout.answers.steps.to_dicts()}
    assert [states[run, STEPS - 1] for run in range(len(samples))] == ["none"] + ["right"] * (len(samples) - 1)
    assert {states[run, 0] for run in range(len(samples))} == {"none"}  # two routes at once are no path
    assert readout.colours.shape == (len(samples), STEPS, 10, 10, 3)


def test_occupancy_is_that_of_the_mixture(readout: Readout, samples: list[Sample]) -> None:
    drawn = route_occupancy(readout)
    assert np.isnan(drawn["taken"][0]).all()
    for run in range(1, len(samples)):
        maze = samples[run].problem
        np.testing.assert_allclose(drawn["taken"][run], [0.5, 0.75, 1.0], atol=0.01)
        np.testing.assert_allclose(drawn["other"][run], [0.5, 0.25, 0.0], atol=0.01)
        every = {tuple(map(int, b)) for b in np.argwhere(open_blocks(maze))}
        if every - {b for route in maze.routes for b in route_blocks(route)}:
            np.testing.assert_allclose(drawn["elsewhere"][run], 0, atol=0.01)
    table = occupancy_by_step(readout)
    assert table.filter(kind="other")["mean"].to_list() == pytest.approx([0.5, 0.25, 0.0], abs=0.01)
    assert set(table["n"]) == {len(samples) - 1}
    assert (table["low"] <= table["mean"]).all()
    assert (table["mean"] <= table["high"]).all()


def test_accuracy_by_step_counts_runs(readout: Readout, samples: list[Sample]) -> None:
    n = len(samples)
    table = accuracy_by_step(readout)
    by = {name: table.filter(measure=name).sort("step") for name in ("valid", "final", "route")}
    assert by["valid"]["share"][-1] == pytest.approx((n - 1) / n)
    assert by["final"]["share"].to_list()[::2] == [0.0, 1.0]
    assert (by["final"]["n"][0], by["valid"]["n"][0], by["route"]["n"][0]) == (n - 1, n, n - 1)
    assert by["route"]["share"].to_list()[1:] == [1.0, 1.0]
    assert by["valid"]["sigma"].to_list() == list(SIGMAS)
    hits = readout.answers.steps.filter(pl.col("step") == 1, pl.col("state") != "none")
    assert by["valid"]["share"][1] == pytest.approx(len(hits) / n)
    assert by["valid"]["mazes"].to_list() == [6] * STEPS


def test_seeds_that_disagree_are_counted_by_maze(readout: Readout) -> None:
    assert seeds_disagree(readout) == (5, 5)  # the first maze has one answered run only


def test_a_last_x0_hat_that_differs_from_the_scored_video_is_no_answer(samples: list[Sample]) -> None:
    maze = samples[1].problem
    tokens = patchify(torch.from_numpy(encode_blocks(as_rgb(render_symbols(maze, maze.routes[0]))[None])), GRID)
    elsewhere = np.zeros((1, 5, 5))
    for cell in maze.routes[1]:
        elsewhere[0][cell] = 1
    task, hidden = tasks.get("maze", size=5), tokens.numpy()[:, None, -25:]
    one = read_x0(task, specs_of(samples[1:2]), hidden, SIGMAS[-1:], GRID, frames, elsewhere)
    assert one.final == ((),)
    assert one.routes.tolist() == [-1]
