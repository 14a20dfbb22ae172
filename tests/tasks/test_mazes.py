"""The generator: determinism, connectivity, and routes against an independent search."""

from __future__ import annotations

from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp import tasks
from interp.errors import TaskError
from interp.tasks.maze.maze import Maze, draw_maze

sizes = st.integers(4, 8)
seeds = st.integers(0, 2**32 - 1)


def graph_of(maze: Maze) -> nx.Graph:
    """The maze as a networkx graph, from its arrays alone."""
    graph = nx.Graph()
    graph.add_nodes_from((i, j) for i in range(maze.size) for j in range(maze.size))
    graph.add_edges_from(((int(i), int(j)), (int(i), int(j) + 1)) for i, j in np.argwhere(maze.right))
    graph.add_edges_from(((int(i), int(j)), (int(i) + 1, int(j))) for i, j in np.argwhere(maze.down))
    return graph


@settings(deadline=None, max_examples=60)
@given(size=sizes, seed=seeds, openings=st.floats(0, 0.4))
def test_mazes_are_connected_and_their_routes_are_all_the_shortest_ones(size: int, seed: int, openings: float) -> None:
    maze = draw_maze(np.random.default_rng(seed), size, openings=openings)
    graph = graph_of(maze)
    assert nx.is_connected(graph)
    assert set(graph.nodes) == {(i, j) for i in range(size) for j in range(size)}  # no passage leads outside
    expected = {tuple(path) for path in nx.all_shortest_paths(graph, maze.start, maze.goal)}
    if len(expected) <= 64:
        assert set(maze.routes) == expected
        assert list(maze.routes) == sorted(expected)
    distance = nx.single_source_shortest_path_length(graph, maze.goal)
    assert all(maze.distance[cell] == moves for cell, moves in distance.items())
    assert 3 <= maze.moves <= 16


@settings(deadline=None, max_examples=30)
@given(size=sizes, seed=seeds)
def test_forks_have_exactly_two_shortest_routes(size: int, seed: int) -> None:
    maze = draw_maze(np.random.default_rng(seed), size, fork=True, min_moves=4)
    assert len(list(nx.all_shortest_paths(graph_of(maze), maze.start, maze.goal))) == 2


def test_forks_can_be_asked_to_lie_apart() -> None:
    for sample in tasks.get("maze", size=6).sample(10, fork=True, apart=6):
        a, b = nx.all_shortest_paths(graph_of(sample.problem), sample.problem.start, sample.problem.goal)
        assert len(set(map(tuple, a)) ^ set(map(tuple, b))) == sample.problem.apart >= 6


@pytest.mark.parametrize("fork", [False, True])
def test_samples_are_seeded_prefix_stable_and_distinct(fork: bool) -> None:
    task = tasks.get("maze", size=5)
    many = task.sample(40, seed=3, fork=fork)
    assert [s.key for s in many[:7]] == [s.key for s in task.sample(7, seed=3, fork=fork)]
    assert len({s.key for s in many}) == 40
    assert not {s.key for s in many} & {s.key for s in task.sample(40, seed=4, fork=fork)}
    assert all(s.problem.is_fork for s in many) or not fork


def test_samples_and_training_draw_from_different_streams() -> None:
    from interp.mini.data import TRAIN_STREAM
    from interp.tasks.maze.draw import PAIR_STREAM, SAMPLE_STREAM

    quick_look = 7002  # interp.mini.evaluate; importing it takes seconds
    assert len({TRAIN_STREAM, quick_look, PAIR_STREAM, SAMPLE_STREAM}) == 4


def test_running_out_of_different_mazes_is_an_error() -> None:
    with pytest.raises(TaskError, match="different mazes"):
        # without walls there are four such mazes: from each corner to the opposite one
        tasks.get("maze", size=4, openings=1.0, min_moves=6, max_moves=6).sample(5)


@pytest.mark.parametrize("seed", range(6))
def test_pairs_differ_in_one_wall_and_in_their_answer(seed: int) -> None:
    clean, corrupt = tasks.get("maze", size=5).pair(seed)
    a, b = clean.problem, corrupt.problem
    assert int((a.right != b.right).sum() + (a.down != b.down).sum()) == 1
    assert (a.start, a.goal) == (b.start, b.goal)
    (path_a,), (path_b,) = (list(nx.all_shortest_paths(graph_of(m), m.start, m.goal)) for m in (a, b))
    assert path_a != path_b
    assert nx.is_connected(graph_of(b))
    side, i, j = corrupt.meta["toggled"]
    assert getattr(a, side)[i, j] != getattr(b, side)[i, j]
    again = tasks.get("maze", size=5).pair(seed)
    assert (again[0].key, again[1].key) == (clean.key, corrupt.key)


@settings(deadline=None, max_examples=20)
@given(size=sizes, seed=seeds)
def test_a_described_maze_comes_back(size: int, seed: int) -> None:
    maze = draw_maze(np.random.default_rng(seed), size)
    assert Maze.from_description(maze.describe()) == maze
    sample = tasks.get("maze", size=size, prompt="plain").wrap(maze)
    back = tasks.MazeTask.restore(sample.meta)
    assert back == sample
    assert back.image.tobytes() == sample.image.tobytes()


def test_routes_move_one_cell_at_a_time_through_passages() -> None:
    for sample in tasks.get("maze", size=8).sample(20):
        graph = graph_of(sample.problem)
        for route in sample.problem.routes:
            assert all(graph.has_edge(a, b) for a, b in pairwise(route))
            assert (route[0], route[-1]) == (sample.problem.start, sample.problem.goal)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": 3}, "4 to 8"),
        ({"size": 9}, "4 to 8"),
        ({"openings": 1.5}, "probability"),
        ({"max_moves": 17}, "16"),
        ({"min_moves": 9, "max_moves": 8}, "min_moves=9"),
        ({"prompt": "trial"}, "did you mean trail"),
        ({"siez": 5}, "did you mean size"),
    ],
)
def test_bad_options_are_refused_in_the_users_words(options: dict[str, object], said: str) -> None:
    with pytest.raises(TaskError, match=said):
        tasks.get("maze", **options)


def test_an_unknown_task_names_the_near_ones() -> None:
    assert "maze" in tasks.names()
    with pytest.raises(TaskError, match=r"no task is called 'mase' \(did you mean maze\?\)"):
        tasks.get("mase")
