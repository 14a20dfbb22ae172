"""Folders in VBVR layout: round trips, scores by comparison and by exact solvers, and folders that are broken."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from interp import tasks
from interp.errors import TaskError
from interp.grid import TokenGrid
from interp.tasks.vbvr import write_folder
from interp.tasks.vbvr.files import FILES

SOURCES = (
    ("maze", {"size": 5}),
    ("maze", {"size": 8, "prompt": "plain"}),
    ("grounding", {}),
    ("reappearance", {"motion": "leaves"}),
    ("reappearance", {"motion": "passes"}),
    ("bounce", {}),
)
EXTRA = "sample.json"


@pytest.fixture(scope="module")
def made() -> list[Any]:
    return [tasks.get(name, **options).sample(1, seed=5)[0] for name, options in SOURCES]


@pytest.fixture(scope="module")
def written(made: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tasks.VBVRTask.write(tmp_path_factory.mktemp("vbvr") / "test" / "ours", made)


def truth_of(sample: Any) -> np.ndarray:
    return tasks.get(sample.task).render(sample)


def test_what_the_generators_write_comes_back(written: Path, made: list[Any]) -> None:
    task = tasks.get("vbvr", path=written.parent)
    assert isinstance(task, tasks.Task)
    samples = task.sample()
    assert len(samples) == len(made)
    for sample, source in zip(samples, made, strict=True):
        assert sample.problem.exact == source
        assert sample.problem.exact.problem == source.problem
        assert (sample.prompt, sample.num_frames) == (source.prompt, source.num_frames)
        assert (sample.height, sample.width) == (source.height, source.width)
        assert sample.image.tobytes() == source.image.tobytes()
        np.testing.assert_array_equal(task.render(sample), truth_of(source))  # to the bit: the video is lossless
        assert task.restore(sample.meta) == sample
        assert {f.name for f in sample.problem.folder.iterdir()} == {*FILES, EXTRA}


def test_a_written_folder_scores_as_its_own_task_does(written: Path, made: list[Any]) -> None:
    task = tasks.get("vbvr", path=written)
    for sample, source in zip(task.sample(), made, strict=True):
        own: Any = tasks.get(source.task)
        video = truth_of(source)
        score = task.score(sample, video)
        assert score.exact == own.score(source, video)
        assert score.solved
        assert (score.final_overlap, score.motion_overlap, score.final_error, score.video_error) == (1, 1, 0, 0)
        frozen = np.repeat(video[:1], 17, axis=0)
        assert not task.score(sample, frozen).solved
        assert task.score(sample, frozen).motion_overlap == 0
        assert not task.score(sample, np.full_like(video, 255)).solved
        assert task.candidates(sample) == own.candidates(source)
        np.testing.assert_array_equal(task.evidence(sample, video), own.evidence(source, video))
        grid = TokenGrid(frames=5, rows=source.height // 16, cols=source.width // 16)
        labels, expected = task.labels(sample, score, grid), own.labels(source, score.exact, grid)
        for name, value in expected.items():
            np.testing.assert_array_equal(labels[name], value)
        assert labels["final_overlap"] == 1


def test_a_maze_is_read_off_the_picture_without_our_file(written: Path, made: list[Any], tmp_path: Path) -> None:
    for number in (0, 1):
        folder = tmp_path / f"{number}"
        shutil.copytree(written / f"{number:05d}", folder)
        (folder / EXTRA).unlink()
        (sample,) = tasks.get("vbvr", path=folder).sample()
        assert sample.problem.exact.problem == made[number].problem
        assert sample.problem.exact.meta["prompt"] == made[number].meta["prompt"]
        assert tasks.get("vbvr").score(sample, truth_of(made[number])).exact.valid


def test_a_maze_at_another_scale_is_solved_at_its_own(made: list[Any], tmp_path: Path) -> None:
    """Three times as large, as a benchmark may draw it: the solver sees it at the size it knows."""
    large = truth_of(made[0]).repeat(3, 1).repeat(3, 2)
    folder = tmp_path / "00000"
    foreign = tasks.Sample("", "k", made[0].prompt, Image.fromarray(large[0]), None, 240, 240, 17)
    write_folder(folder, foreign, large)
    task = tasks.get("vbvr", path=tmp_path)
    (sample,) = task.sample()
    assert (sample.height, sample.width) == (240, 240)
    assert sample.problem.exact.problem == made[0].problem
    for video in (large, large / 255.0, large[:, 1::3, 1::3]):
        assert task.score(sample, video).exact.solved
    assert not task.score(sample, large[::-1][-1:].repeat(17, 0)).solved


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A square that crosses a grey ground: no task of ours."""
    video = np.full((17, 64, 96, 3), 128, np.uint8)
    for f in range(17):
        video[f, 24:40, 4 * f : 4 * f + 16] = (250, 20, 20)
    sample = tasks.Sample("", "k", "the square moves", Image.fromarray(video[0]), None, 64, 96, 17)
    return write_folder(tmp_path / "split" / "some_task" / "00000", sample, video)


