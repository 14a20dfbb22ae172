"""One sample of VBVR layout on disk: a folder of ``first_frame.png, final_frame.png, ground_truth.mp4, prompt.txt``.

Folders that `write_folder` makes hold one file more, ``sample.json``, from which the exact problem comes back; their
video is lossless (RGB H.264), so that a round trip gives the same frames to the bit. Other readers ignore the file.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from interp.errors import TaskError
from interp.tasks.maze import MazeTask
from interp.tasks.maze.read import read_maze
from interp.tasks.sample import Sample
from interp.tasks.scene import BounceTask, GroundingTask, ReappearanceTask

FILES = ("first_frame.png", "final_frame.png", "ground_truth.mp4", "prompt.txt")
EXACT: dict[str, Any] = {t.name: t for t in (MazeTask, GroundingTask, ReappearanceTask, BounceTask)}
_OURS = "sample.json"
_MOST_FRAMES = 1000
_MOST_BYTES = 2_000_000_000  # of a decoded video
_MOST_TEXT = 20_000
FPS = 8
_PPM = re.compile(rb"P6\s+(\d+)\s+(\d+)\s+255\s")


@dataclass(frozen=True)
class Clip:
    """What a folder says.

    Attributes:
        folder: where it is.
        prompt: its text.
        first, final: uint8 [row, col, rgb].
        exact: the exact problem as a sample of its own task, where it is known; else None.
    """

    folder: Path
    prompt: str
    first: np.ndarray = field(repr=False, compare=False)
    final: np.ndarray = field(repr=False, compare=False)
    exact: Sample | None = None

    @property
    def video(self) -> np.ndarray:
        """The ground truth: uint8 [frame, row, col, rgb], read-only. It is decoded when asked for; a few are kept.

        Raises:
            TaskError: the file is no video, has other frames than the pictures' size, or far too many.
        """
        path = self.folder / "ground_truth.mp4"
        if not path.is_file():
            raise TaskError(f"{path} is not there any more")
        return _read_video(path, self.first.shape[:2], path.stat().st_mtime_ns)

    @cached_property
    def frames(self) -> int:
        """Frames of the ground truth.

        Raises:
            TaskError: see `video`.
        """
        return _count_frames(self.folder / "ground_truth.mp4", self.first.shape[:2])

    @cached_property
    def key(self) -> str:
        """Content hash of the first frame."""
        shape = str(self.first.shape).encode()
        return hashlib.sha256(shape + self.first.tobytes()).hexdigest()[:16]


def find_folders(path: Path) -> list[Path]:
    """Sample folders at or below a path, sorted: every folder that holds any of the layout's files.

    Raises:
        TaskError: there is no such folder, or none below it.
    """
    if not path.is_dir():
        raise TaskError(f"{path} is no folder; give one in VBVR layout, with samples of {', '.join(FILES)} below it")
    found = {file.parent for name in FILES for file in path.rglob(name)}
    if not found:
        raise TaskError(f"no sample lies at or below {path}: there is no {', '.join(FILES[:-1])} or {FILES[-1]}")
    return sorted(found)


def read_folder(folder: Path) -> Clip:
    """Read one sample folder; its video is opened, and decoded later.

    Raises:
        TaskError: a file is missing, cannot be read, or does not fit the others.
    """
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise TaskError(f"{folder} is incomplete: {', '.join(missing)} missing")
    first, final = (_read_picture(folder / name) for name in FILES[:2])
    if first.shape != final.shape:
        raise TaskError(f"{folder}: the first frame is {first.shape[:2]} pixels, the final one {final.shape[:2]}")
    prompt = _read_text(folder / "prompt.txt").strip()
    if not prompt:
        raise TaskError(f"{folder / 'prompt.txt'} is empty")
    return Clip(folder, prompt, first, final, _exact(folder, prompt, first, final))


def write_folder(folder: Path, sample: Sample, video: np.ndarray) -> Path:
    """Write a sample and the video of its answer as a folder.

    Args:
        folder: made if missing; files of the layout in it are replaced.
        sample: with prompt and first frame.
        video: uint8 [frame, row, col, rgb]; its first frame is the sample's picture.

    Raises:
        TaskError: the video is of another size or kind, or does not begin with the sample's picture.
    """
    if video.dtype != np.uint8 or video.shape[1:] != (sample.height, sample.width, 3):
        raise TaskError(
            f"wanted uint8 frames of [frame, {sample.height}, {sample.width}, 3], got {video.dtype} {video.shape}"
        )
    if sample.image is None or not np.array_equal(np.asarray(sample.image.convert("RGB")), video[0]):
        raise TaskError("the video does not begin with the sample's picture")
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(video[0]).save(folder / "first_frame.png")
    Image.fromarray(video[-1]).save(folder / "final_frame.png")
    (folder / "prompt.txt").write_text(sample.prompt + "\n", encoding="utf-8")
    _write_video(folder / "ground_truth.mp4", video)
    if sample.task in EXACT:
        (folder / _OURS).write_text(json.dumps({"task": sample.task, "meta": dict(sample.meta)}, indent=1) + "\n")
    return folder


def _exact(folder: Path, prompt: str, first: np.ndarray, final: np.ndarray) -> Sample | None:
    """The exact problem: told by our own file, or a maze that can be read off the picture."""
    told = folder / _OURS
    if told.is_file():
        try:
            described = json.loads(_read_text(told))
            sample: Sample = EXACT[described["task"]].restore(described["meta"])
        except (KeyError, TypeError, ValueError, AttributeError, TaskError) as error:
            raise TaskError(f"{told} does not describe a sample of this package: {error!r}") from error
        if not np.array_equal(np.asarray(sample.image), first):
            raise TaskError(f"{told} describes another problem than {folder / 'first_frame.png'} shows")
        return sample
    maze = read_maze(first)
    if maze is None:
        return None
    blue = (final.astype(int) - first)[..., 0].min() < -128  # a trail takes the red out of white
    task = MazeTask(size=maze.size, prompt="trail" if blue and "without a trail" not in prompt else "plain")
    return task.wrap(maze)


def _read_text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_MOST_TEXT + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{path} cannot be read as UTF-8 text: {error}") from error
    if len(text) > _MOST_TEXT:
        raise TaskError(f"{path} is longer than {_MOST_TEXT} characters")
    return text


def _read_picture(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise TaskError(f"{path} cannot be read as a picture: {error}") from error


@lru_cache(maxsize=4)
def _read_video(path: Path, size: tuple[int, ...], changed_at: int) -> np.ndarray:
    """All frames; ``changed_at`` tells a file that was replaced from the one that was kept."""
    count = _count_frames(path, size)
    stream = _ffmpeg(path, ["-i", str(path), "-frames:v", str(count), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"])
    if len(stream) != count * size[0] * size[1] * 3:
        raise TaskError(f"{path} cannot be read as a video: its frames are not all there")
    return np.frombuffer(stream, dtype=np.uint8).reshape(count, *size, 3)


def _count_frames(path: Path, size: tuple[int, ...]) -> int:
    """Frames of a video, after a look at the size of its first: a PPM picture, which names it."""
    header = _PPM.match(_ffmpeg(path, ["-i", str(path), "-frames:v", "1", "-f", "image2pipe", "-c:v", "ppm", "-"]))
    if header is None:
        raise TaskError(f"{path} cannot be read as a video: it has no frames")
    width, height = int(header[1]), int(header[2])
    if (height, width) != tuple(size):
        raise TaskError(f"{path} has frames of {(height, width)} pixels, its pictures have {tuple(size)}")
    most = min(_MOST_FRAMES, _MOST_BYTES // (height * width * 3))
    small = ["-vf", "scale=2:2", "-frames:v", str(most + 1), "-f", "rawvideo", "-pix_fmt", "gray", "-"]
    count = len(_ffmpeg(path, ["-i", str(path), *small])) // 4
    if count > most:
        raise TaskError(f"{path} has more than {most} frames, too many to be held in memory at this size")
    return count


def _write_video(path: Path, video: np.ndarray) -> None:
    shape = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{video.shape[2]}x{video.shape[1]}", "-r", str(FPS)]
    _ffmpeg(path, [*shape, "-i", "-", "-c:v", "libx264rgb", "-crf", "0", "-y", str(path)], video.tobytes())


def _ffmpeg(path: Path, arguments: list[str], data: bytes = b"") -> bytes:
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error", *arguments]
    if data:
        command.remove("-nostdin")
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise TaskError(f"{path} cannot be read as a video: {said[-1] if said else 'ffmpeg failed'}")
    return done.stdout
