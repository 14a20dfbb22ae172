"""Comparison with the ground truth, for folders of any kind.

A whole-frame error rewards a video that does nothing, since most pixels never change. So the comparison looks at what
changed: which pixels differ from the first frame, and how far they have come to what the ground truth shows there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from interp.errors import TaskError
from interp.tasks.blocks import colour_scale
from interp.tasks.vbvr.files import Clip

CHANGED = 0.1  # of the range of a colour: what counts as another colour
OVERLAP, MOTION, ERROR = 0.8, 0.5, 0.1  # what a video has to reach to count as solved by comparison


@dataclass(frozen=True)
class ClipScore:
    """What one video says.

    Attributes:
        valid: the exact solver finds an answer; without one, ``solved``.
        solved: the exact solver says so; without one, the final frame changed where the ground truth's did (overlap
            0.8 or more), the whole video did (0.5 or more), and the final error is 0.1 or less.
        final_overlap: of the pixels that differ from the first frame, in the final frame: intersection over union.
        motion_overlap: the same of the pixels that differ from the first frame in any frame.
        progress: how far the pixels that change have come from the first to the final frame, 0..1; NaN if none does.
        final_error: mean absolute error, 0..1, of the final frame over the pixels that change in either video.
        video_error: mean absolute error, 0..1, of all frames.
        exact: score of the exact solver, None without one.
    """

    valid: bool
    solved: bool
    final_overlap: float
    motion_overlap: float
    progress: float
    final_error: float
    video_error: float
    exact: Any = None


def score_clip(clip: Clip, video: np.ndarray, exact: Any = None) -> ClipScore:
    """Compare a video [frame, row, col, rgb] with the ground truth, which is brought to its size and length."""
    if video.ndim != 4 or video.shape[-1] != 3 or not len(video):
        raise TaskError(f"a video has frames of [frame, row, col, 3], got {video.shape}")
    ours = video.astype(np.float32) * colour_scale(video) / 255
    truth = np.stack([resized(frame, video.shape[1:3]) for frame in frames_like(clip.video, len(video))])
    first, final = (resized(picture, video.shape[1:3]) for picture in (clip.first, clip.final))
    end_ours, end_truth = _differs(ours[-1], first), _differs(final, first)
    changed = end_ours | end_truth
    error = np.abs(ours[-1] - final)
    overlap, motion = _overlap(end_ours, end_truth), _overlap(_ever(ours, first), _ever(truth, first))
    final_error = float(error[changed].mean()) if changed.any() else float(error.mean())
    by_comparison = overlap >= OVERLAP and motion >= MOTION and final_error <= ERROR
    return ClipScore(
        valid=by_comparison if exact is None else bool(exact.valid),
        solved=by_comparison if exact is None else bool(exact.solved),
        final_overlap=overlap,
        motion_overlap=motion,
        progress=progress(first, final, ours[-1]),
        final_error=final_error,
        video_error=float(np.abs(ours - truth).mean()),
        exact=exact,
    )


def progress(first: np.ndarray, final: np.ndarray, frame: np.ndarray) -> float:
    """How far a frame has come from the first to the final one where these differ: 0..1, NaN if they do not."""
    changed = _differs(final, first)
    if not changed.any():
        return float("nan")
    way = final[changed] - first[changed]
    moved = ((frame[changed] - first[changed]) * way).sum(-1) / (way * way).sum(-1)
    return float(np.clip(moved, 0, 1).mean())


def frames_like(video: np.ndarray, count: int) -> np.ndarray:
    """``count`` frames of a video, evenly spaced from its first to its last."""
    return video[np.rint(np.linspace(0, len(video) - 1, count)).astype(int)]


def resized(picture: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """A uint8 picture at another size, (rows, cols), in 0..1; untouched if it has that size."""
    if picture.shape[:2] != tuple(size):
        picture = np.asarray(Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.BOX))
    return picture.astype(np.float32) / 255


def _differs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray((np.abs(a - b) > CHANGED).any(-1))


def _ever(video: np.ndarray, first: np.ndarray) -> np.ndarray:
    return np.asarray((np.abs(video - first) > CHANGED).any((0, -1)))


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 1.0
