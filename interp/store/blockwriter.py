"""Writes bytes of one site in place, with a checksum for each block on the way."""

from __future__ import annotations

import numpy as np

from interp.store.blocks import BlockPlan
from interp.store.output import Output
from interp.store.underway import Lease


class BlockWriter:
    """Writes one site.

    Args:
        plan: its blocks.
        output: file to write to.
        offset: where the site begins in it.

    Attributes:
        checksums: uint64 [block] of what was written.
        left: bytes that are still to come.
    """

    def __init__(self, plan: BlockPlan, output: Output, offset: int) -> None:
        self.plan, self.offset = plan, offset
        self.checksums = np.zeros(plan.count, np.uint64)
        self.left = plan.nbytes
        self._output = output

    def write(self, start: int, data: memoryview, lease: Lease | None = None) -> None:
        """Write whole blocks, the first of which begins at byte ``start`` of the site.

        Raises:
            OSError: the disk did not take them; see `Output.write`, for ``lease``, too.
        """
        plan, stride, at, stop = self.plan, self._output.stride, start, start + data.nbytes
        first = plan.covering(start, start + 1).start
        while at < stop:
            until = stop if stop - at < 2 * stride else plan.whole_until(first, at + stride)
            piece = data[at - start : until - start]
            sums = plan.checksums(at, piece)
            self.checksums[first : first + len(sums)] = sums
            self._output.write(piece, self.offset + at, lease)
            at, first = until, first + len(sums)
        self.left -= data.nbytes
