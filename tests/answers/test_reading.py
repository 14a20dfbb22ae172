"""One picture, read for each candidate: blends, several answers at once and empty pictures have known numbers."""

from __future__ import annotations

import numpy as np
import pytest

from interp import tasks
from interp.answers import Endings
from interp.tasks import Sample


@pytest.fixture(scope="module")
def fork() -> tuple[Sample, Endings, list[np.ndarray]]:
    task = tasks.get("maze", size=5)
    (sample,) = task.sample(1, fork=True, apart=4)
    endings = Endings.of(task, sample, (10, 10, 3))
    return sample, endings, [endings.first, *endings.colours]


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9, 1.0])
def test_a_blend_has_its_own_shares_as_posterior(fork: tuple[Sample, Endings, list[np.ndarray]], share: float) -> None:
    _, endings, (_, a, b) = fork
    reading = endings.read((share * a + (1 - share) * b) / 255)
    assert reading.posterior == pytest.approx([share, 1 - share], abs=1.1e-3)
    assert reading.drawn == pytest.approx([share, 1 - share])
    assert reading.blur == pytest.approx(2 * (1 - share))
    p = np.array([share, 1 - share])
    assert reading.entropy == pytest.approx(-(p * np.log2(np.clip(p, 1e-12, 1))).sum(), abs=0.02)
    assert reading.mode == {0.5: "blend", 0.7: "blend", 0.9: "one", 1.0: "one"}[share]
    assert reading.favourite == (None if share == 0.5 else 0)


def test_even_posteriors_are_told_apart(fork: tuple[Sample, Endings, list[np.ndarray]]) -> None:
    _, endings, (first, a, b) = fork
    both = np.where((a != first).any(-1, keepdims=True), a, b)
    readings = {"blend": endings.read((a + b) / 510), "several": endings.read(both / 255),
                "empty": endings.read(first / 255)}  # fmt: skip
    for mode, reading in readings.items():
        assert reading.posterior == pytest.approx([0.5, 0.5])
        assert reading.live.all()
        assert reading.mode == mode
    drawn = {mode: reading.drawn.tolist() for mode, reading in readings.items()}
    assert drawn["several"] == pytest.approx([1, 1])
    assert drawn["blend"] == pytest.approx([0.5, 0.5])
    assert drawn["empty"] == pytest.approx([0, 0])
    assert (readings["several"].blur, readings["empty"].blur) == (0, 0)
    assert readings["blend"].blur == pytest.approx(1)


def test_the_posterior_is_the_naive_geometric_mean(fork: tuple[Sample, Endings, list[np.ndarray]]) -> None:
    task = tasks.get("maze", size=6, openings=0.4)
    sample = next(s for s in task.sample(60) if len(task.candidates(s)) == 3)
    endings = Endings.of(task, sample, (12, 12, 3))
    picture = np.random.default_rng(0).random((12, 12, 3)) * 255
    logs = np.zeros(3)
    places = 0
    for r, c in np.ndindex(12, 12):
        shown = endings.colours[:, r, c]
        if len(np.unique(shown, axis=0)) == 1:
            continue
        places += 1
        for k in range(3):
            own = np.linalg.norm(picture[r, c] - shown[k])
            other = min(np.linalg.norm(picture[r, c] - s) for s in shown if (s != shown[k]).any())
            logs[k] += np.log(max(other / (own + other), 1e-3))
    expected = np.exp(logs / places)
    assert endings.read(picture / 255).posterior == pytest.approx(expected / expected.sum())


@pytest.mark.parametrize("name", ["bounce", "grounding", "reappearance", "maze"])
def test_every_task_can_be_read(name: str) -> None:
    task = tasks.get(name)
    (sample,) = task.sample(1)
    count = len(task.candidates(sample))
    for k in range(count):
        video = task.render(sample, k)
        pixels = Endings.of(task, sample, video[-1].shape)
        reading = pixels.read(video[-1])
        assert reading.posterior.argmax() == k
        assert reading.mode == "one"
        assert pixels.right[k] == task.score(sample, video).solved
        blocks = Endings.of(task, sample, (video.shape[1] // 8, video.shape[2] // 8, 3))
        assert blocks.read(video[-1, ::8, ::8]).posterior == pytest.approx(reading.posterior)


def test_a_problem_with_one_answer_has_nothing_to_choose() -> None:
    task = tasks.get("maze", size=4, openings=0.0)
    (sample,) = task.sample(1)
    endings = Endings.of(task, sample, (8, 8, 3))
    for shown, drawn, mode in ((endings.colours[0], 1, "one"), (endings.first, 0, "empty")):
        reading = endings.read(shown.astype(np.uint8))
        assert (reading.posterior.tolist(), reading.entropy, reading.mode) == ([1], 0, mode)
        assert reading.drawn == pytest.approx([drawn])
