"""The scene tasks: seeded problems, their scores, labels to probe for, and regions of the token grid."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from PIL import Image

from interp.errors import TaskError, suggest
from interp.grid import TokenGrid
from interp.tasks import blocks
from interp.tasks.blocks import BLOCK, NUM_FRAMES, PALETTE
from interp.tasks.sample import Sample
from interp.tasks.scene import labels
from interp.tasks.scene.problem import SIDE, Problem
from interp.tasks.scene.score import SceneScore, score_symbols

SAMPLE_STREAM = 8003  # first words of our seeds; see `interp.tasks.maze.draw`
PAIR_STREAM = 8004
_ATTEMPTS = 200
P = TypeVar("P", bound=Problem)


@dataclass(frozen=True)
class SceneTask(ABC, Generic[P]):
    """A task whose videos are scenes of 10 x 10 blocks with a few candidate answers; see the concrete classes."""

    name: ClassVar[str]
    problem_type: ClassVar[type[Problem]]

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> P:
        """One problem; the generator is the only source of randomness."""

    @abstractmethod
    def change(self, problem: P, rng: np.random.Generator) -> P | None:
        """A problem that differs in as little as can be and has another answer; None if there is none."""

    @classmethod
    @abstractmethod
    def prompts(cls) -> tuple[str, ...]:
        """Every prompt of the task."""

    @classmethod
    def options(cls) -> tuple[str, ...]:
        """Names of the options."""
        return tuple(field.name for field in dataclasses.fields(cls))

    def sample(self, n: int, seed: int = 0) -> list[Sample]:
        """``n`` different scenes.

        Sample k depends on the options, the seed and k alone, so that ``sample(10)`` begins with ``sample(5)``.

        Raises:
            TaskError: there are not ``n`` different ones.
        """
        if n < 0 or seed < 0:
            raise TaskError(f"n={n}, seed={seed}: neither can be negative")
        found: dict[str, P] = {}
        for k in range(n):
            for attempt in range(_ATTEMPTS):
                problem = self.draw(self._generator(SAMPLE_STREAM, seed, k, attempt))
                if problem.key not in found:
                    found[problem.key] = problem
                    break
            else:
                raise TaskError(f"only {len(found)} different scenes turned up where {n} were asked for; ask for fewer")
        return [self.wrap(problem) for problem in found.values()]

    def pair(self, seed: int = 0) -> tuple[Sample, Sample]:
        """Two problems that differ in as little as can be and have different answers: (clean, corrupt).

        See ``change`` of the task for what differs: in grounding the prompt alone, else where the moving thing is.
        """
        for attempt in range(_ATTEMPTS):
            rng = self._generator(PAIR_STREAM, seed, attempt)
            clean = self.draw(rng)
            corrupt = self.change(clean, rng)
            if corrupt is not None:
                return self.wrap(clean), self.wrap(corrupt)
        raise TaskError(f"no pair of the {self.name} task turned up in {_ATTEMPTS} draws")

    def _generator(self, stream: int, *numbers: int) -> np.random.Generator:
        return np.random.default_rng((stream, *self.name.encode(), *repr(self).encode(), *numbers))

    def wrap(self, problem: P, **meta: Any) -> Sample:
        """A problem of your own as a sample of this task."""
        first = blocks.to_pixels(PALETTE[problem.right[0]])
        return Sample(
            task=self.name,
            key=problem.key,
            prompt=problem.prompt,
            image=Image.fromarray(first),
            problem=problem,
            height=SIDE * BLOCK,
            width=SIDE * BLOCK,
            num_frames=NUM_FRAMES,
            meta={"problem": problem.describe(), **meta},
        )

    @classmethod
    def restore(cls, meta: Mapping[str, Any]) -> Sample:
        """The sample whose ``meta`` this is: from a store's provenance back to the problem, without the model."""
        problem: Any = cls.problem_type.from_description(meta["problem"])
        return cls().wrap(problem, **{k: v for k, v in meta.items() if k != "problem"})

    def score(self, sample: Sample, video: np.ndarray) -> SceneScore:
        """What a video, or a decoded x0_hat, says about the sample's problem.

        Args:
            sample: the problem.
            video: pixels [frame, row, col, rgb] or block colours [frame, block_row, block_col, rgb] (uint8 in 0..255 or
                float in 0..1), or block symbols [frame, block_row, block_col].

        Raises:
            TaskError: the shape fits none of these, or the sample is of another task.
        """
        problem = self.problem_of(sample)
        if video.ndim == 3 and video.shape[1:] == (SIDE, SIDE) and np.issubdtype(video.dtype, np.integer):
            return score_symbols(problem, video)
        return score_symbols(problem, blocks.nearest(self._colours(video), PALETTE))

    def score_many(self, samples: Sequence[Sample], videos: Sequence[np.ndarray] | np.ndarray) -> list[SceneScore]:
        """`score` of each sample with its video."""
        if len(samples) != len(videos):
            raise TaskError(f"{len(samples)} samples cannot be scored on {len(videos)} videos; give one each")
        return [self.score(sample, video) for sample, video in zip(samples, videos, strict=True)]

    def answer(self, sample: Sample, video: np.ndarray | None = None) -> int:
        """Number of the candidate that a video shows, -1 for none; the right one without a video."""
        return self.problem_of(sample).truth if video is None else self.score(sample, video).answer

    def candidates(self, sample: Sample) -> tuple[str, ...]:
        """The possible answers in words, in the order of their numbers."""
        return self.problem_of(sample).names

    def render(self, sample: Sample, answer: int | None = None) -> np.ndarray:
        """The video of an answer (the right one by default): uint8 pixels [frame, row, col, rgb]."""
        problem = self.problem_of(sample)
        count = len(problem.names)
        if answer is not None and not 0 <= answer < count:
            raise TaskError(f"answer={answer}: this sample's answers are 0 to {count - 1}: {', '.join(problem.names)}")
        return blocks.to_pixels(PALETTE[problem.videos[problem.truth if answer is None else answer]])

    def evidence(self, sample: Sample, video: np.ndarray) -> np.ndarray:
        """How strongly the last frame shows each candidate: float [candidate], see `interp.tasks.blocks.evidence`."""
        endings = np.stack([PALETTE[v[-1]] for v in self.problem_of(sample).videos])
        return blocks.evidence(self._colours(video[-1:])[0], endings)

    def margin(self, sample: Sample, video: np.ndarray) -> float:
        """Evidence of the right answer less that of the strongest other one, in -1..1."""
        found, truth = self.evidence(sample, video), self.problem_of(sample).truth
        return float(found[truth] - np.delete(found, truth).max())

    def labels(self, sample: Sample, score: SceneScore, grid: TokenGrid) -> dict[str, Any]:
        """Everything to probe for in one run; see `interp.tasks.scene.labels` for the names.

        Returns:
            Sample-level scalars, and token-level float arrays [frame, row, col] with NaN where a label does not apply.
        """
        problem = self.problem_of(sample)
        return {**labels.sample_labels(problem, score), **labels.token_labels(problem, score, grid)}

    def region(
        self, sample: Sample, name: str, grid: TokenGrid, *, frames: int | Sequence[int] | slice | None = None
    ) -> tuple[int, ...]:
        """Tokens that hold any block of a part of the scene, row-major.

        Args:
            sample: the problem.
            name: "answer" and "others" (blocks of the last frame that speak for the right candidate, for the wrong
                ones), "candidate k", "foreground", "background" (of the first frame), "moving" (blocks that ever
                change), "all", or a part of the task's own: grounding "object", "other_objects", "object k";
                reappearance "object", "other_places", "place k", "wall"; bounce "ball", "tail", "walls", "target",
                "other_targets", "target k".
            grid: the token grid of the sample's video.
            frames: latent frames (negative ones count from the end); all by default.

        Raises:
            TaskError: no such region in this scene, or it is empty.
        """
        problem = self.problem_of(sample)
        regions = labels.regions(problem)
        if name not in regions:
            raise TaskError(
                f"this {self.name} scene has no region {name!r}{suggest(name, regions)}; "
                f"there are: {', '.join(regions)}"
            )
        mask = labels.token_mask(regions[name], grid)
        try:
            chosen = np.atleast_1d(np.arange(grid.frames)[slice(None) if frames is None else frames])
        except IndexError:
            raise TaskError(f"frames={frames}: the video has latent frames 0 to {grid.frames - 1}") from None
        found = tuple(int(grid.index(int(f), int(r), int(c))) for f in chosen for r, c in np.argwhere(mask))
        if not found:
            raise TaskError(f"region {name!r} is empty in this scene")
        return found

    @classmethod
    def problem_of(cls, sample: Sample) -> Problem:
        """The sample's problem.

        Raises:
            TaskError: the sample is of another task.
        """
        if not isinstance(sample.problem, cls.problem_type):
            raise TaskError(
                f"a sample of task {sample.task!r} is no {cls.name} scene; "
                f"make samples with tasks.get({cls.name!r}).sample(n)"
            )
        return sample.problem

    def _colours(self, video: np.ndarray) -> np.ndarray:
        return blocks.block_colours(video, SIDE, SIDE, f"a {self.name} scene")
