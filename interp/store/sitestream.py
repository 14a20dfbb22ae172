"""Writes a site's bytes in order, with a checksum for each block on the way."""

from __future__ import annotations

import numpy as np

from interp.store.blocks import BlockPlan
from interp.store.blockwriter import BlockWriter
from interp.store.output import Output


class SiteStream:
    """Bytes of one site, in order and in pieces of any size.

    Args:
        plan: its blocks.
        output: file to write to.
        offset: where the site begins in it.
    """

    def __init__(self, plan: BlockPlan, output: Output, offset: int) -> None:
        self.plan = plan
        self._blocks = BlockWriter(plan, output, offset)
        self._written = 0
        self._rest = b""

    def append(self, data: memoryview) -> None:
        """Write some bytes.

        Raises:
            OSError: the disk did not take them.
        """
        if self._rest:  # complete the group of blocks that was begun
            head = min(self.plan.group_nbytes - len(self._rest), data.nbytes)
            self._rest += bytes(data[:head])
            data = data[head:]
            if len(self._rest) == self.plan.group_nbytes:
                whole, self._rest = self._rest, b""
                self._write(memoryview(whole))
        whole_nbytes = data.nbytes // self.plan.group_nbytes * self.plan.group_nbytes
        if whole_nbytes:
            self._write(data[:whole_nbytes])
        if data.nbytes > whole_nbytes:
            self._rest = bytes(data[whole_nbytes:])

    def close(self) -> np.ndarray:
        """Write what is left; gives the checksums uint64 [block].

        Raises:
            OSError: the disk did not take it.
        """
        if self._rest:
            self._write(memoryview(self._rest))
            self._rest = b""
        if self._written != self.plan.nbytes:
            raise AssertionError(f"{self._written} bytes of {self.plan.nbytes} were given")
        return self._blocks.checksums

    def _write(self, data: memoryview) -> None:
        self._blocks.write(self._written, data)
        self._written += data.nbytes
