"""Reads bytes of one site of one file; every block is checked against its checksum the first time it is met."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from interp.errors import StoreError
from interp.store.blocks import BlockPlan
from interp.store.disk import open_read, pread_into

SPAN = 1 << 24
"""Bytes read before they are checked; bounds the memory for blocks that are wanted in part."""


@dataclass(frozen=True)
class Identity:
    """What tells a file from another that took its place."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @staticmethod
    def of(fd: int) -> Identity:
        """The identity of an open file."""
        stat = os.fstat(fd)
        return Identity(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


class Source:
    """A file of a store, opened anew for each use and known by its identity.

    Args:
        path: the file.
        name: how errors call it, as "run 3f2a…".
        remedy: what errors tell the user to do.
    """

    def __init__(self, path: Path, name: str, remedy: str) -> None:
        self.path, self.name, self.remedy = path, name, remedy
        self._identity: Identity | None = None

    def open(self) -> int:
        """A descriptor to be closed by the caller.

        Raises:
            StoreError: the file is missing, is not a plain file, or is another than at first.
        """
        try:
            fd = open_read(self.path)
        except FileNotFoundError:
            self.refuse("is missing")
        except OSError as error:
            self.refuse(f"cannot be read: {error.strerror}")
        identity = Identity.of(fd)
        if self._identity is None:
            self._identity = identity
        elif self._identity != identity:
            os.close(fd)
            self.refuse("has changed since it was opened")
        return fd

    def refuse(self, why: str) -> NoReturn:
        """Raise the one sentence that says which file is no good and what to do."""
        raise StoreError(f"{self.name}: {self.path} {why}; {self.remedy}") from None


class Extent:
    """The bytes of one site.

    Args:
        source: file.
        offset: first byte of the site in it.
        plan: cells and blocks.
        checksums: gives the blocks' checksums, uint64 [block]; called once, at the first read.
        describe: says what lies in cells first to last, as "site blocks.0.hook_resid_post, step 3, branch cond".
    """

    def __init__(
        self,
        source: Source,
        offset: int,
        plan: BlockPlan,
        checksums: Callable[[int], np.ndarray],
        describe: Callable[[int, int], str],
    ) -> None:
        self.source, self.offset, self.plan = source, offset, plan
        self._load, self._describe = checksums, describe
        self._sums: np.ndarray | None = None
        self._good = np.zeros(plan.count, bool)

    def read(self, fd: int, start: int, out: memoryview) -> None:
        """Fill ``out`` with the bytes from ``start`` on.

        Args:
            fd: from ``source.open()``.
            start: byte in the site.
            out: contiguous bytes.

        Raises:
            StoreError: a block is damaged or the file ends early; the error names file, run and block.
        """
        stop = start + out.nbytes
        blocks = self.plan.covering(start, stop)
        if self._good[blocks.start : blocks.stop].all():
            self._fill(fd, out, start)
            return
        at = start
        while at < stop:
            first = self.plan.covering(at, at + 1).start
            a, b = self.plan.bounds(first)
            if at > a or stop < b:  # wanted in part
                scratch = memoryview(bytearray(b - a))
                self._checked(fd, first, a, scratch)
                until = min(b, stop)
                out[at - start : until - start] = scratch[at - a : until - a]
            else:
                until = self._whole_until(first, min(stop, a + SPAN), b)
                self._checked(fd, first, a, out[a - start : until - start])
            at = until

    def check(self, fd: int) -> None:
        """Read and check every block.

        Raises:
            StoreError: as `read`.
        """
        buffer = memoryview(bytearray(min(SPAN, self.plan.nbytes)))
        at = 0
        self._good[:] = False
        while at < self.plan.nbytes:
            first = self.plan.covering(at, at + 1).start
            until = self._whole_until(first, min(at + buffer.nbytes, self.plan.nbytes), self.plan.bounds(first)[1])
            self._checked(fd, first, at, buffer[: until - at])
            at = until

    def _whole_until(self, first: int, limit: int, end: int) -> int:
        """The end of the last block that ends at or before ``limit``, but at least that of block ``first``."""
        last = self.plan.covering(limit - 1, limit).start
        a, b = self.plan.bounds(last)
        return max(end, b if b <= limit else a) if last > first else end

    def _checked(self, fd: int, first: int, start: int, out: memoryview) -> None:
        """Fill ``out`` with whole blocks from block ``first`` on, and check them."""
        self._fill(fd, out, start)
        if self._sums is None:
            self._sums = self._load(fd)
        sums = self.plan.checksums(start, out)
        wrong = np.flatnonzero(sums != self._sums[first : first + len(sums)])
        if len(wrong):
            block = first + int(wrong[0])
            a, b = self.plan.bounds(block)
            cells = self._describe(a // self.plan.cell_nbytes, (b - 1) // self.plan.cell_nbytes)
            self.source.refuse(
                f"is damaged: block {block} of {cells} (byte {self.offset + a}) does not match its checksum"
            )
        self._good[first : first + len(sums)] = True

    def _fill(self, fd: int, out: memoryview, start: int) -> None:
        try:
            pread_into(fd, out, self.offset + start)
        except (EOFError, OSError) as error:
            self.source.refuse(f"cannot be read at byte {self.offset + start}: {error}")
