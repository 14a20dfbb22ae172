"""The solver, on right videos and on hand-made wrong ones; every wrong one fails the flag it should."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from interp import tasks
from interp.errors import TaskError
from interp.tasks.maze.maze import Maze, draw_maze
from interp.tasks.maze.render import AGENT, FREE, GOAL, TRAIL, WALL, open_blocks, render_symbols, to_pixels
from interp.tasks.maze.score import occupancy, score_symbols, score_video, symbols_from_blocks
from tests.tasks.test_mazes import graph_of

#  S . .      a 4x4 maze by hand: down the left edge, along the bottom row, and a dead-end branch at the top
LINES = """
S-o-o o
|   | |
o o-o o
|     |
o o-o-o
|     |
o-o-o-G
"""


@pytest.fixture
def maze() -> Maze:
    rows = LINES.strip("\n").splitlines()
    right, down = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    for i in range(4):
        for j in range(4):
            right[i, j] = j < 3 and rows[2 * i].ljust(7)[2 * j + 1] == "-"
            down[i, j] = i < 3 and rows[2 * i + 1].ljust(7)[2 * j] == "|"
    return Maze(4, right, down, (0, 0), (3, 3))


@pytest.fixture
def video(maze: Maze) -> np.ndarray:
    return render_symbols(maze, maze.routes[0])


def test_the_hand_made_maze_has_one_route_down_and_along(maze: Maze) -> None:
    assert maze.routes == (((0, 0), (1, 0), (2, 0), (3, 0), (3, 1), (3, 2), (3, 3)),)


def test_the_right_video_is_perfect(maze: Maze, video: np.ndarray) -> None:
    score = score_symbols(maze, video)
    assert (score.valid, score.shortest, score.reached, score.agent_legal, score.walls_intact) == (True,) * 5
    assert (score.route, score.path) == (0, maze.routes[0])


def test_a_gap_in_the_trail(maze: Maze, video: np.ndarray) -> None:
    video[-1, 4, 0] = FREE
    score = score_symbols(maze, video)
    assert not any((score.valid, score.shortest, score.reached))
    assert score.path == ()
    assert score.route == -1
    assert score.agent_legal
    assert score.walls_intact


def test_an_extra_blue_block_beside_the_trail(maze: Maze, video: np.ndarray) -> None:
    video[-1, 0, 1] = TRAIL  # a passage off the start
    score = score_symbols(maze, video)
    assert not score.valid
    assert score.reached
    assert score.walls_intact


def test_an_extra_blue_block_far_from_the_trail(maze: Maze, video: np.ndarray) -> None:
    video[-1, 0, 6] = TRAIL
    score = score_symbols(maze, video)
    assert not score.valid
    assert score.reached


def test_a_painted_wall(maze: Maze, video: np.ndarray) -> None:
    video[-1, 1, 1] = TRAIL
    score = score_symbols(maze, video)
    assert not any((score.valid, score.walls_intact))
    assert score.agent_legal


def test_a_wall_that_vanished(maze: Maze, video: np.ndarray) -> None:
    video[-1, 1, 1] = FREE
    score = score_symbols(maze, video)
    assert score.valid
    assert not score.walls_intact


def test_a_passage_that_was_walled_up(maze: Maze, video: np.ndarray) -> None:
    video[-1, 0, 1] = WALL
    assert not score_symbols(maze, video).walls_intact


def test_a_short_cut_through_walls(maze: Maze) -> None:
    straight = ((0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (2, 3), (3, 3))
    score = score_symbols(maze, render_symbols(maze, straight))
    assert not any((score.valid, score.agent_legal, score.walls_intact))
    assert score.reached


def test_two_agents(maze: Maze, video: np.ndarray) -> None:
    video[5, 0, 0] = AGENT
    score = score_symbols(maze, video)
    assert score.valid
    assert not score.agent_legal


def test_no_agent_in_a_frame(maze: Maze, video: np.ndarray) -> None:
    video[3][video[3] == AGENT] = TRAIL
    assert not score_symbols(maze, video).agent_legal


def test_a_teleport(maze: Maze, video: np.ndarray) -> None:
    jumped = np.concatenate([video[:2], video[4:], video[-1:], video[-1:]])
    score = score_symbols(maze, jumped)
    assert score.valid
    assert not score.agent_legal


def test_a_reversed_video(maze: Maze, video: np.ndarray) -> None:
    backwards = Maze(maze.size, maze.right, maze.down, maze.goal, maze.start)
    score = score_symbols(maze, render_symbols(backwards, maze.routes[0][::-1]))
    assert score.valid  # the last frame shows the same blocks ...
    assert not score.agent_legal  # ... but the agent went the other way


def test_an_agent_that_stopped_early(maze: Maze) -> None:
    score = score_symbols(maze, render_symbols(maze, maze.routes[0][:-1]))
    assert not any((score.valid, score.reached))
    assert score.agent_legal


def test_an_unchanged_video(maze: Maze) -> None:
    score = score_symbols(maze, render_symbols(maze, maze.routes[0][:1]))
    assert not any((score.valid, score.reached))
    assert score.agent_legal
    assert score.walls_intact


def test_a_detour_is_valid_but_not_shortest(maze: Maze) -> None:
    rounded = maze.toggled("right", 0, 2)  # opens a long way round, by the top and the right edge
    long = ((0, 0), (0, 1), (0, 2), (0, 3), (1, 3), (2, 3), (3, 3))
    assert score_symbols(rounded, render_symbols(rounded, long)).route == rounded.routes.index(long)
    detour = ((0, 0), (0, 1), (0, 2), (1, 2), (1, 1))
    assert not score_symbols(maze, render_symbols(maze, detour)).valid
    ring = maze.toggled("down", 1, 1).toggled("right", 2, 0)
    winding = ((0, 0), (0, 1), (0, 2), (1, 2), (1, 1), (2, 1), (2, 0), (3, 0), (3, 1), (3, 2), (3, 3))
    score = score_symbols(ring, render_symbols(ring, winding))
    assert score.valid
    assert not score.shortest
    assert score.route == -1
    assert score.path == winding


def test_a_trail_blurred_to_half_is_not_an_answer(maze: Maze, video: np.ndarray) -> None:
    pixels = to_pixels(video).astype(np.float32) / 255
    pixels[-1] = 0.45 * pixels[-1] + 0.55 * to_pixels(render_symbols(maze, maze.routes[0][:1]))[-1] / 255
    score = score_video(maze, pixels)
    assert not any((score.valid, score.reached))


@settings(deadline=None, max_examples=25)
@given(size=st.integers(4, 8), seed=st.integers(0, 10_000), prompt=st.sampled_from(["trail", "plain"]))
def test_rendering_any_shortest_route_scores_perfectly(size: int, seed: int, prompt: str) -> None:
    rng = np.random.default_rng(seed)
    maze = draw_maze(rng, size)
    task = tasks.get("maze", size=size, prompt=prompt)
    sample, route = task.wrap(maze), maze.random_route(rng)
    symbols = render_symbols(maze, route, trail=prompt == "trail")
    noise = rng.normal(0, 0.15, to_pixels(symbols).shape)
    for video in (symbols, to_pixels(symbols), np.clip(to_pixels(symbols) / 255.0 + noise, 0, 1)):
        score = task.score(sample, video)
        assert (score.valid, score.shortest, score.reached, score.agent_legal, score.walls_intact) == (True,) * 5
        assert score.path == route == task.answer(sample, video)
        assert maze.routes[score.route] == route


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), data=st.data())
def test_validity_agrees_with_a_graph_search_on_random_trails(seed: int, data: st.DataObject) -> None:
    """Colour random open blocks: valid if and only if they are the blocks of one simple path from start to goal."""
    rng = np.random.default_rng(seed)
    maze = draw_maze(rng, 4, openings=0.3)
    last = render_symbols(maze, maze.routes[0], num_frames=17)[-1]
    flips = data.draw(st.integers(0, 2))
    opened = np.argwhere(open_blocks(maze))
    for r, c in rng.permutation(opened)[:flips]:
        last[r, c] = FREE if last[r, c] in (TRAIL, AGENT, GOAL) else TRAIL
    coloured = {tuple(map(int, b)) for b in np.argwhere(np.isin(last, (TRAIL, AGENT, GOAL)))}
    blocks = nx.Graph()
    blocks.add_nodes_from(coloured)
    blocks.add_edges_from((a, b) for a in coloured for b in coloured if abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1)
    start, goal = (2 * maze.start[0], 2 * maze.start[1]), (2 * maze.goal[0], 2 * maze.goal[1])
    assume(start in blocks and goal in blocks)
    degrees = dict(blocks.degree())
    line = nx.is_connected(blocks) and nx.is_tree(blocks) and max(degrees.values()) <= 2
    expected = line and degrees[start] == degrees[goal] == 1
    score = score_symbols(maze, last[None])
    assert score.valid == expected
    assert score.reached == nx.has_path(blocks, start, goal)
    if expected:
        graph = graph_of(maze)
        assert nx.is_simple_path(graph, list(score.path))
        assert score.shortest == (len(score.path) - 1 == nx.shortest_path_length(graph, maze.start, maze.goal))


def test_plain_videos_are_scored_by_the_agents_walk(maze: Maze) -> None:
    task = tasks.get("maze", size=4, prompt="plain")
    sample = task.wrap(maze)
    walked = render_symbols(maze, maze.routes[0], trail=False)
    assert task.score(sample, walked).path == maze.routes[0]
    stopped = task.score(sample, render_symbols(maze, maze.routes[0][:-1], trail=False))
    assert not any((stopped.valid, stopped.reached))
    back_and_forth = render_symbols(maze, ((0, 0), (0, 1), *maze.routes[0]), trail=False)
    score = task.score(sample, back_and_forth)
    assert score.reached
    assert not score.valid  # the walk crosses itself


def test_occupancy_is_soft() -> None:
    white, pale, blue, green = [255, 255, 255], [191, 191, 255], [0, 0, 255], [0, 255, 0]
    soft = occupancy(np.array([white, pale, blue, green], dtype=np.float32))
    np.testing.assert_allclose(soft, [0, 64 / 255, 1, 1], atol=1e-6)
    assert occupancy(np.array([[300.0, 0, 0], [-20.0, 0, 0]])).tolist() == [0, 1]


def test_symbols_are_the_nearest_colours() -> None:
    near = np.array([[20, 10, 0], [240, 250, 200], [60, 200, 30], [200, 20, 60], [90, 90, 255]], dtype=np.float32)
    assert symbols_from_blocks(near).tolist() == [WALL, FREE, AGENT, GOAL, TRAIL]


def test_block_colours_are_scored_like_pixels(maze: Maze, video: np.ndarray) -> None:
    task = tasks.get("maze", size=4)
    pixels = to_pixels(video)
    blocks = pixels[:, ::8, ::8] / np.float32(255)
    assert task.score(task.wrap(maze), blocks) == task.score(task.wrap(maze), pixels)
    assert task.score_many([task.wrap(maze)] * 2, [blocks, pixels]) == [task.score(task.wrap(maze), pixels)] * 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda pixels: pixels[:, :32], r"\[frame, 64, 64, 3\]"),
        (lambda pixels: pixels / 127.5 - 1, "rescale"),
        (lambda pixels: pixels.astype(np.float32), "rescale"),
        (lambda pixels: pixels.astype(np.int32), "dtype int32"),
    ],
)
def test_videos_of_the_wrong_kind_are_refused(maze: Maze, video: np.ndarray, change, said: str) -> None:
    with pytest.raises(TaskError, match=said):
        score_video(maze, change(to_pixels(video)))


def test_other_numbers_of_samples_and_videos(maze: Maze, video: np.ndarray) -> None:
    task = tasks.get("maze", size=4)
    with pytest.raises(TaskError, match="1 samples cannot be scored on 2 videos"):
        task.score_many([task.wrap(maze)], [video, video])
