"""One problem of a task, as a model is given it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image


@dataclass(frozen=True)
class Sample:
    """A problem, ready to be run.

    Attributes:
        task: name of the task it belongs to ("" for a sample of no task: your own image and prompt).
        key: content key. Samples with the same first frame have the same key; probes keep them on one side of a split.
        prompt: what the model is told.
        image: the first frame, ``height`` x ``width`` pixels; None for text-to-video.
        problem: the exact problem (a `Maze`), which the task scores against.
        height, width: pixels.
        num_frames: frames of the video, 4k + 1.
        meta: JSON-ready facts, enough for the task to build the sample again (see `MazeTask.restore`).
    """

    task: str
    key: str
    prompt: str
    image: Image.Image | None = field(compare=False, repr=False)
    problem: Any = field(repr=False)
    height: int
    width: int
    num_frames: int
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)
