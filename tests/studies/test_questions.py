"""Questions to tokens: labels from problems whose answers are known, and from videos that show them."""

from __future__ import annotations

import numpy as np
import pytest

from interp import tasks
from interp.errors import TaskError
from interp.grid import TokenGrid
from studies.measures.questions import (
    AGAINST,
    Question,
    first_frame_seen,
    joined,
    motion_and_plan,
    of_shared_problems,
    own_grid,
    start_state,
)


def test_the_start_of_a_maze_is_one_token() -> None:
    task = tasks.get("maze", size=5)
    samples = task.sample(4)
    question = start_state(task, samples, own_grid(samples[0]), 2)
    for sample, labels in zip(samples, question.labels, strict=True):
        row, col = sample.problem.start
        assert np.flatnonzero(labels == 1).tolist() == [row * 5 + col]
        assert (labels == 0).sum() == 24


@pytest.mark.parametrize("name", ["reappearance", "grounding", "bounce"])
def test_the_start_of_a_scene_is_where_the_first_frame_shows_it(name: str) -> None:
    task = tasks.get(name)
    samples = task.sample(8)
    grid = own_grid(samples[0])
    question = start_state(task, samples, grid, 1)
    for sample, labels in zip(samples, question.labels, strict=True):
        part = "ball" if name == "bounce" else "object"
        here = set(task.region(sample, part, grid, frames=0))
        ones = set(np.flatnonzero(labels == 1).tolist())
        assert ones <= here
        assert (labels[sorted(here - ones)] != 0).all()  # a token of two places is asked nothing
        assert (labels == 0).any()


def test_motion_and_plan_are_those_of_the_video() -> None:
    task = tasks.get("maze", size=5)
    samples = task.sample(4, fork=True, apart=4)
    grid = own_grid(samples[0])
    taken = [number % 2 for number in range(4)]
    videos = [task.render(sample, answer) for sample, answer in zip(samples, taken, strict=True)]
    motion, plan = motion_and_plan(task, samples, videos, grid)
    assert (motion.frame, plan.frame) == (1, 4)
    for number, sample in enumerate(samples):
        route, other = (sample.problem.routes[k] for k in (taken[number], 1 - taken[number]))
        cells = {row * 5 + col for row, col in route}
        others = {row * 5 + col for row, col in other}
        assert set(np.flatnonzero(plan.labels[number] == 1)) == cells - others
        assert set(np.flatnonzero(plan.labels[number] == 0)) == others - cells
        walked = {row * 5 + col for row, col in route[1:5]}  # one move a frame
        assert set(np.flatnonzero(motion.labels[number] == 1)) == walked
        start, goal = (row * 5 + col for row, col in (sample.problem.start, sample.problem.goal))
        assert np.isnan(motion.labels[number][start])
        assert motion.labels[number][goal] == (goal in walked)


def test_runs_without_answers_are_not_asked_unless_they_are_many() -> None:
    task = tasks.get("maze", size=5)
    samples = task.sample(3)
    still = np.repeat(np.asarray(samples[0].image)[None], 17, axis=0)
    right = [task.render(sample) for sample in samples]
    grid = own_grid(samples[0])
    motion, plan = motion_and_plan(task, samples, [still, *right[1:]], grid)
    assert np.isnan(motion.labels[0]).all()
    assert np.isnan(plan.labels[0]).all()
    assert (plan.labels[1] == 1).any()
    of_truth = motion_and_plan(task, samples, [still, still, right[2]], grid)
    assert all((question.labels == 1).any(1).all() for question in of_truth)
    assert "the right" in of_truth[0].asked


def test_coarser_tokens_have_what_any_part_has() -> None:
    labels = np.array([[0, 1, np.nan, 0], [0, 0, np.nan, np.nan]])
    np.testing.assert_array_equal(joined(labels, TokenGrid(1, 1, 2)), [1, 0])
    np.testing.assert_array_equal(joined(labels, TokenGrid(1, 2, 4)), labels.reshape(-1))
    with pytest.raises(TaskError, match="do not fit"):
        joined(labels, TokenGrid(1, 2, 3))


def test_rows_keep_every_one_and_few_zeros() -> None:
    samples = tasks.get("maze", size=5).sample(3)
    labels = np.zeros((3, 25))
    labels[0, 3], labels[1, [2, 9]], labels[2] = 1, 1, np.nan
    rows = Question("q", "?", 0, labels).rows(samples)
    assert [(rows.label[rows.run == run] == 1).sum() for run in (0, 1)] == [1, 2]
    assert [(rows.label[rows.run == run] == 0).sum() for run in (0, 1)] == [AGAINST, 2 * AGAINST]
    assert (rows.runs, rows.answered) == (3, 2)
    with pytest.raises(TaskError, match="no run has tokens of both kinds"):
        Question("q", "?", 0, np.zeros((3, 25))).rows(samples)


def test_shared_problems_have_both_answers_to_all_questions() -> None:
    samples = tasks.get("maze", size=5).sample(2)
    both, one = np.array([[0, 1], [1, 0]]), np.array([[0, 1], [1, 1]])
    first, second = of_shared_problems([Question("a", "?", 0, both), Question("b", "?", 0, one)], samples)
    assert np.isnan(first.labels[1]).all()
    np.testing.assert_array_equal(second.labels[0], [0, 1])


def test_the_first_frame_is_seen_around_the_token() -> None:
    (sample,) = tasks.get("grounding").sample(1)
    grid = own_grid(sample)
    assert sample.image is not None
    seen = first_frame_seen(sample.image, grid, range(25)).reshape(25, 3, 3, 17)
    picture = np.asarray(sample.image, dtype=np.float32) / 255
    np.testing.assert_allclose(seen[12, 1, 1, :3], picture[32:40, 32:40].mean((0, 1)), atol=0.01)
    np.testing.assert_array_equal(seen[0, 0], 0)  # nothing above the first row
    np.testing.assert_array_equal(seen[0, 1, 2], seen[1, 1, 1])
