"""The token grid of a video, and the way between pixels and tokens.

A token is one patch of latents; tokens are numbered row-major over (frame, row, col). The causal VAE keeps pixel
frame 0 alone in latent frame 0 and packs ``vae_temporal`` pixel frames in every later one: latent frame k >= 1 holds
pixel frames 4k-3 to 4k at Wan's stride of 4. Everything here is arithmetic; no tensor and no model is needed.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from interp.errors import SelectionError


@dataclass(frozen=True)
class TokenGrid:
    """Tokens of one video.

    Attributes:
        frames, rows, cols: tokens along each axis.
        patch: latent frames, rows and columns that make one token.
        vae_spatial: pixels per latent pixel, each way.
        vae_temporal: pixel frames per latent frame after the first.
    """

    frames: int
    rows: int
    cols: int
    patch: tuple[int, int, int] = (1, 2, 2)
    vae_spatial: int = 8
    vae_temporal: int = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "patch", tuple(self.patch))
        numbers = (self.frames, self.rows, self.cols, *self.patch, self.vae_spatial, self.vae_temporal)
        if len(numbers) != 8 or min(numbers) < 1:
            raise SelectionError(
                f"{self!r}: frames, rows, cols, the three patch sizes and the VAE strides are all 1 or more"
            )

    @classmethod
    def from_latents(
        cls,
        shape: Sequence[int],
        *,
        patch: tuple[int, int, int] = (1, 2, 2),
        vae_spatial: int = 8,
        vae_temporal: int = 4,
    ) -> TokenGrid:
        """The grid of latents of ``shape`` [..., latent_frame, latent_row, latent_col]; leading axes are ignored.

        Raises:
            SelectionError: a size is no multiple of the patch.
        """
        if len(shape) < 3:
            raise SelectionError(f"latents of shape {tuple(shape)} have no [latent_frame, latent_row, latent_col]")
        sizes = tuple(int(n) for n in shape[-3:])
        if any(size % side for size, side in zip(sizes, patch, strict=True)):
            raise SelectionError(
                f"latents of {sizes} frames, rows and columns do not split into patches of {tuple(patch)}"
            )
        frames, rows, cols = (size // side for size, side in zip(sizes, patch, strict=True))
        return cls(frames, rows, cols, patch, vae_spatial, vae_temporal)

    @classmethod
    def from_video(
        cls,
        num_frames: int,
        height: int,
        width: int,
        *,
        patch: tuple[int, int, int] = (1, 2, 2),
        vae_spatial: int = 8,
        vae_temporal: int = 4,
    ) -> TokenGrid:
        """The grid of a video of ``num_frames`` frames of ``height`` x ``width`` pixels.

        Raises:
            SelectionError: the frames are not 1 + a multiple of the VAE's stride, or a size does not split in patches.
        """
        if num_frames < 1 or (num_frames - 1) % vae_temporal:
            raise SelectionError(f"{num_frames} frames do not fit the VAE; use 1 + a multiple of {vae_temporal}")
        if height % vae_spatial or width % vae_spatial:
            raise SelectionError(f"{height} x {width} pixels do not fit the VAE; use multiples of {vae_spatial}")
        latents = ((num_frames - 1) // vae_temporal + 1, height // vae_spatial, width // vae_spatial)
        return cls.from_latents(latents, patch=patch, vae_spatial=vae_spatial, vae_temporal=vae_temporal)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(frames, rows, cols)."""
        return self.frames, self.rows, self.cols

    @property
    def tokens(self) -> int:
        """How many tokens there are."""
        return self.frames * self.rows * self.cols

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Latent frames, rows and columns."""
        t, h, w = self.patch
        return self.frames * t, self.rows * h, self.cols * w

    @property
    def num_frames(self) -> int:
        """Pixel frames of the video."""
        return (self.latent_shape[0] - 1) * self.vae_temporal + 1

    @property
    def height(self) -> int:
        """Pixel rows of the video."""
        return self.latent_shape[1] * self.vae_spatial

    @property
    def width(self) -> int:
        """Pixel columns of the video."""
        return self.latent_shape[2] * self.vae_spatial

    def as_dict(self) -> dict[str, Any]:
        """The fields, for files; ``TokenGrid(**grid.as_dict())`` is the grid again."""
        return dataclasses.asdict(self)

    def index(self, frame: int, row: int, col: int) -> int:
        """The token at (frame, row, col); negative numbers count from the end.

        Raises:
            SelectionError: outside the grid.
        """
        f, r, c = (
            _within(asked, size, name)
            for asked, size, name in zip((frame, row, col), self.shape, ("frame", "row", "col"), strict=True)
        )
        return (f * self.rows + r) * self.cols + c

    def coords(self, token: int) -> tuple[int, int, int]:
        """(frame, row, col) of a token.

        Raises:
            SelectionError: there is no such token.
        """
        rest, col = divmod(_within(token, self.tokens, "token"), self.cols)
        frame, row = divmod(rest, self.rows)
        return frame, row, col

    def array(self) -> np.ndarray:
        """Token numbers as int64 [frame, row, col]."""
        return np.arange(self.tokens).reshape(self.shape)

    def latent_frame_of(self, pixel_frame: int) -> int:
        """The latent frame that holds a pixel frame.

        Raises:
            SelectionError: the video has no such frame.
        """
        frame = _within(pixel_frame, self.num_frames, "pixel frame")
        return -(-frame // self.vae_temporal)

    def frame_of(self, pixel_frame: int) -> int:
        """The token frame that holds a pixel frame: its latent frame, over the patch's frames (1 in every Wan)."""
        return self.latent_frame_of(pixel_frame) // self.patch[0]

    def pixel_frames_of(self, latent_frame: int) -> range:
        """The pixel frames in a latent frame: 0 alone in the first, then ``vae_temporal`` each.

        Raises:
            SelectionError: there is no such latent frame.
        """
        frame = _within(latent_frame, self.latent_shape[0], "latent frame")
        if frame == 0:
            return range(1)
        return range((frame - 1) * self.vae_temporal + 1, frame * self.vae_temporal + 1)

    def pixel_box_of(self, token: int) -> tuple[range, int, int, int, int]:
        """What a token covers: (pixel frames, top, left, bottom, right), bottom and right not included."""
        frame, row, col = self.coords(token)
        first, last = frame * self.patch[0], (frame + 1) * self.patch[0] - 1
        frames = range(self.pixel_frames_of(first).start, self.pixel_frames_of(last).stop)
        high, wide = self.patch[1] * self.vae_spatial, self.patch[2] * self.vae_spatial
        return frames, row * high, col * wide, (row + 1) * high, (col + 1) * wide

    def tokens_in_box(
        self, top: int, left: int, bottom: int, right: int, pixel_frames: Sequence[int] | None = None
    ) -> tuple[int, ...]:
        """Tokens that a pixel box touches, in order.

        Args:
            top, left, bottom, right: pixels; bottom and right are not included.
            pixel_frames: frames of the video, all of them if None.

        Raises:
            SelectionError: the box is empty or reaches outside the video.
        """
        if not (0 <= top < bottom <= self.height and 0 <= left < right <= self.width):
            raise SelectionError(
                f"box (top {top}, left {left}, bottom {bottom}, right {right}) is empty or not inside the "
                f"{self.height} x {self.width} pixels of the video"
            )
        every = range(self.num_frames) if pixel_frames is None else pixel_frames
        frames = sorted({self.frame_of(frame) for frame in every})
        high, wide = self.patch[1] * self.vae_spatial, self.patch[2] * self.vae_spatial
        rows = slice(top // high, -(-bottom // high))
        cols = slice(left // wide, -(-right // wide))
        return tuple(self.array()[frames, rows, cols].ravel().tolist())

    def tokens_in_mask(self, mask: Any, cover: float = 0.0) -> tuple[int, ...]:
        """Tokens that a mask covers, in order.

        Args:
            mask: anything numpy reads as [row, col] (the same in all frames) or [pixel_frame, row, col], at the video's
                size in pixels; whatever is not zero is inside.
            cover: a token counts if more than this share of its pixels is inside; 0 takes every token touched.

        Raises:
            SelectionError: the mask has another size than the video.
        """
        inside = np.asarray(mask) != 0
        plane = (self.height, self.width)
        if inside.shape not in (plane, (self.num_frames, *plane)):
            raise SelectionError(
                f"a mask of shape {inside.shape} does not fit; give [row, col] = {plane} "
                f"or [pixel_frame, row, col] = {(self.num_frames, *plane)}"
            )
        high, wide = self.patch[1] * self.vae_spatial, self.patch[2] * self.vae_spatial
        video = np.broadcast_to(inside, (self.num_frames, *plane)) if inside.ndim == 2 else inside
        share = video.reshape(-1, self.rows, high, self.cols, wide).mean((2, 4))
        starts = [self.pixel_frames_of(f * self.patch[0]).start for f in range(self.frames)]
        frames = np.diff([*starts, self.num_frames])[:, None, None]
        covered = np.add.reduceat(share, starts, axis=0) / frames > cover
        return tuple(np.flatnonzero(covered).tolist())


def _within(asked: int, size: int, name: str) -> int:
    """A Python index made non-negative, or an error that names the range."""
    try:
        index = operator.index(asked)
    except TypeError:
        raise SelectionError(f"{name} {asked!r} is not a whole number") from None
    if not -size <= index < size:
        raise SelectionError(f"{name} {index} is out of range: there are {size} ({name}s 0 to {size - 1})")
    return index % size