def test_other_folders_are_scored_by_comparison(clip: Path) -> None:
    task = tasks.get("vbvr", path=clip.parent)
    (sample,) = task.sample()
    assert sample.problem.exact is None
    truth = task.render(sample)
    blank, frozen = np.full_like(truth, 255), np.repeat(truth[:1], 17, axis=0)
    noise = np.random.default_rng(0).integers(0, 256, truth.shape, dtype=np.uint8)
    assert task.score(sample, truth).solved
    assert task.score(sample, np.clip(truth + np.random.default_rng(0).normal(0, 6, truth.shape), 0, 255) / 255).solved
    for video in (blank, frozen, noise, truth[::-1], np.concatenate([truth[:8], truth[8:9].repeat(9, 0)])):
        assert not task.score(sample, video).solved
    assert sample.problem.frames == len(truth) == 17
    assert task.score(sample, frozen).progress == 0
    assert task.score(sample, truth).progress == 1
    assert np.isclose(task.score(sample, 0.5 * truth / 255 + 0.5 * frozen / 255).progress, 0.5, atol=1e-3)
    assert task.candidates(sample) == ("ground truth", "no change")
    assert task.margin(sample, truth) == 1
    assert task.margin(sample, frozen) == -1
    assert task.score(sample, truth[::2]).video_error < task.score(sample, frozen).video_error
    half = tasks.get("vbvr", path=clip, height=32, width=48, num_frames=9)
    (small,) = half.sample()
    assert (small.height, small.width, small.num_frames) == (32, 48, 9)
    assert half.score(small, truth[::2, ::2, ::2]).solved
    assert half.restore(small.meta) == small


def test_regions_of_a_folder_are_where_something_changes(clip: Path) -> None:
    task = tasks.get("vbvr", path=clip)
    (sample,) = task.sample()
    grid = TokenGrid(frames=5, rows=4, cols=6)
    first, final = (np.asarray(frame, dtype=int) for frame in (sample.problem.first, sample.problem.final))
    apart = (abs(first - final).max(-1) > 25).reshape(4, 16, 6, 16).any((1, 3))
    assert set(task.region(sample, "changed", grid, frames=0)) == {int(i) for i in np.flatnonzero(apart)}
    assert set(task.region(sample, "unchanged", grid, frames=0)) == {int(i) for i in np.flatnonzero(~apart)}
    np.testing.assert_array_equal(
        task.labels(sample, task.score(sample, task.render(sample)), grid)["changed"][3], apart
    )
    with pytest.raises(TaskError, match="no region 'goal'"):
        task.region(sample, "goal", grid)


BREAKING: list[tuple[str, Callable[[Path], Any], str]] = [
    *((f"no {name}", lambda f, name=name: (f / name).unlink(), f"incomplete: {name} missing") for name in FILES),
    ("empty prompt", lambda f: (f / "prompt.txt").write_text(" \n"), "is empty"),
    ("prompt of bytes", lambda f: (f / "prompt.txt").write_bytes(b"\xff\xfe\x00"), "UTF-8"),
    ("endless prompt", lambda f: (f / "prompt.txt").write_text("a" * 30_000), "longer than"),
    ("no picture", lambda f: (f / "first_frame.png").write_bytes(b"not a picture"), "cannot be read as a picture"),
    ("cut picture", lambda f: cut(f / "final_frame.png"), "cannot be read as a picture"),
    ("other size", lambda f: Image.new("RGB", (32, 32)).save(f / "final_frame.png"), "the final one"),
    ("no video", lambda f: (f / "ground_truth.mp4").write_bytes(b"not a video"), "cannot be read as a video"),
    ("empty video", lambda f: (f / "ground_truth.mp4").write_bytes(b""), "cannot be read as a video"),
    ("video of other size", lambda f: small_video(f / "ground_truth.mp4"), "its pictures have"),
    ("no JSON", lambda f: (f / EXTRA).write_text("{"), "does not describe a sample"),
    ("unknown task", lambda f: (f / EXTRA).write_text('{"task": "os", "meta": {}}'), "does not describe a sample"),
    ("no object", lambda f: (f / EXTRA).write_text("[1, 2]"), "does not describe a sample"),
    ("impossible problem", lambda f: spoil(f / EXTRA), "does not describe a sample"),
]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def small_video(path: Path) -> None:
    small = tasks.Sample("", "k", "a", Image.new("RGB", (32, 32)), None, 32, 32, 5)
    write_folder(path.parent / "small", small, np.zeros((5, 32, 32, 3), np.uint8))
    shutil.move(path.parent / "small" / path.name, path)
    shutil.rmtree(path.parent / "small")


