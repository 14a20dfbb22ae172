"""Labels, regions and the first-frame baseline, cell by cell against the definition."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from PIL import Image

from interp import tasks
from interp.errors import TaskError
from interp.grid import TokenGrid
from interp.tasks.maze import first_frame_features, window_width
from interp.tasks.maze.render import render_symbols
from tests.tasks.test_mazes import graph_of

GRID = TokenGrid(frames=5, rows=6, cols=6)


@pytest.fixture(scope="module")
def task() -> tasks.MazeTask:
    return tasks.get("maze", size=6)


@pytest.mark.parametrize("fork", [False, True])
def test_token_labels_cell_by_cell(task: tasks.MazeTask, fork: bool) -> None:
    for number, sample in enumerate(task.sample(12, fork=fork)):
        maze = sample.problem
        route = maze.routes[number % len(maze.routes)]
        labels = task.labels(sample, task.score(sample, render_symbols(maze, route)), GRID)
        moves = nx.single_source_shortest_path_length(graph_of(maze), maze.goal)
        for name in ("on_path", "on_shortest", "wall_right", "wall_down", "distance", "taken_route"):
            assert labels[name].shape == (5, 6, 6)
            np.testing.assert_array_equal(labels[name][0], labels[name][3])
        for i in range(6):
            for j in range(6):
                assert labels["on_path"][4, i, j] == ((i, j) in route)
                assert labels["on_shortest"][4, i, j] == any((i, j) in r for r in maze.routes)
                assert labels["distance"][4, i, j] == moves[i, j]
                if j < 5:
                    assert labels["wall_right"][4, i, j] == (not maze.is_open((i, j), (i, j + 1)))
                if i < 5:
                    assert labels["wall_down"][4, i, j] == (not maze.is_open((i, j), (i + 1, j)))
                on = [(i, j) in r for r in maze.routes]
                value = labels["taken_route"][4, i, j]
                if len(maze.routes) == 2 and sum(on) == 1:
                    assert value == ((i, j) in route)
                else:
                    assert np.isnan(value)
        assert np.isnan(labels["wall_right"][:, :, 5]).all()
        assert np.isnan(labels["wall_down"][:, 5]).all()


def test_sample_labels_of_a_right_run(task: tasks.MazeTask) -> None:
    directions = {(0, 1): 0, (0, -1): 1, (1, 0): 2, (-1, 0): 3}
    for sample in task.sample(20):
        maze, route = sample.problem, sample.problem.routes[-1]
        labels = task.labels(sample, task.score(sample, render_symbols(maze, route)), GRID)
        move = directions[route[1][0] - route[0][0], route[1][1] - route[0][1]]
        assert labels["first_move"] == move
        assert labels["route"] == len(maze.routes) - 1
        assert labels["moves"] == labels["shortest"] == len(route) - 1
        assert labels["solved"]
        assert labels["valid"]
        if len({r[1] for r in maze.routes}) == 1:
            assert labels["first_move_true"] == move
        else:
            assert np.isnan(labels["first_move_true"])


def test_a_run_without_an_answer_has_no_labels_of_it(task: tasks.MazeTask) -> None:
    sample = task.sample(1, fork=True)[0]
    labels = task.labels(sample, task.score(sample, render_symbols(sample.problem, (sample.problem.start,))), GRID)
    for name in ("on_path", "taken_route", "first_move", "route", "moves"):
        assert np.isnan(labels[name]).all(), name
    assert not any((labels["valid"], labels["solved"]))
    assert not np.isnan(labels["on_shortest"]).any()


def test_regions_are_the_tokens_of_their_cells(task: tasks.MazeTask) -> None:
    sample = task.sample(1, fork=True)[0]
    maze = sample.problem
    ids = GRID.array()
    assert task.region(sample, "goal", GRID) == tuple(int(ids[(f, *maze.goal)]) for f in range(5))
    assert task.region(sample, "start", GRID, frames=-1) == (int(ids[(4, *maze.start)]),)
    assert task.region(sample, "cell 2,3", GRID, frames=[0, 1]) == (int(ids[0, 2, 3]), int(ids[1, 2, 3]))
    assert task.region(sample, "all", GRID) == tuple(range(180))
    on = {cell for route in maze.routes for cell in route}
    path = task.region(sample, "path", GRID, frames=slice(1, 2))
    assert set(path) == {int(ids[(1, *cell)]) for cell in on}
    assert set(task.region(sample, "off_path", GRID, frames=1)) | set(path) == set(ids[1].ravel().tolist())
    a, b = (set(route) for route in maze.routes)
    assert set(task.region(sample, "fork", GRID, frames=0)) == {int(ids[(0, *cell)]) for cell in a ^ b}


def test_regions_that_do_not_exist(task: tasks.MazeTask) -> None:
    sample = next(s for s in task.sample(20) if len(s.problem.routes) == 1)
    with pytest.raises(TaskError, match=r"no region 'gaol' \(did you mean goal"):
        task.region(sample, "gaol", GRID)
    with pytest.raises(TaskError, match="'fork' is empty"):
        task.region(sample, "fork", GRID)
    with pytest.raises(TaskError, match="'cell 6,0' is empty"):
        task.region(sample, "cell 6,0", GRID)
    with pytest.raises(TaskError, match="latent frames 0 to 4"):
        task.region(sample, "goal", GRID, frames=5)
    with pytest.raises(TaskError, match="does not fit a 6x6 maze"):
        task.region(sample, "goal", TokenGrid(frames=5, rows=5, cols=6))


def test_first_frame_features_are_the_maze_seen_from_each_cell(task: tasks.MazeTask) -> None:
    maze = task.sample(1)[0].problem
    features = first_frame_features(maze)
    assert features.shape == (6, 6, window_width(6))
    windows = features.reshape(6, 6, 11, 11, 5)
    for i in range(6):
        for j in range(6):
            for di in range(-5, 6):
                for dj in range(-5, 6):
                    there = (i + di, j + dj)
                    inside = 0 <= there[0] < 6 and 0 <= there[1] < 6
                    expected = [0, 0, 0, 0, 0]
                    if inside:
                        right, below = (there[0], there[1] + 1), (there[0] + 1, there[1])
                        expected = [
                            1,
                            maze.is_open(there, right),
                            maze.is_open(there, below),
                            there == maze.start,
                            there == maze.goal,
                        ]
                    assert windows[i, j, di + 5, dj + 5].tolist() == expected


def test_a_sample_of_another_task_is_refused(task: tasks.MazeTask) -> None:
    own = tasks.Sample("", "k", "a cat", Image.new("RGB", (96, 96)), None, 96, 96, 17)
    with pytest.raises(TaskError, match="is no maze"):
        task.score(own, np.zeros((17, 96, 96, 3), np.uint8))


def test_samples_compare_by_content(task: tasks.MazeTask) -> None:
    a, b = task.sample(1)[0], task.sample(1)[0]
    assert a == b
    assert hash(a) == hash(b)
    assert a != task.sample(2)[1]
    assert a.image.size == (96, 96)
    assert (a.height, a.width, a.num_frames) == (96, 96, 17)
