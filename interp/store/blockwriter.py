"""Writes bytes of one site in place, with a checksum for each block on the way."""

from __future__ import annotations

import numpy as np

from interp.store.blocks import LARGE, BlockPlan
from interp.store.disk import pwrite_all, start_writing_back

STRIDE = LARGE
"""Bytes that are checksummed and written at a time: the second finds them in the processor's cache, and the disk begins
while the rest is copied. On the disk we tried, strides of 4 MiB were three times slower."""


class BlockWriter:
    """Writes one site.

    Args:
        plan: its blocks.
        fd: file to write to.
        offset: where the site begins in it.

    Attributes:
        checksums: uint64 [block] of what was written.
        left: bytes that are still to come.
    """

    def __init__(self, plan: BlockPlan, fd: int, offset: int) -> None:
        self.plan, self.offset = plan, offset
        self.checksums = np.zeros(plan.count, np.uint64)
        self.left = plan.nbytes
        self._fd = fd

    def write(self, start: int, data: memoryview) -> None:
        """Write whole blocks, the first of which begins at byte ``start`` of the site.

        Raises:
            OSError: the disk did not take them.
        """
        plan, at, stop = self.plan, start, start + data.nbytes
        first = plan.covering(start, start + 1).start
        while at < stop:
            until = stop if stop - at < 2 * STRIDE else plan.whole_until(first, at + STRIDE)
            stride = data[at - start : until - start]
            sums = plan.checksums(at, stride)
            self.checksums[first : first + len(sums)] = sums
            pwrite_all(self._fd, stride, self.offset + at)
            start_writing_back(self._fd, self.offset + at, stride.nbytes)
            at, first = until, first + len(sums)
        self.left -= data.nbytes
