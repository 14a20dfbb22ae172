"""Reads bytes of one site that codec "zstd" stored; every block is checked the first time it is met."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from xxhash import xxh3_64_intdigest

from interp.store import zstd
from interp.store.blocks import BlockPlan
from interp.store.disk import bytes_of, pread_into
from interp.store.extent import Source


class CodedExtent:
    """The bytes of one site, as `interp.store.extent.Extent` gives them. The block that was read last is remembered.

    Args:
        source: file.
        chunks: (first byte, bytes) of each stored block.
        bits: number format.
        plan, checksums, describe: as of an `interp.store.extent.Extent`; checksums are of stored bytes.
    """

    def __init__(
        self,
        source: Source,
        chunks: Sequence[tuple[int, int]],
        bits: np.dtype,
        plan: BlockPlan,
        checksums: Callable[[int], np.ndarray],
        describe: Callable[[int, int], str],
    ) -> None:
        self.source, self.plan = source, plan
        self._chunks, self._bits = chunks, bits
        self._load, self._describe = checksums, describe
        self._sums: np.ndarray | None = None
        self._good = np.zeros(plan.count, bool)
        self._last: tuple[int, memoryview] | None = None

    def read(self, fd: int, start: int, out: memoryview) -> None:
        """Fill ``out`` with the bytes from ``start`` on. See `interp.store.extent.Extent.read`.

        Raises:
            StoreError: a block is damaged or the file ends early; the error names file, run and block.
        """
        stop = start + out.nbytes
        for block in self.plan.covering(start, stop):
            a, b = self.plan.bounds(block)
            last = self._last  # looked at once, as another thread may read, too
            if last is None or last[0] != block:
                last = self._last = block, self._unfolded(fd, block)
            low, high = max(a, start), min(b, stop)
            out[low - start : high - start] = last[1][low - a : high - a]

    def check(self, fd: int) -> None:
        """Read, check and unfold every block.

        Raises:
            StoreError: as `read`.
        """
        self._good[:] = False
        for block in range(self.plan.count):
            self._unfolded(fd, block)

    def _unfolded(self, fd: int, block: int) -> memoryview:
        offset, nbytes = self._chunks[block]
        stored = memoryview(bytearray(nbytes))
        try:
            pread_into(fd, stored, offset)
        except (EOFError, OSError) as error:
            self.source.refuse(f"cannot be read at byte {offset}: {error}")
        if not self._good[block]:
            if self._sums is None:
                self._sums = self._load(fd)
            if xxh3_64_intdigest(stored) != self._sums[block]:
                self.source.refuse(f"is damaged: {self._place(block)} does not match its checksum")
            self._good[block] = True
        try:
            return bytes_of(zstd.decode(stored, self.plan.block_nbytes // self._bits.itemsize, self._bits))
        except ValueError as error:
            self.source.refuse(f"cannot be used: {self._place(block)}: {error}")

    def _place(self, block: int) -> str:
        a, b = self.plan.bounds(block)
        cells = self._describe(a // self.plan.cell_nbytes, (b - 1) // self.plan.cell_nbytes)
        return f"block {block} of {cells} (byte {self._chunks[block][0]})"
