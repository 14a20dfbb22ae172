"""What the three scene tasks share: a problem is a picture, a prompt, a few candidate answers, and a video for each.

Only `Problem.render` draws. What an answer looks like, which blocks speak for it, and whether a video shows it are all
read off the videos of the candidates, so that generator and scorer cannot disagree.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from interp.errors import TaskError

SIDE = 10  # blocks; the frames are 80 x 80 pixels
LAST = SIDE - 1

Block = tuple[int, int]
Symbols = np.ndarray  # uint8 [frame, block_row, block_col], colours of `interp.tasks.blocks`


@dataclass(frozen=True)
class Problem(ABC):
    """One problem. Its fields are plain data: numbers, text, and tuples of them."""

    @property
    @abstractmethod
    def prompt(self) -> str:
        """What the model is told."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The candidate answers in words; an answer is a number into them."""

    @property
    @abstractmethod
    def truth(self) -> int:
        """The right answer."""

    @abstractmethod
    def render(self, answer: int) -> Symbols:
        """The video of an answer, right or wrong."""

    @abstractmethod
    def regions(self) -> dict[str, set[Block]]:
        """Named parts of the first frame, as blocks."""

    @abstractmethod
    def check(self) -> None:
        """Raise `TaskError` if the fields make no sense together."""

    def __post_init__(self) -> None:
        self.check()

    def happened(self, symbols: Symbols, answer: int) -> bool:
        """Whether the frames before the last show what has to come before the answer."""
        return True

    @cached_property
    def right(self) -> Symbols:
        """The video of the right answer."""
        video = self.render(self.truth)
        video.setflags(write=False)
        return video

    @cached_property
    def videos(self) -> tuple[Symbols, ...]:
        """The video of each candidate."""
        found = tuple(self.right if k == self.truth else self.render(k) for k in range(len(self.names)))
        for video in found:
            video.setflags(write=False)
        return found

    @cached_property
    def disputed(self) -> np.ndarray:
        """Blocks of the last frame in which the candidates differ: bool [block_row, block_col]."""
        endings = np.stack([video[-1] for video in self.videos])
        return np.asarray((endings != endings[0]).any(0))

    def own(self, answer: int) -> set[Block]:
        """Blocks of the last frame that look as in no other candidate's."""
        others = np.stack([video[-1] for k, video in enumerate(self.videos) if k != answer])
        return as_blocks((others != self.videos[answer][-1]).all(0))

    @cached_property
    def key(self) -> str:
        """Content hash of the first frame: problems that differ in the prompt alone share it."""
        return hashlib.sha256(type(self).__name__.encode() + self.right[0].tobytes()).hexdigest()[:16]

    def describe(self) -> dict[str, Any]:
        """The problem as JSON-ready data; `from_description` gives it back."""
        described: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return described

    @classmethod
    def from_description(cls, described: Mapping[str, Any]) -> Problem:
        """The problem that `describe` described.

        Raises:
            TaskError: fields are missing, or make no sense together.
        """
        wanted = {field.name for field in dataclasses.fields(cls)}
        if set(described) != wanted:
            raise TaskError(f"a {cls.__name__} is described by {sorted(wanted)}, got {sorted(described)}")
        return cls(**{name: _tuples(value) for name, value in described.items()})


def as_blocks(mask: np.ndarray) -> set[Block]:
    """Blocks at which a mask [block_row, block_col] is true."""
    return {(int(r), int(c)) for r, c in np.argwhere(mask)}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value
