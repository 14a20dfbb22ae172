"""Any folder in VBVR layout as a task."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from interp.errors import TaskError, suggest
from interp.grid import TokenGrid
from interp.tasks.sample import Sample
from interp.tasks.vbvr.files import EXACT, Clip, find_folders, read_folder, write_folder
from interp.tasks.vbvr.score import CHANGED, ClipScore, progress, resized, score_clip

_MULTIPLE = 16  # pixels of a token of Wan 2.1 and 2.2 A14B
REGIONS = ("all", "changed", "unchanged")


@dataclass(frozen=True)
class VBVRTask:
    """Samples from folders of ``first_frame.png, final_frame.png, ground_truth.mp4, prompt.txt``.

    Videos are scored by comparison with the ground truth. Mazes in our colours (read off the first frame, at any scale)
    and samples that `write` wrote are scored by their exact solvers too, and these decide.

    A model with a coarser VAE (Wan2.2 TI2V-5B: 32 pixels a token) wants larger frames: ``height=160, width=160`` gives
    it the scenes of 80 x 80 pixels on the token grid that their labels and regions are made for.

    Attributes:
        path: a folder; every sample at or below it belongs to the task. None: only score samples that exist.
        height, width: pixels of the videos to generate, multiples of 16; those of the first frame, rounded down, if
            None.
        num_frames: of the videos to generate, 4k + 1; as many as the ground truth has, rounded down, if None.
    """

    path: str | Path | None = None
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None

    name = "vbvr"

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            value = getattr(self, name)
            if value is not None and (value < _MULTIPLE or value % _MULTIPLE):
                raise TaskError(f"{name}={value}: wanted a multiple of {_MULTIPLE}")
        if self.num_frames is not None and (self.num_frames < 1 or self.num_frames % 4 != 1):
            raise TaskError(f"num_frames={self.num_frames}: wanted 4k + 1, such as 17 or 81")

    @classmethod
    def options(cls) -> tuple[str, ...]:
        """Names of the options."""
        return tuple(field.name for field in dataclasses.fields(cls))

    @cached_property
    def folders(self) -> tuple[Path, ...]:
        """Every sample folder, sorted.

        Raises:
            TaskError: no path was given, or there are none below it.
        """
        if self.path is None:
            raise TaskError("give the folder: tasks.get('vbvr', path=...)")
        return tuple(find_folders(Path(self.path)))

    def sample(self, n: int | None = None, seed: int = 0) -> list[Sample]:
        """The first ``n`` samples; all of them by default.

        Args:
            n: how many.
            seed: 0 keeps the order of the folders, another number shuffles them.

        Raises:
            TaskError: there are fewer, or one of them is incomplete or damaged.
        """
        count = len(self.folders) if n is None else n
        if not 0 <= count <= len(self.folders):
            raise TaskError(f"{n} samples were asked for, {self.path} has {len(self.folders)}")
        order = np.random.default_rng(seed).permutation(len(self.folders)) if seed else range(len(self.folders))
        return [self.wrap(read_folder(self.folders[k])) for k in list(order)[:count]]

    def pair(self, seed: int = 0) -> tuple[Sample, Sample]:
        """Not known for folders.

        Raises:
            TaskError: always; a folder says nothing of a problem that differs from it in as little as can be.
        """
        raise TaskError(
            "folders come without pairs; make pairs with the task that generated them, or choose two samples"
        )

    def wrap(self, clip: Clip) -> Sample:
        """A clip as a sample to generate for."""
        rows, cols = clip.first.shape[:2]
        height, width = self.height or rows // _MULTIPLE * _MULTIPLE, self.width or cols // _MULTIPLE * _MULTIPLE
        if min(height, width) < _MULTIPLE:
            raise TaskError(f"{clip.folder}: pictures of {rows} x {cols} pixels are too small; set height= and width=")
        return Sample(
            task=self.name,
            key=clip.key,
            prompt=clip.prompt,
            image=Image.fromarray(clip.first),
            problem=clip,
            height=height,
            width=width,
            num_frames=self.num_frames or (clip.frames - 1) // 4 * 4 + 1,
            meta={
                "folder": str(clip.folder),
                "height": self.height,
                "width": self.width,
                "num_frames": self.num_frames,
                "exact": clip.exact.task if clip.exact else None,
            },
        )

    @classmethod
    def restore(cls, meta: Mapping[str, Any]) -> Sample:
        """The sample whose ``meta`` this is; its folder is read again.

        Raises:
            TaskError: the folder is not there any more, or has changed for the worse.
        """
        sizes = {name: meta.get(name) for name in ("height", "width", "num_frames")}
        return cls(**sizes).wrap(read_folder(Path(meta["folder"])))

    @staticmethod
    def write(folder: str | Path, samples: Sequence[Sample]) -> Path:
        """Samples of the other tasks, with the videos of their right answers, as folders 00000, 00001 ...

        Raises:
            TaskError: a sample of no task that has exact answers.
        """
        for number, sample in enumerate(samples):
            if sample.task not in EXACT:
                raise TaskError(
                    f"a sample of task {sample.task!r} has no exact answer to write; known: {sorted(EXACT)}"
                )
            task = EXACT[sample.task]()
            write_folder(Path(folder) / f"{number:05d}", sample, task.render(sample))
        return Path(folder)

    def score(self, sample: Sample, video: np.ndarray) -> ClipScore:
        """Compare a video, or a decoded x0_hat, with the ground truth; see `ClipScore`.

        Args:
            sample: of this task.
            video: [frame, row, col, rgb], uint8 in 0..255 or float in 0..1, of any size.
        """
        clip = clip_of(sample)
        exact = None
        if clip.exact is not None:
            exact = EXACT[clip.exact.task]().score(clip.exact, self._at_own_size(clip.exact, video))
        return score_clip(clip, video, exact)

    def score_many(self, samples: Sequence[Sample], videos: Sequence[np.ndarray] | np.ndarray) -> list[ClipScore]:
        """`score` of each sample with its video."""
        if len(samples) != len(videos):
            raise TaskError(f"{len(samples)} samples cannot be scored on {len(videos)} videos; give one each")
        return [self.score(sample, video) for sample, video in zip(samples, videos, strict=True)]

    def render(self, sample: Sample, answer: int | None = None) -> np.ndarray:
        """The ground truth as it is, or the video of a candidate at the size of the sample's own videos.

        Args:
            sample: of this task.
            answer: number of one of `candidates`; None for the ground truth.

        Returns:
            uint8 [frame, row, col, rgb].

        Raises:
            TaskError: there is no such candidate.
        """
        clip = clip_of(sample)
        if answer is None:
            return clip.video
        if clip.exact is not None:
            found: np.ndarray = EXACT[clip.exact.task]().render(clip.exact, answer)
        elif answer in (0, 1):
            found = clip.video if answer == 0 else np.repeat(clip.first[None], clip.frames, axis=0)
        else:
            raise TaskError(f"answer={answer}: a folder has two candidates, 0 (the ground truth) and 1 (no change)")
        return _sized(found, sample.height, sample.width)

    def candidates(self, sample: Sample) -> tuple[Any, ...]:
        """The exact task's answers; else two, the ground truth and nothing at all."""
        exact = clip_of(sample).exact
        return ("ground truth", "no change") if exact is None else EXACT[exact.task]().candidates(exact)

    def evidence(self, sample: Sample, video: np.ndarray) -> np.ndarray:
        """How strongly the last frame shows each candidate, 0..1; without an exact task, `ClipScore.progress`."""
        clip = clip_of(sample)
        if clip.exact is not None:
            return np.asarray(EXACT[clip.exact.task]().evidence(clip.exact, self._at_own_size(clip.exact, video)))
        last, size = _floats(video[-1]), video.shape[1:3]
        done = progress(resized(clip.first, size), resized(clip.final, size), last)
        return np.array([done, 1 - done])

    def margin(self, sample: Sample, video: np.ndarray) -> float:
        """Evidence of the right answer less that of the strongest other one."""
        clip = clip_of(sample)
        if clip.exact is not None:
            return float(EXACT[clip.exact.task]().margin(clip.exact, self._at_own_size(clip.exact, video)))
        found = self.evidence(sample, video)
        return float(found[0] - found[1])

    def labels(self, sample: Sample, score: ClipScore, grid: TokenGrid) -> dict[str, Any]:
        """Numbers of the score; token level ``changed``; and the exact task's labels where the grid fits it."""
        exact = clip_of(sample).exact
        own = {field.name: getattr(score, field.name) for field in dataclasses.fields(score) if field.name != "exact"}
        mask = self._changed(sample, grid).astype(np.float32)
        own["changed"] = np.repeat(mask[None], grid.frames, axis=0)
        if exact is None or (grid.rows, grid.cols) != (exact.height // _MULTIPLE, exact.width // _MULTIPLE):
            return own
        return {**own, **EXACT[exact.task]().labels(exact, score.exact, grid)}

    def region(
        self, sample: Sample, name: str, grid: TokenGrid, *, frames: int | Sequence[int] | slice | None = None
    ) -> tuple[int, ...]:
        """Tokens of a part: "all", "changed" and "unchanged" (between first and final frame), or the exact task's.

        Raises:
            TaskError: no such region, or it is empty.
        """
        exact = clip_of(sample).exact
        if name not in REGIONS:
            if exact is None:
                raise TaskError(f"a folder has no region {name!r}{suggest(name, REGIONS)}; there are: {REGIONS}")
            found: tuple[int, ...] = EXACT[exact.task]().region(exact, name, grid, frames=frames)
            return found
        changed = self._changed(sample, grid)
        mask = {"all": np.ones_like(changed), "changed": changed, "unchanged": ~changed}[name]
        try:
            chosen = np.atleast_1d(np.arange(grid.frames)[slice(None) if frames is None else frames])
        except IndexError:
            raise TaskError(f"frames={frames}: the video has latent frames 0 to {grid.frames - 1}") from None
        tokens = tuple(int(grid.index(int(f), int(r), int(c))) for f in chosen for r, c in np.argwhere(mask))
        if not tokens:
            raise TaskError(f"region {name!r} is empty in {clip_of(sample).folder}")
        return tokens

    @staticmethod
    def _changed(sample: Sample, grid: TokenGrid) -> np.ndarray:
        clip = clip_of(sample)
        size = (grid.rows * 8, grid.cols * 8)  # enough to see a change in any part of a token
        apart = np.abs(resized(clip.first, size) - resized(clip.final, size)).max(-1) > CHANGED
        return np.asarray(apart.reshape(grid.rows, 8, grid.cols, 8).any((1, 3)))

    @staticmethod
    def _at_own_size(exact: Sample, video: np.ndarray) -> np.ndarray:
        """Frames at the exact problem's size, uint8."""
        return _sized(video, exact.height, exact.width)


def _sized(video: np.ndarray, height: int, width: int) -> np.ndarray:
    """Frames at another size, uint8; as they are where they have it."""
    if video.shape[1:3] == (height, width):
        return video
    frames = [np.rint(_floats(frame) * 255).astype(np.uint8) for frame in video]
    resize = Image.Resampling.BOX  # a multiple repeats pixels, a share of the size averages them
    return np.stack([np.asarray(Image.fromarray(frame).resize((width, height), resize)) for frame in frames])


def _floats(frame: np.ndarray) -> np.ndarray:
    return np.asarray(frame.astype(np.float32) / 255 if frame.dtype == np.uint8 else np.clip(frame, 0, 1))


def clip_of(sample: Sample) -> Clip:
    """The sample's clip.

    Raises:
        TaskError: the sample is of another task.
    """
    if not isinstance(sample.problem, Clip):
        raise TaskError(
            f"a sample of task {sample.task!r} comes from no folder; use tasks.get('vbvr', path=...).sample()"
        )
    return sample.problem
