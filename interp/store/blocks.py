"""How the bytes of a site are cut into blocks, each with its own xxh3 checksum.

A site is a row of equal *cells* (one per step and branch). What is read is a cell, so a block is a cell; small cells
share a block of at least a page, and cells above 1 MiB are cut, so that reading some tokens of a large one stays cheap.
How writes are coalesced is another matter: bytes lie contiguously, so any number of cells can be written at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from xxhash import xxh3_64_intdigest

PAGE = 4096
LARGE = 1 << 20


@dataclass(frozen=True)
class BlockPlan:
    """Blocks of a row of cells.

    Attributes:
        cells: number of cells.
        cell_nbytes: bytes of each.
        together: cells that share a block.
        block_nbytes: bytes of a block at most; a group of ``together`` cells is cut into blocks of this size.
    """

    cells: int
    cell_nbytes: int
    together: int
    block_nbytes: int

    @staticmethod
    def of(cells: int, cell_nbytes: int, least: int = PAGE) -> BlockPlan:
        """The plan for cells of this size: blocks of ``least`` bytes or more, where there are that many."""
        together = min(cells, -(-least // cell_nbytes))
        return BlockPlan(cells, cell_nbytes, together, min(together * cell_nbytes, max(LARGE, least)))

    @staticmethod
    def coded(cells: int, cell_nbytes: int, chunk_nbytes: int) -> BlockPlan:
        """The plan whose blocks are chunks of that many bytes: several cells, or parts of a cell."""
        return BlockPlan(cells, cell_nbytes, max(1, chunk_nbytes // cell_nbytes), chunk_nbytes)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of all cells."""
        return self.cells * self.cell_nbytes

    @cached_property
    def group_nbytes(self) -> int:
        """Bytes of the cells that share blocks."""
        return self.together * self.cell_nbytes

    @cached_property
    def per_group(self) -> int:
        """Blocks of a group."""
        return -(-self.group_nbytes // self.block_nbytes)

    @cached_property
    def count(self) -> int:
        """Blocks of all cells."""
        groups, rest = divmod(self.nbytes, self.group_nbytes)
        return groups * self.per_group + -(-rest // self.block_nbytes)

    def bounds(self, block: int) -> tuple[int, int]:
        """First byte of a block and the byte after its last."""
        group, piece = divmod(block, self.per_group)
        start = group * self.group_nbytes + piece * self.block_nbytes
        return start, min(start + self.block_nbytes, (group + 1) * self.group_nbytes, self.nbytes)

    def edges(self, first: int, stop: int) -> list[int]:
        """Where block ``first`` and all after it begin, up to byte ``stop``, at which a block ends."""
        if self.per_group == 1:
            return [*range(first * self.group_nbytes, stop, self.group_nbytes), stop]
        out = [self.bounds(first)[0]]
        while out[-1] < stop:
            group, rest = divmod(out[-1], self.group_nbytes)
            end = min(rest + self.block_nbytes, self.group_nbytes)
            out.append(min(group * self.group_nbytes + end, self.nbytes))
        return out

    def covering(self, start: int, stop: int) -> range:
        """Blocks that hold the bytes from ``start`` to before ``stop``."""
        if self.per_group == 1:
            return range(start // self.group_nbytes, (stop - 1) // self.group_nbytes + 1)
        return range(self._block_at(start), self._block_at(stop - 1) + 1)

    def whole_until(self, first: int, limit: int) -> int:
        """The end of the last block that ends at or before byte ``limit``, but at least that of block ``first``."""
        last = self._block_at(min(limit, self.nbytes) - 1)
        a, b = self.bounds(last)
        return max(self.bounds(first)[1], b if b <= limit else a)

    def checksums(self, start: int, data: memoryview) -> np.ndarray:
        """xxh3 of each whole block in ``data``, which lies from byte ``start`` on: uint64 [block]."""
        edges = self.edges(self._block_at(start), start + data.nbytes)
        pieces = (data[a - start : b - start] for a, b in pairwise(edges))
        return np.fromiter(map(xxh3_64_intdigest, pieces), np.uint64, len(edges) - 1)

    def _block_at(self, byte: int) -> int:
        group, rest = divmod(byte, self.group_nbytes)
        return group * self.per_group + rest // self.block_nbytes
