"""Writes bytes of one site block by block as codec "zstd" makes them, wherever HDF5 puts them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from xxhash import xxh3_64_intdigest

from interp.store import zstd
from interp.store.blocks import BlockPlan
from interp.store.disk import bytes_of
from interp.store.output import Output
from interp.store.underway import Lease


class CodedWriter:
    """Writes one site; as `interp.store.blockwriter.BlockWriter`, but any bytes may come, in any order.

    Args:
        plan: its blocks, each of which is a chunk of its dataset.
        bits: number format.
        output: file to write to.
        place: gives a block's stored bytes a place in the file; tells it the block's number.

    Attributes:
        checksums: uint64 [block] of what was stored.
        left: bytes that are still to come.
    """

    def __init__(self, plan: BlockPlan, bits: np.dtype, output: Output, place: Callable[[int, bytes], int]) -> None:
        self.plan, self.left = plan, plan.nbytes
        self.checksums = np.zeros(plan.count, np.uint64)
        self._bits, self._output, self._place = bits, output, place
        self._begun: dict[int, tuple[bytearray, int]] = {}

    def write(self, start: int, data: memoryview, lease: Lease | None = None) -> None:
        """Take bytes from byte ``start`` of the site on; a block is written once it is whole. They are not read later,
        so no lease is held.

        Raises:
            OSError: the disk did not take it.
        """
        at, stop = start, start + data.nbytes
        while at < stop:
            block = self.plan.covering(at, at + 1).start
            first, end = self.plan.bounds(block)
            until = min(end, stop)
            piece = data[at - start : until - start]
            if (at, until) != (first, end):
                whole, lacks = self._begun.pop(block, (bytearray(end - first), end - first))
                whole[at - first : until - first] = piece
                lacks -= until - at
                if lacks:
                    self._begun[block] = whole, lacks
                else:
                    self._store(block, memoryview(whole))
            else:
                self._store(block, piece)
            at = until
        self.left -= data.nbytes

    def _store(self, block: int, data: memoryview) -> None:
        chunk = np.zeros(self.plan.block_nbytes // self._bits.itemsize, self._bits)  # the last one may be filled up
        bytes_of(chunk)[: data.nbytes] = data
        stored = zstd.encode(chunk)
        self.checksums[block] = xxh3_64_intdigest(stored)
        self._output.write(stored, self._place(block, stored))
