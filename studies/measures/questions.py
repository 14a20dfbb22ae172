"""What can be asked of the tokens of one latent frame, whatever the task: where a thing was, what moves, which answer.

Labels come from the problem's named regions, or from the video that a run ends with. They are made on the task's own
grid (16 pixels a token) and joined where the model's tokens are coarser.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from interp import Sample
from interp.errors import TaskError
from interp.grid import TokenGrid
from studies.measures.targets import Rows

STARTS = (
    ("object", "other_places"),
    ("object", "other_objects"),
    ("ball", "all"),
    ("start", "all"),
    ("changed", "all"),
)
"""Where the thing is at first, and where it is not, as region names; the first pair that a task has is taken."""
TAKEN = ("taken", "taken_route", "on_path")
"""Labels of a run's own answer; the first that has both classes is taken."""
TRUE = ("on_answer", "on_shortest", "changed")
"""The same of the right answer."""
SEEN = 1  # tokens each way of the first frame that a baseline sees from a token
MOVED = 40  # of 255: a pixel has changed
AGAINST = 8  # tokens labelled 0 for each labelled 1, in every run


@dataclass(frozen=True)
class Question:
    """One question to tokens.

    Attributes:
        name: for tables.
        asked: in words.
        frame: latent frame whose tokens are asked.
        labels: 1, 0, or NaN where a token is not asked: [run, token of the frame].
    """

    name: str
    asked: str
    frame: int
    labels: np.ndarray

    def rows(self, samples: Sequence[Sample], seed: int = 0) -> Rows:
        """The tokens that are asked, of each run all with label 1 and at most `AGAINST` times as many with 0.

        Args:
            samples: of the runs.
            seed: of which are taken.

        Raises:
            TaskError: there are not two classes of tokens.
        """
        rng, kept = np.random.default_rng(seed), np.full(self.labels.shape, np.nan)
        for asked, of in zip(kept, self.labels, strict=True):
            ones, zeros = np.flatnonzero(of == 1), np.flatnonzero(of == 0)
            if len(ones) and len(zeros):
                asked[ones] = 1
                asked[rng.permutation(zeros)[: AGAINST * len(ones)]] = 0
        run, token = np.nonzero(np.isfinite(kept))
        if not len(run):
            raise TaskError(f"{self.name}: no run has tokens of both kinds to ask ({self.asked})")
        problems = np.array([sample.key for sample in samples])
        return Rows(run, token, kept[run, token], problems[run], len(kept), len(np.unique(run)))


def own_grid(sample: Sample) -> TokenGrid:
    """The grid on which a task has its regions and labels: 16 pixels a token."""
    return TokenGrid.from_video(sample.num_frames, sample.height, sample.width)


def joined(labels: np.ndarray, grid: TokenGrid) -> np.ndarray:
    """Labels [row, col] on a grid that may be coarser: 1 where any part is 1, else 0 where any is 0: [token].

    >>> joined(np.array([[1, 0], [0, np.nan]]), TokenGrid(1, 2, 1)).tolist()
    [1.0, 0.0]
    """
    high, wide = labels.shape[0] // grid.rows, labels.shape[1] // grid.cols
    if (high * grid.rows, wide * grid.cols) != labels.shape:
        raise TaskError(f"labels of {labels.shape} do not fit a token grid of {grid.rows} x {grid.cols}")
    parts = np.where(np.isnan(labels), -1, labels).reshape(grid.rows, high, grid.cols, wide).max((1, 3)).reshape(-1)
    return np.where(parts < 0, np.nan, parts)


def start_labels(task: Any, sample: Sample, grid: TokenGrid) -> np.ndarray:
    """1 where the thing of the task is at first, 0 where it could have been: [token of a frame].

    Raises:
        TaskError: the task has no regions that say so.
    """
    for here, elsewhere in STARTS:
        one, other = _mask(task, sample, here), _mask(task, sample, elsewhere)
        if one is not None and other is not None:
            other = other & ~one if elsewhere == "all" else other
            labels = np.full(one.shape, np.nan)
            labels[other & ~one], labels[one & ~other] = 0, 1
            return joined(labels, grid)
    raise TaskError(f"task {sample.task!r} does not say where anything is at first; choose another task")


def _mask(task: Any, sample: Sample, name: str) -> np.ndarray | None:
    """Tokens of a region of the first frame: bool [row, col]; None if the task has no such region."""
    own = own_grid(sample)
    try:
        tokens = task.region(sample, name, own, frames=0)
    except TaskError:
        return None
    mask = np.zeros(own.rows * own.cols, dtype=bool)
    mask[list(tokens)] = True
    return mask.reshape(own.rows, own.cols)


