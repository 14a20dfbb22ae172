"""One problem of a task, as a model is given it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
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
        last_image: the last frame, for models that are given both ends of the video; else None.
        video: the source of video-to-video, or what VACE is controlled by, ``num_frames`` frames; else None.
        mask: for VACE, white where its video may be changed, a picture a frame; None for everywhere.
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
    last_image: Image.Image | None = field(default=None, compare=False, repr=False)
    video: tuple[Image.Image, ...] | None = field(default=None, compare=False, repr=False)
    mask: tuple[Image.Image, ...] | None = field(default=None, compare=False, repr=False)

    @cached_property
    def pictures(self) -> str | None:
        """Digest of the pictures that ``key`` does not stand for; None if there are none.

        A task's key stands for its first frame. A sample of no task may be called anything.
        """
        first = () if self.task or self.image is None else (self.image,)
        last = () if self.last_image is None else (self.last_image,)
        video, mask = self.video or (), self.mask or ()
        if not (first or last or video or mask):
            return None
        counts = f"{len(first)}{len(last)}" + (f"-{len(video)}-{len(mask)}" if mask else "")
        digest = hashlib.sha256(counts.encode())
        for picture in (*first, *last, *video, *mask):
            shown = picture.convert("RGBA") if picture.mode == "P" else picture  # else its colours would not count
            digest.update(f"{picture.mode}{picture.size}".encode() + shown.tobytes())
        return digest.hexdigest()[:16]

    @property
    def held_out(self) -> bool:
        """Whether the sample is one of the eighth that ``wan-puzzle-mini`` never saw in training."""
        return is_held_out(self.key)


def is_held_out(key: str) -> bool:
    """Whether problems of this key are kept out of training: one in eight, by their hash."""
    return hashlib.sha256(key.encode()).digest()[0] % 8 == 0
