"""Regions in pixels: boxes and masks, kept as they were said until the token grid is known."""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from interp.address.picks import Picks
from interp.errors import SelectionError
from interp.grid import TokenGrid

_PIXELS = re.compile(r"\s*(-?[0-9]{1,9})\s*")
_MASK = re.compile(r"((?:[0-9]{1,5}x){1,2}[0-9]{1,5}):([A-Za-z0-9_-]+)")
LARGEST_MASK = 2**31  # pixels


def _image_at(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("L")
    except (OSError, ValueError) as error:
        raise SelectionError(
            f"mask={path}: no image can be read there ({error}), and it is not the text of a mask, which is "
            "ROWSxCOLS:BITS"
        ) from None


@dataclass(frozen=True)
class PixelBox:
    """A box in pixels over some frames of the video.

    Attributes:
        frames: pixel frames; None for all.
        top, left, bottom, right: pixels; bottom and right are not included.
    """

    frames: Picks | None
    top: int
    left: int
    bottom: int
    right: int

    @classmethod
    def of(cls, said: Any) -> PixelBox:
        """From a `PixelBox`, its text, (top, left, bottom, right) or (frames, top, left, bottom, right).

        Raises:
            SelectionError: anything else, or a box without pixels.
        """
        if isinstance(said, PixelBox):
            return said
        if isinstance(said, str):
            return cls.parse(said)
        if not isinstance(said, Sequence) or len(said) not in (4, 5):
            raise SelectionError(f"box={said!r}: give (top, left, bottom, right) or (frames, top, left, bottom, right)")
        frames = None if len(said) == 4 or said[0] is None else Picks.of(said[0], "box frames")
        edges = [Picks.of(edge, "box") for edge in said[-4:]]
        if any(len(edge.numbers) != 1 or edge.spans for edge in edges):
            raise SelectionError(f"box={said!r}: top, left, bottom and right are whole numbers of pixels")
        return cls._checked(frames, *(edge.numbers[0] for edge in edges))

    @classmethod
    def parse(cls, text: str) -> PixelBox:
        """From text such as "{0:5;8;8;24;24}"; see `of`."""
        inner = text.strip()
        fields = inner[1:-1].split(";") if inner.startswith("{") and inner.endswith("}") else []
        edges = [found for field in fields[-4:] if (found := _PIXELS.fullmatch(field))]
        if len(fields) not in (4, 5) or len(edges) != 4:
            raise SelectionError(
                f"box={text}: write box={{top;left;bottom;right}} or box={{frames;top;left;bottom;right}}"
            )
        frames = Picks.parse(fields[0], "box frames") if len(fields) == 5 else None
        return cls._checked(frames, *(int(edge[1]) for edge in edges))

    @classmethod
    def _checked(cls, frames: Picks | None, top: int, left: int, bottom: int, right: int) -> PixelBox:
        if not (0 <= top < bottom and 0 <= left < right):
            raise SelectionError(
                f"box (top {top}, left {left}, bottom {bottom}, right {right}) has no pixels; bottom and right are not "
                "included, and negative pixels do not exist"
            )
        return cls(frames, top, left, bottom, right)

    def tokens(self, grid: TokenGrid) -> tuple[int, ...]:
        """Tokens that the box touches."""
        frames = None if self.frames is None else self.frames.resolve(grid.num_frames, "pixel frame", "the video")
        return grid.tokens_in_box(self.top, self.left, self.bottom, self.right, frames)

    def __str__(self) -> str:
        frames = [] if self.frames is None else [str(self.frames)]
        return "{" + ";".join([*frames, *map(str, (self.top, self.left, self.bottom, self.right))]) + "}"


@dataclass(frozen=True)
class PixelMask:
    """A mask over the pixels of the video.

    Attributes:
        shape: (rows, cols), the same in every frame, or (pixel frames, rows, cols).
        bits: the mask in row-major order, packed by ``numpy.packbits``.
    """

    shape: tuple[int, ...]
    bits: bytes

    @classmethod
    def of(cls, said: Any) -> PixelMask:
        """From a `PixelMask`, its text, an array (not zero is inside), an image (brighter than the middle is inside) or
        the path of one.

        Raises:
            SelectionError: not a mask, or one with nothing inside.
        """
        if isinstance(said, PixelMask):
            return said
        if isinstance(said, str) and _MASK.fullmatch(said.strip()):
            return cls.parse(said)
        if isinstance(said, Path | str):
            return cls.of(_image_at(Path(said)))
        if hasattr(said, "convert") and hasattr(said, "getbands"):
            array = np.asarray(said.convert("L")) >= 128
        else:
            try:
                array = np.asarray(said)
            except ValueError:
                raise SelectionError("mask: the rows of the mask differ in length") from None
            if array.dtype.kind not in "biuf":
                raise SelectionError(
                    f"mask={type(said).__name__}: give an array of numbers, an image or the path of one"
                )
            array = array != 0
        if array.ndim not in (2, 3):
            raise SelectionError(
                f"a mask of shape {array.shape} does not fit; give [row, col] or [pixel_frame, row, col]"
            )
        if not array.any():
            raise SelectionError("the mask is empty: no pixel of it is inside")
        if max(array.shape) > 99999 or array.size > LARGEST_MASK:
            raise SelectionError(f"a mask of shape {array.shape} is too large")
        return cls(array.shape, np.packbits(array).tobytes())

    @classmethod
    def parse(cls, text: str) -> PixelMask:
        """From text such as "64x64:eJz..."; see `of`."""
        broken = SelectionError(
            f"mask={text[:40]}: not a mask; print a selection that was made from an image to get one"
        )
        found = _MASK.fullmatch(text.strip())
        if found is None:
            raise broken
        shape = tuple(int(n) for n in found[1].split("x"))
        size = int(np.prod(shape, dtype=object))
        if not 0 < size <= LARGEST_MASK:
            raise broken
        wanted = -(-size // 8)
        try:
            packed = base64.urlsafe_b64decode(found[2] + "=" * (-len(found[2]) % 4))
            inflate = zlib.decompressobj()
            bits = inflate.decompress(packed, wanted + 1)
        except (binascii.Error, ValueError, zlib.error):
            raise broken from None
        if len(bits) != wanted:
            raise broken
        return cls.of(np.unpackbits(np.frombuffer(bits, np.uint8), count=size).reshape(shape))

    def array(self) -> np.ndarray:
        """The mask: bool [row, col] or [pixel_frame, row, col]."""
        count = int(np.prod(self.shape))
        return np.unpackbits(np.frombuffer(self.bits, np.uint8), count=count).reshape(self.shape).astype(bool)

    def tokens(self, grid: TokenGrid) -> tuple[int, ...]:
        """Tokens with any pixel inside."""
        return grid.tokens_in_mask(self.array())

    def __str__(self) -> str:
        packed = base64.urlsafe_b64encode(zlib.compress(self.bits, 9)).decode().rstrip("=")
        return "x".join(map(str, self.shape)) + ":" + packed