def start_state(task: Any, samples: Sequence[Sample], grid: TokenGrid, frame: int) -> Question:
    """Where the thing of the task was in the first frame, asked of a later one."""
    labels = np.stack([start_labels(task, sample, grid) for sample in samples])
    return Question("start", "Was the moving thing here at first?", frame, labels)


def motion_and_plan(
    task: Any, samples: Sequence[Sample], videos: Iterable[np.ndarray], grid: TokenGrid
) -> tuple[Question, Question]:
    """What moves in the first generated latent frame, and which answer the last one shows.

    Labels are of the videos that the runs end with, and runs without a valid answer are not asked. If half of the runs
    have none, labels are of the right videos instead, and all runs are asked.

    Args:
        task: of the samples.
        samples: of the runs.
        videos: what each run ends with, pixels [frame, row, col, rgb].
        grid: of the model's tokens.
    """
    scores = [(task.score(sample, video), video) for sample, video in zip(samples, videos, strict=True)]
    answered = 2 * sum(bool(score.valid) for score, _ in scores) > len(scores)
    motion, plan = [], []
    for sample, (score, video) in zip(samples, scores, strict=True):
        shown = video if answered else task.render(sample)
        start = start_labels(task, sample, grid)
        asked = score.valid or not answered
        motion.append(np.where((start == 1) | (not asked), np.nan, moved(shown, grid)))
        plan.append(_answer_labels(task, sample, score, grid, TAKEN if answered else TRUE))
    whose = "the run's own" if answered else "the right"
    return (
        Question("motion", f"Does something move in here in the first moment ({whose} video)?", 1, np.stack(motion)),
        Question("plan", f"Is this part of the answer ({whose}) and not of another?", grid.frames - 1, np.stack(plan)),
    )


def moved(video: np.ndarray, grid: TokenGrid) -> np.ndarray:
    """1 where any pixel of the second latent frame differs from the first frame, else 0: [token of a frame]."""
    apart = np.abs(video.astype(np.int16) - video[0].astype(np.int16)).max(-1) > MOVED
    apart[[f for f in range(len(apart)) if f not in grid.pixel_frames_of(1)]] = False
    per_frame = grid.rows * grid.cols
    labels = np.zeros(per_frame)
    if apart.any():
        labels[[token - per_frame for token in grid.tokens_in_mask(apart)]] = 1
    return labels


def _answer_labels(task: Any, sample: Sample, score: Any, grid: TokenGrid, names: Sequence[str]) -> np.ndarray:
    found = task.labels(sample, score, own_grid(sample))
    for name in names:
        if name in found and {0, 1} <= set(np.unique(found[name][-1])):
            return joined(found[name][-1], grid)
    return np.full(grid.rows * grid.cols, np.nan)


def of_shared_problems(questions: Sequence[Question], samples: Sequence[Sample]) -> list[Question]:
    """The questions, asked of problems only on which every one of them has both answers."""
    keys = np.array([sample.key for sample in samples])
    shared = set(keys)
    for question in questions:
        both = [(of == 1).any() and (of == 0).any() for of in question.labels]
        shared &= set(keys[np.array(both)])
    kept = np.isin(keys, sorted(shared))
    return [replace(q, labels=np.where(kept[:, None], q.labels, np.nan)) for q in questions]


def first_frame_seen(image: Image.Image, grid: TokenGrid, tokens: Sequence[int]) -> np.ndarray:
    """The picture that the model was given, around each token: what a linear probe could read off it.

    Args:
        image: the first frame.
        grid: of the tokens.
        tokens: of a frame.

    Returns:
        float32 [token, feature]: for the token and its neighbours, `SEEN` each way, the mean colours of four parts with
        their saturation (largest less smallest channel), and whether there is such a token.
    """
    small = image.convert("RGB").resize((2 * grid.cols, 2 * grid.rows), Image.Resampling.BOX)
    colours = np.asarray(small, dtype=np.float32) / 255
    colours = np.concatenate([colours, np.ptp(colours, axis=-1, keepdims=True)], axis=-1)
    parts = colours.reshape(grid.rows, 2, grid.cols, 2, 4).transpose(0, 2, 1, 3, 4)
    padded = np.zeros((grid.rows + 2 * SEEN, grid.cols + 2 * SEEN, 17), dtype=np.float32)
    inside = padded[SEEN:-SEEN, SEEN:-SEEN]
    inside[..., :16], inside[..., 16] = parts.reshape(grid.rows, grid.cols, 16), 1
    width = 2 * SEEN + 1
    places = [divmod(int(token), grid.cols) for token in tokens]
    return np.stack([padded[row : row + width, col : col + width].reshape(-1) for row, col in places])
