"""Grounding, reappearance and bounce: generators against an independent reading of the pictures, and the scores of
right videos, wrong ones and no video at all."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp import tasks
from interp.errors import TaskError
from interp.grid import TokenGrid
from interp.tasks.blocks import BLACK, COLOURS, FREE, GREY, PALETTE, to_pixels
from interp.tasks.scene import Bounce, Grounding, Reappearance
from interp.tasks.scene.grounding import SHAPES

NAMES = ("grounding", "reappearance", "bounce")
GRID = TokenGrid(frames=5, rows=5, cols=5)
seeds = st.integers(0, 2**32 - 1)
every = pytest.mark.parametrize("name", NAMES)


def drawn(name: str, seed: int) -> Any:
    task: Any = tasks.get(name)
    return task.draw(np.random.default_rng(seed))


def right(problem: Any) -> np.ndarray:
    return np.array(problem.videos[problem.truth])


# --- the generator against independent readings of its pictures


@settings(deadline=None, max_examples=40)
@given(seed=seeds)
def test_the_frame_goes_round_the_object_that_the_words_of_the_prompt_name(seed: int) -> None:
    problem: Grounding = drawn("grounding", seed)
    words = problem.prompt.split()
    colour, shape = COLOURS.index(words[5]), np.array(SHAPES[words[6]], dtype=bool)
    first, last = right(problem)[0], right(problem)[-1]
    found = [
        (r, c)
        for r in range(1, 7)
        for c in range(1, 7)
        if ((first[r : r + 3, c : c + 3] == colour) == shape).all()
        and (first[r - 1 : r + 4, c - 1 : c + 4] == colour).sum() == shape.sum()
    ]
    assert len(found) == 1, "the words name one object"
    ((r, c),) = found
    expected = first.copy()
    around = np.ones((5, 5), dtype=bool)
    around[1:4, 1:4] = False
    assert (first[r - 1 : r + 4, c - 1 : c + 4][around] == FREE).all()
    expected[r - 1 : r + 4, c - 1 : c + 4][around] = BLACK
    np.testing.assert_array_equal(last, expected)
    assert [int((frame == BLACK).sum()) for frame in right(problem)] == list(range(17))


@settings(deadline=None, max_examples=40)
@given(seed=seeds)
def test_the_square_comes_back_where_it_belongs(seed: int) -> None:
    problem: Reappearance = drawn("reappearance", seed)
    video = right(problem)
    places = [np.argwhere(frame == problem.colour) for frame in video]
    assert len(places[0]) == len(places[-1]) == 4
    assert all(len(np.unique(p // 1, axis=0)) == len(p) <= 4 for p in places)
    unseen = [f for f, p in enumerate(places) if not len(p)]
    assert unseen == list(range(unseen[0], unseen[-1] + 1))
    assert len(unseen) >= 6
    if problem.motion == "leaves":
        np.testing.assert_array_equal(places[-1], places[0])
        np.testing.assert_array_equal(video, video[::-1])
    else:
        along = int(np.ptp(np.concatenate([places[0], places[-1]]), axis=0).argmax())  # the axis it moves on
        np.testing.assert_array_equal(np.unique(places[-1][:, 1 - along]), np.unique(places[0][:, 1 - along]))
        np.testing.assert_array_equal(np.unique(places[-1][:, along]), 9 - np.unique(places[0][:, along])[::-1])
        assert (video[unseen[0]] == GREY).all(1 - along).sum() >= 2, "a wall from one edge to the other"
    for a, b in pairwise(places):
        if len(a) == len(b) == 4:
            assert np.abs(a - b).max() <= 1, "one block a frame"


@settings(deadline=None, max_examples=50)
@given(seed=seeds)
def test_the_ball_flies_as_a_reflected_ray_does(seed: int) -> None:
    """Mirror images instead of bounces: position in the unfolded strip, folded back, gives each row."""
    problem: Bounce = drawn("bounce", seed)
    upright = dataclasses.replace(problem, turns=0)
    video = right(upright)
    top, bottom = problem.walls
    height = bottom - top - 1
    period = 2 * (height - 1)
    moves = 9 - problem.col

    def row_at(move: int) -> int:
        unfolded = (problem.row - top - 1 + problem.heading * move) % period
        return top + 1 + min(unfolded, period - unfolded)

    still = np.full((10, 10), FREE)
    still[list(problem.walls)] = GREY
    still[:, 9] = video[0, :, 9]
    for f in range(17):
        expected = still.copy()
        for move in range(-1, min(f, moves)):
            expected[row_at(move), problem.col + move] = GREY
        if f < moves:
            expected[row_at(f), problem.col + f] = BLACK
        else:
            expected[still[:, 9] == still[row_at(moves), 9], 9] = BLACK
        expected[list(problem.walls)] = GREY
        np.testing.assert_array_equal(video[f], expected)
    landing = row_at(moves)
    rows = [int(np.argwhere(frame == BLACK)[0, 0]) for frame in video[:moves]] + [landing]
    turns = np.diff(np.sign(np.diff([rows[0] - problem.heading, *rows])))
    assert np.count_nonzero(turns) == 1, "it bounces once"
    np.testing.assert_array_equal(right(problem), np.rot90(video, problem.turns, axes=(1, 2)))


def test_every_start_from_which_a_ball_bounces_once_is_drawn_and_no_other() -> None:
    from interp.tasks.scene.bounce import STARTS

    for top in range(3):
        for bottom in (7, 8, 9):
            ends = (top + 1, top + 2, top + 3, bottom - 1)
            possible = set()
            for row in range(top + 1, bottom):
                for col in (1, 2, 3):
                    for heading in (-1, 1):
                        try:
                            Bounce((top, bottom), ends, (3, 4, 5, 6), row, col, heading)
                        except TaskError:
                            continue
                        possible.add((row, col, heading))
            assert set(STARTS[top, bottom]) == possible


# --- scores


@every
@settings(deadline=None, max_examples=12)
@given(seed=seeds)
def test_the_video_of_an_answer_is_that_answer(name: str, seed: int) -> None:
    task: Any = tasks.get(name)
    problem = drawn(name, seed)
    sample = task.wrap(problem)
    noise = np.random.default_rng(seed).normal(0, 0.15, (17, 80, 80, 3))
    for k in range(len(problem.names)):
        symbols, pixels = problem.videos[k], task.render(sample, k)
        for video in (symbols, PALETTE[symbols], pixels, np.clip(pixels / 255.0 + noise, 0, 1)):
            score = task.score(sample, video)
            is_right = k == problem.truth
            assert (score.valid, score.answer, score.solved, score.exact) == (True, k, is_right, is_right)
            assert score.accuracy == 1 if is_right else score.accuracy < 1
            assert score.intact
        assert task.answer(sample, pixels) == k
        found = task.evidence(sample, pixels)
        assert found[k] == 1
        assert np.delete(found, k).max() == 0
        assert task.margin(sample, pixels) == (1 if is_right else -1)
    assert task.answer(sample) == problem.truth
    assert task.candidates(sample) == problem.names
    np.testing.assert_array_equal(task.render(sample), to_pixels(PALETTE[right(problem)]))


@every
@settings(deadline=None, max_examples=10)
@given(seed=seeds)
def test_no_video_is_no_answer(name: str, seed: int) -> None:
    task: Any = tasks.get(name)
    problem = drawn(name, seed)
    sample, rng = task.wrap(problem), np.random.default_rng(seed)
    first = task.render(sample)[:1]
    empty = {
        "white": np.full((17, 80, 80, 3), 255, np.uint8),
        "black": np.zeros((17, 80, 80, 3), np.uint8),
        "frozen": np.repeat(first, 17, axis=0),
        "noise": rng.integers(0, 256, (17, 80, 80, 3), dtype=np.uint8),
        "block noise": rng.integers(0, 256, (17, 10, 10, 3), dtype=np.uint8),
    }
    for what, video in empty.items():
        score = task.score(sample, video)
        assert not score.valid, what
        assert not score.solved, what
        assert not score.exact, what
        if what == "frozen":  # which is the right last frame only where a thing comes back to where it was
            assert (score.answer >= 0) == (name == "reappearance" and problem.motion == "leaves")


@every
def test_spoilt_videos_fail_what_they_should(name: str) -> None:
    task: Any = tasks.get(name)
    for seed in range(8):
        problem = drawn(name, seed)
        sample, video = task.wrap(problem), right(problem)
        calm = np.argwhere(~problem.disputed)
        half = video.copy()
        spot = sorted(problem.own(problem.truth))[0]
        half[-1, *spot] = video[-1, *spot] % 6 + 1  # another colour
        assert task.score(sample, half).answer == -1
        stain = video.copy()
        stain[-1, *calm[0]] = video[-1, *calm[0]] % 6 + 1
        score = task.score(sample, stain)
        assert (score.solved, score.intact, score.exact) == (True, False, False)
        early = video.copy()
        early[3, 0, 0] = early[3, 0, 0] % 6 + 1
        score = task.score(sample, early)
        assert (score.solved, score.intact, score.exact) == (True, True, False)
        backwards = task.score(sample, video[::-1])
        assert backwards.solved == (problem.describe().get("motion") == "leaves")
        assert not task.score(sample, video[:5]).solved


def test_a_superposition_has_evidence_for_each_of_its_parts() -> None:
    task: Any = tasks.get("bounce")
    problem = drawn("bounce", 3)
    sample = task.wrap(problem)
    blend = 0.7 * task.render(sample, problem.truth) / 255 + 0.3 * task.render(sample, (problem.truth + 1) % 4) / 255
    expected = np.zeros(4)
    expected[problem.truth], expected[(problem.truth + 1) % 4] = 0.7, 0.3
    np.testing.assert_allclose(task.evidence(sample, blend), expected, atol=1e-6)
    assert task.margin(sample, blend) == pytest.approx(0.4, abs=1e-5)
    assert task.score(sample, np.full_like(blend, 1.0)).answer == -1


def test_evidence_for_the_routes_of_a_maze() -> None:
    task = tasks.get("maze", size=5)
    sample = task.sample(1, fork=True, apart=4)[0]
    a, b = (task.render(sample, k) / 255 for k in (0, 1))
    np.testing.assert_allclose(task.evidence(sample, a), [1, 0])
    np.testing.assert_allclose(task.evidence(sample, 0.25 * a + 0.75 * b), [0.25, 0.75], atol=1e-6)
    assert task.margin(sample, b) == -1
    clean, corrupt = task.pair(0)
    routes = (task.answer(clean), task.answer(corrupt))
    assert task.margin(clean, task.render(clean), routes) > 0.9
    assert task.score(clean, task.render(clean)).solved
    assert np.isnan(task.margin(clean, task.render(clean)))


# --- samples, pairs, labels, regions


@every
def test_samples_are_seeded_prefix_stable_and_distinct(name: str) -> None:
    task: Any = tasks.get(name)
    assert isinstance(task, tasks.Task)
    many = task.sample(40, seed=3)
    assert many[:7] == task.sample(7, seed=3)
    assert len({s.key for s in many}) == 40
    assert {s.key for s in many} != {s.key for s in task.sample(40, seed=4)}
    assert all((s.height, s.width, s.num_frames, s.task) == (80, 80, 17, name) for s in many)
    for sample in many[:5]:
        back = task.restore(sample.meta)
        assert back == sample
        assert back.problem == sample.problem
        assert back.image.tobytes() == sample.image.tobytes()
    assert {s.prompt for s in many} <= set(task.prompts())
    assert isinstance(task.score(many[0], task.render(many[0])), tasks.Score)


@every
@pytest.mark.parametrize("seed", range(5))
def test_pairs_have_different_answers_and_differ_in_little_else(name: str, seed: int) -> None:
    task: Any = tasks.get(name)
    clean, corrupt = task.pair(seed)
    assert task.pair(seed) == (clean, corrupt)
    endings = [task.render(s)[-1] for s in (clean, corrupt)]
    assert not np.array_equal(*endings)
    assert task.answer(clean) != task.answer(corrupt)
    assert task.candidates(clean) == task.candidates(corrupt)
    firsts = [np.asarray(s.image)[::8, ::8] for s in (clean, corrupt)]
    changed = (firsts[0] != firsts[1]).any(-1).sum()
    if name == "grounding":
        assert clean.prompt != corrupt.prompt
        assert changed == 0
    else:
        assert clean.prompt == corrupt.prompt
        assert 0 < changed <= 8


def test_exchanged_objects_keep_the_prompt_and_move_the_answer() -> None:
    task = tasks.get("grounding")
    for seed in range(5):
        problem = drawn("grounding", seed)
        other = task.exchanged(problem)
        assert other.prompt == problem.prompt
        assert not np.array_equal(right(other)[-1] == BLACK, right(problem)[-1] == BLACK)


def test_prompts_use_only_words_that_the_bundled_tokenizer_has() -> None:
    from interp.mini.text import WORDS

    for name in NAMES:
        task: Any = tasks.get(name)
        assert {word for prompt in task.prompts() for word in prompt.split()} <= set(WORDS)


@every
def test_regions_and_labels_are_those_of_the_blocks(name: str) -> None:
    task: Any = tasks.get(name)
    for sample in task.sample(6):
        problem = sample.problem
        video = right(problem)
        labels = task.labels(sample, task.score(sample, video), GRID)
        for f, frames in enumerate([slice(0, 1), *(slice(4 * k - 3, 4 * k + 1) for k in range(1, 5))]):
            for r in range(5):
                for c in range(5):
                    token = video[frames, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2]
                    still = video[0, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2]
                    assert labels["foreground"][f, r, c] == (token != FREE).any()
                    assert labels["changed"][f, r, c] == (token != still).any()
        assert labels["answer"] == labels["answer_true"] == problem.truth
        taken = labels["taken"][0]
        answer = set(task.region(sample, "answer", GRID, frames=0))
        others = set(task.region(sample, "others", GRID, frames=0))
        ids = GRID.array()[0]
        assert {int(i) for i in ids[taken == 1]} == answer - others
        assert {int(i) for i in ids[taken == 0]} <= others
        assert {int(i) for i in ids[labels["on_answer"][3] == 1]} == answer
        foreground = set(task.region(sample, "foreground", GRID, frames=0))
        assert foreground == {int(i) for i in ids[labels["foreground"][0] == 1]}
        assert set(task.region(sample, "all", GRID)) == set(range(125))
        assert len(task.region(sample, "candidate 0", GRID, frames=-1)) > 0
    frozen = np.repeat(task.render(sample)[:1], 17, axis=0)
    assert np.isnan(task.labels(sample, task.score(sample, frozen), GRID)["taken"]).all()


@every
def test_the_tasks_own_regions(name: str) -> None:
    task: Any = tasks.get(name)
    sample = task.sample(1)[0]
    problem, first = sample.problem, right(sample.problem)[0]
    region, colour = {
        "grounding": lambda: ("object", problem.things[problem.named][0]),
        "reappearance": lambda: ("object", problem.colour),
        "bounce": lambda: ("ball", BLACK),
    }[name]()
    tokens = {divmod(t, 5) for t in task.region(sample, region, GRID, frames=0)}
    assert tokens
    assert tokens <= {(int(r) // 2, int(c) // 2) for r, c in np.argwhere(first == colour)}


def test_what_does_not_exist_is_refused_in_the_users_words() -> None:
    task: Any = tasks.get("bounce")
    sample = task.sample(1)[0]
    with pytest.raises(TaskError, match=r"no region 'tarket' \(did you mean target"):
        task.region(sample, "tarket", GRID)
    with pytest.raises(TaskError, match="wanted 5 x 5"):
        task.region(sample, "ball", TokenGrid(frames=5, rows=6, cols=6))
    with pytest.raises(TaskError, match="latent frames 0 to 4"):
        task.region(sample, "ball", GRID, frames=9)
    with pytest.raises(TaskError, match="is no grounding scene"):
        tasks.get("grounding").score(sample, task.render(sample))
    with pytest.raises(TaskError, match="answers are 0 to 3"):
        task.render(sample, 4)
    with pytest.raises(TaskError, match=r"\[frame, 80, 80, 3\]"):
        task.score(sample, np.zeros((17, 64, 64, 3), np.uint8))
    with pytest.raises(TaskError, match="no option 'size'; it has none"):
        tasks.get("bounce", size=3)
    with pytest.raises(TaskError, match="2 to 4 objects"):
        tasks.get("grounding", objects=7)
    with pytest.raises(TaskError, match="leaves, passes"):
        tasks.get("reappearance", motion="flies")
    with pytest.raises(TaskError, match="is described by"):
        Bounce.from_description({"walls": [0, 9]})
    with pytest.raises(TaskError, match="bounces 0 times"):
        Bounce((0, 9), (2, 4, 6, 8), (3, 4, 5, 6), 7, 3, -1)