def spoil(path: Path) -> None:
    described = json.loads(path.read_text())
    described["meta"]["problem"]["row"] = 99
    path.write_text(json.dumps(described))


@pytest.mark.parametrize(("change", "said"), [b[1:] for b in BREAKING], ids=[b[0] for b in BREAKING])
def test_broken_folders_are_refused_and_named(written: Path, tmp_path: Path, change: Any, said: str) -> None:
    folder = tmp_path / "00005"
    shutil.copytree(written / "00005", folder)
    change(folder)
    with pytest.raises(TaskError, match=said) as error:
        tasks.get("vbvr", path=tmp_path).sample()
    assert str(folder) in str(error.value)


def test_a_file_of_another_problem_is_refused(written: Path, tmp_path: Path) -> None:
    folder = tmp_path / "00000"
    shutil.copytree(written / "00005", folder)
    shutil.copy(written / "00002" / EXTRA, folder / EXTRA)
    with pytest.raises(TaskError, match="another problem"):
        tasks.get("vbvr", path=tmp_path).sample()


def test_what_cannot_be_asked(written: Path, tmp_path: Path, made: list[Any]) -> None:
    with pytest.raises(TaskError, match="is no folder"):
        tasks.get("vbvr", path=tmp_path / "none").sample()
    with pytest.raises(TaskError, match="no sample lies at or below"):
        tasks.get("vbvr", path=tmp_path).sample()
    with pytest.raises(TaskError, match=r"path=\.\.\."):
        tasks.get("vbvr").sample()
    with pytest.raises(TaskError, match="99 samples were asked for"):
        tasks.get("vbvr", path=written).sample(99)
    with pytest.raises(TaskError, match="without pairs"):
        tasks.get("vbvr", path=written).pair()
    with pytest.raises(TaskError, match="multiple of 16"):
        tasks.get("vbvr", path=written, height=50)
    with pytest.raises(TaskError, match="4k \\+ 1"):
        tasks.get("vbvr", path=written, num_frames=16)
    with pytest.raises(TaskError, match="comes from no folder"):
        tasks.get("vbvr").score(made[0], truth_of(made[0]))
    with pytest.raises(TaskError, match="does not begin with"):
        write_folder(tmp_path, made[0], truth_of(made[0])[::-1])
    shuffled = tasks.get("vbvr", path=written).sample(seed=1)
    assert {s.key for s in shuffled} == {s.key for s in tasks.get("vbvr", path=written).sample()}


@pytest.mark.parametrize("exact", [True, False])
def test_candidates_are_rendered_at_the_size_of_the_videos(exact: bool, written: Path, tmp_path: Path) -> None:
    shutil.copytree(written / "00002", tmp_path / "one")
    if not exact:
        (tmp_path / "one" / EXTRA).unlink()
    task = tasks.get("vbvr", path=tmp_path, height=160, width=160)
    (sample,) = task.sample()
    names = task.candidates(sample)
    videos = [task.render(sample, k) for k in range(len(names))]
    assert {video.shape for video in videos} == {(17, 160, 160, 3)}
    right = [task.score(sample, video).solved for video in videos]
    assert sum(right) == 1
    truth = task.render(sample).repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_array_equal(videos[right.index(True)], truth)
    if not exact:
        assert (videos[1] == videos[1][:1]).all()
        with pytest.raises(TaskError, match="two candidates"):
            task.render(sample, 2)
