"""Reads bytes of one site of one file; every block is checked against its checksum the first time it is met."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import numpy as np
from xxhash import xxh3_64, xxh3_64_intdigest

from interp.errors import StoreError
from interp.store.blocks import LARGE, BlockPlan
from interp.store.disk import open_read, pread_into, read_ahead, scatter_into

PIECE = LARGE // 4
"""Bytes of a first read that are fetched, and then checked, at a time: so little is still in the processor's cache."""

SHORT = 8 * LARGE
"""Bytes up to which all pieces of a first read are asked of the disk before the first is fetched. Of a longer read the
system fetches ahead by itself, as soon as it has seen two pieces; asking would take longer than that."""


class Source:
    """A file of a store, opened anew for each use and known by its identity.

    Args:
        path: the file.
        name: how errors call it, as "run 3f2a…".
        remedy: what errors tell the user to do.
    """

    def __init__(self, path: Path, name: str, remedy: str) -> None:
        self.path, self.name, self.remedy = path, name, remedy
        self._path = str(path)
        self._identity: tuple[int, ...] | None = None

    def open(self) -> int:
        """A descriptor to be closed by the caller.

        Raises:
            StoreError: the file is missing, is not a plain file, or is another than at first.
        """
        try:
            fd, found = open_read(self._path)
        except FileNotFoundError:
            self.refuse("is missing")
        except OSError as error:
            self.refuse(f"cannot be read: {error.strerror}")
        identity = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
        if self._identity is None:
            self._identity = identity
        elif self._identity != identity:
            os.close(fd)
            self.refuse("has changed since it was opened")
        return fd

    def refuse(self, why: str) -> NoReturn:
        """Raise the one sentence that says which file is no good and what to do."""
        raise StoreError(f"{self.name}: {self.path} {why}; {self.remedy}") from None


class Row:
    """Stretches of memory as one row of bytes.

    Args:
        views: the stretches.
    """

    def __init__(self, views: list[memoryview]) -> None:
        self._views = [view.cast("B") for view in views if view.nbytes]

    def cut(self, start: int, stop: int) -> list[memoryview]:
        """The bytes from ``start`` to before ``stop``."""
        out, at = [], 0
        for view in self._views:
            a, b = max(start - at, 0), min(stop - at, view.nbytes)
            if a < b:
                out.append(view[a:b])
            at += view.nbytes
        return out

    def xxh3(self, edges: list[int]) -> list[int]:
        """Checksums of the blocks between successive edges."""
        out = []
        views = iter(self._views)
        view, low, high = memoryview(b""), 0, 0
        for a, b in pairwise(edges):
            while a >= high:
                view = next(views)
                low, high = high, high + view.nbytes
            if b <= high:
                out.append(xxh3_64_intdigest(view[a - low : b - low]))
            else:
                hashed = xxh3_64()
                for piece in self.cut(a, b):
                    hashed.update(piece)
                out.append(hashed.intdigest())
        return out


class Extent:
    """The bytes of one site.

    Args:
        source: file.
        offset: first byte of the site in it.
        plan: cells and blocks.
        checksums: gives the blocks' checksums, uint64 [block]; called once, at the first read.
        table: (first byte, bytes) of these in the file.
        describe: says what lies in cells first to last, as "site blocks.0.hook_resid_post, step 3, branch cond".
    """

    def __init__(
        self,
        source: Source,
        offset: int,
        plan: BlockPlan,
        checksums: Callable[[int], np.ndarray],
        table: tuple[int, int],
        describe: Callable[[int, int], str],
    ) -> None:
        self.source, self.offset, self.plan = source, offset, plan
        self._load, self._table, self._describe = checksums, table, describe
        self._sums: np.ndarray | None = None
        self._good = bytearray(plan.count)

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
        if self._good.find(0, blocks.start, blocks.stop) < 0:
            try:
                pread_into(fd, out, self.offset + start)
            except (EOFError, OSError) as error:
                self._refuse(start, error)
            return
        begin, end = self.plan.bounds(blocks.start)[0], self.plan.bounds(blocks.stop - 1)[1]
        # Blocks at the ends may be wanted in part; what is not wanted of them goes beside.
        row = Row([memoryview(bytearray(start - begin)), out, memoryview(bytearray(end - stop))])
        if self._sums is None:
            read_ahead(fd, *self._table)
        if PIECE < end - begin <= SHORT:
            for at in range(begin, end, PIECE):
                read_ahead(fd, self.offset + at, min(PIECE, end - at))
        at, first = begin, blocks.start
        while at < end:
            until = self.plan.whole_until(first, min(at + PIECE, end))
            views = row.cut(at - begin, until - begin)
            self._fill(fd, views, at)
            first = self._compare(fd, first, at, views)
            at = until

    def check(self, fd: int) -> None:
        """Read and check every block.

        Raises:
            StoreError: as `read`.
        """
        buffer = memoryview(bytearray(min(max(LARGE, self.plan.block_nbytes), self.plan.nbytes)))
        self._good = bytearray(self.plan.count)
        at = first = 0
        while at < self.plan.nbytes:
            until = self.plan.whole_until(first, min(at + buffer.nbytes, self.plan.nbytes))
            self._fill(fd, [buffer[: until - at]], at)
            first = self._compare(fd, first, at, [buffer[: until - at]])
            at = until

    def _compare(self, fd: int, first: int, start: int, views: list[memoryview]) -> int:
        """Check what was read of whole blocks, from block ``first`` on; gives the block after the last."""
        if self._sums is None:
            self._sums = self._load(fd)
        edges = self.plan.edges(first, start + sum(view.nbytes for view in views))
        stop = first + len(edges) - 1
        found, wanted = Row(views).xxh3([edge - start for edge in edges]), self._sums[first:stop].tolist()
        if found != wanted:
            bad = next(i for i, (one, other) in enumerate(zip(found, wanted, strict=True)) if one != other)
            at, end = edges[bad], edges[bad + 1]
            self._good[first : first + bad] = b"\1" * bad
            cells = self._describe(at // self.plan.cell_nbytes, (end - 1) // self.plan.cell_nbytes)
            self.source.refuse(
                f"is damaged: block {first + bad} of {cells} (byte {self.offset + at}) does not match its checksum"
            )
        self._good[first:stop] = b"\1" * (stop - first)
        return stop

    def _fill(self, fd: int, views: list[memoryview], start: int) -> None:
        try:
            scatter_into(fd, views, self.offset + start)
        except (EOFError, OSError) as error:
            self._refuse(start, error)

    def _refuse(self, start: int, error: Exception) -> NoReturn:
        self.source.refuse(f"cannot be read at byte {self.offset + start}: {error}")
