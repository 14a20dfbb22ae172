"""The maze task: seeded problems, their scores, labels to probe for, and regions of the token grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from interp.errors import TaskError, suggest
from interp.grid import TokenGrid
from interp.tasks import blocks
from interp.tasks.maze import labels, regions
from interp.tasks.maze.draw import Kind, draw_pair, draw_samples
from interp.tasks.maze.maze import Maze, Route
from interp.tasks.maze.render import BLOCK, NUM_FRAMES, first_frame, render_symbols, to_pixels, to_rgb
from interp.tasks.maze.score import MazeScore, score_blocks, score_symbols, score_video
from interp.tasks.sample import Sample

PROMPTS = {
    "trail": "the green agent moves from start to the red goal and draws a blue trail along the shortest path .",
    "plain": "the green agent moves from start to the red goal along the shortest path without a trail .",
}
SIZES = range(4, 9)


@dataclass(frozen=True)
class MazeTask:
    """Mazes of one kind.

    Attributes:
        size: cells per side, 4 to 8.
        openings: probability that a wall outside the spanning tree is opened; openings make several routes.
        min_moves, max_moves: bounds on the length of the shortest route; a video of 17 frames shows 16 moves.
        prompt: "trail" asks for a blue trail, "plain" for the agent alone.
    """

    size: int = 5
    openings: float = 0.15
    min_moves: int = 3
    max_moves: int = NUM_FRAMES - 1
    prompt: str = "trail"

    name = "maze"

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise TaskError(f"size={self.size}: mazes have {SIZES.start} to {SIZES.stop - 1} cells a side")
        if not 0 <= self.openings <= 1:
            raise TaskError(f"openings={self.openings} is not a probability; give a number from 0 to 1")
        if not 1 <= self.min_moves <= self.max_moves < NUM_FRAMES:
            raise TaskError(
                f"min_moves={self.min_moves}, max_moves={self.max_moves}: wanted 1 <= min_moves <= max_moves <= "
                f"{NUM_FRAMES - 1}, what a video of {NUM_FRAMES} frames can show"
            )
        if self.prompt not in PROMPTS:
            raise TaskError(
                f"prompt={self.prompt!r} is not known{suggest(self.prompt, PROMPTS)}; there are: {', '.join(PROMPTS)}"
            )

    @classmethod
    def options(cls) -> tuple[str, ...]:
        """Names of the options."""
        return tuple(field.name for field in dataclasses.fields(cls))

    def sample(self, n: int, seed: int = 0, *, fork: bool = False, apart: int = 2) -> list[Sample]:
        """``n`` different mazes.

        Sample k depends on the options, the seed and k alone, so that ``sample(10)`` begins with ``sample(5)``. No
        maze comes twice, and none from the numbers that the bundled model was trained on.

        Args:
            n: how many.
            seed: another seed gives other mazes.
            fork: only mazes with exactly two equally short routes.
            apart: of forks, only those in which so many cells or more lie on just one of the two routes. Two of three
                forks are a little square, 2 cells apart.

        Raises:
            TaskError: there are not ``n`` such mazes, or they are too rare to be found.
        """
        return [self.wrap(maze) for maze in draw_samples(self._kind, n, seed, fork=fork, apart=apart)]

    def pair(self, seed: int = 0) -> tuple[Sample, Sample]:
        """Two mazes that differ in one wall and have different answers: (clean, corrupt).

        Start and goal are the same, each has exactly one shortest route, and every cell of both can be reached. The
        corrupt maze has the wall that its ``meta["toggled"]`` names opened or closed.
        """
        clean, corrupt, wall = draw_pair(self._kind, seed)
        return self.wrap(clean), self.wrap(corrupt, toggled=list(wall))

    @property
    def _kind(self) -> Kind:
        return Kind(self.size, self.openings, self.min_moves, self.max_moves)

    def wrap(self, maze: Maze, **meta: Any) -> Sample:
        """A maze of your own as a sample of this task."""
        pixels = 2 * maze.size * BLOCK
        return Sample(
            task=self.name,
            key=maze.key,
            prompt=PROMPTS[self.prompt],
            image=first_frame(maze),
            problem=maze,
            height=pixels,
            width=pixels,
            num_frames=NUM_FRAMES,
            meta={"maze": maze.describe(), "prompt": self.prompt, "routes": len(maze.routes), **meta},
        )

    @staticmethod
    def restore(meta: Mapping[str, Any]) -> Sample:
        """The sample whose ``meta`` this is: from a store's provenance back to the maze, without the model."""
        maze = Maze.from_description(meta["maze"])
        extra = {k: v for k, v in meta.items() if k not in ("maze", "prompt", "routes")}
        return MazeTask(size=maze.size, prompt=meta["prompt"]).wrap(maze, **extra)

    def score(self, sample: Sample, video: np.ndarray) -> MazeScore:
        """What a video, or a decoded x0_hat, says about the sample's maze.

        Args:
            sample: the problem; whether a trail was asked for is its own affair, not this task's option.
            video: pixels [frame, row, col, rgb] (uint8, or float in 0..1), block colours
                [frame, block_row, block_col, rgb] (float in 0..1), or block symbols [frame, block_row, block_col]. One
                frame is enough for the path of a trail; ``agent_legal`` then speaks of that frame alone.

        Raises:
            TaskError: the shape fits none of these.
        """
        maze, trail = maze_of(sample), sample.meta["prompt"] == "trail"
        side = 2 * maze.size
        if video.ndim == 3 and video.shape[1:] == (side, side) and np.issubdtype(video.dtype, np.integer):
            return score_symbols(maze, video, trail=trail)
        if video.ndim == 4 and video.shape[1:] == (side, side, 3):
            return score_blocks(maze, video, trail=trail)
        return score_video(maze, video, trail=trail)

    def score_many(self, samples: Sequence[Sample], videos: Sequence[np.ndarray] | np.ndarray) -> list[MazeScore]:
        """`score` of each sample with its video."""
        if len(samples) != len(videos):
            raise TaskError(f"{len(samples)} samples cannot be scored on {len(videos)} videos; give one each")
        return [self.score(sample, video) for sample, video in zip(samples, videos, strict=True)]

    def answer(self, sample: Sample, video: np.ndarray | None = None) -> Route:
        """Cells of the answer in order: of the video, () when it has none, or the first shortest route without one."""
        return maze_of(sample).routes[0] if video is None else self.score(sample, video).path

    def candidates(self, sample: Sample) -> tuple[Route, ...]:
        """The possible answers: every shortest route."""
        return maze_of(sample).routes

    def render(self, sample: Sample, answer: int = 0) -> np.ndarray:
        """The video of a shortest route, by its number: uint8 pixels [frame, row, col, rgb]."""
        return to_pixels(self._symbols(sample, maze_of(sample).routes[answer]))

    def evidence(self, sample: Sample, video: np.ndarray, candidates: Sequence[Route] | None = None) -> np.ndarray:
        """How strongly the last frame shows each of several routes; see `interp.tasks.blocks.evidence`.

        Args:
            sample: the problem.
            video: pixels [frame, row, col, rgb] or block colours [frame, block_row, block_col, rgb].
            candidates: the routes, such as the answers of both mazes of a pair; all shortest ones by default.

        Returns:
            float [candidate]; NaN for a route without a block of its own, as where there is only one.
        """
        maze = maze_of(sample)
        routes = maze.routes if candidates is None else candidates
        endings = np.stack([to_rgb(self._symbols(sample, route)[-1]) for route in routes])
        what = f"a {maze.size}x{maze.size} maze"
        return blocks.evidence(blocks.block_colours(video[-1:], 2 * maze.size, 2 * maze.size, what)[0], endings)

    def margin(self, sample: Sample, video: np.ndarray, candidates: Sequence[Route] | None = None) -> float:
        """Evidence of the first candidate less that of the strongest other one, in -1..1; NaN if there is only one."""
        found = self.evidence(sample, video, candidates)
        return float(found[0] - found[1:].max()) if len(found) > 1 else float("nan")

    @staticmethod
    def _symbols(sample: Sample, route: Route) -> np.ndarray:
        return render_symbols(maze_of(sample), route, trail=sample.meta["prompt"] == "trail")

    def labels(self, sample: Sample, score: MazeScore, grid: TokenGrid) -> dict[str, Any]:
        """Everything to probe for in one run; see `interp.tasks.maze.labels` for the names.

        Returns:
            Sample-level scalars, and token-level float arrays [frame, row, col] with NaN where a label does not apply.
        """
        maze = maze_of(sample)
        return {**labels.sample_labels(maze, score), **labels.token_labels(maze, score, grid)}

    def region(
        self, sample: Sample, name: str, grid: TokenGrid, *, frames: int | Sequence[int] | slice | None = None
    ) -> tuple[int, ...]:
        """Tokens of a part of the maze, row-major.

        Args:
            sample: the problem.
            name: "start", "goal", "path" (cells of any shortest route), "fork" (cells of some shortest routes but not
                of all), "off_path", "all", or "cell i,j".
            grid: the token grid of the sample's video.
            frames: latent frames (negative ones count from the end); all by default.

        Raises:
            TaskError: no such region, or it is empty in this maze.
        """
        return regions.tokens(maze_of(sample), name, grid, frames)


def maze_of(sample: Sample) -> Maze:
    """The sample's maze.

    Raises:
        TaskError: the sample is of another task.
    """
    if not isinstance(sample.problem, Maze):
        raise TaskError(f"a sample of task {sample.task!r} is no maze; make samples with tasks.get('maze').sample(n)")
    return sample.problem
