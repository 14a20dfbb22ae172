"""From cells that arrive one by one to writes of at least 1 MiB, with a checksum for each block on the way."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from interp.store.blocks import LARGE, PAGE, BlockPlan
from interp.store.blockwriter import BlockWriter
from interp.store.cellcheck import Given
from interp.store.codedwriter import CodedWriter
from interp.store.disk import bytes_at, bytes_of, copy_bytes
from interp.store.layout import SiteLayout
from interp.store.underway import Lease


@dataclass
class Group:
    """Cells that are written together.

    Attributes:
        memory: what they lie in.
        cells: their bits [cell, <site axes>].
        flat: the same as bytes.
        address: where they begin.
        lacks: bytes that are still to come.
    """

    memory: np.ndarray
    cells: np.ndarray
    flat: memoryview
    address: int
    lacks: int


class SiteBuffer:
    """Writes one site of one run into its place in a file. Every byte is to be given once, in any order of cells.

    Args:
        layout: the site.
        plan: its blocks.
        blocks: what writes them.
    """

    def __init__(self, layout: SiteLayout, plan: BlockPlan, blocks: BlockWriter | CodedWriter) -> None:
        self.plan, self.blocks = plan, blocks
        self._cell_shape, self._bits = layout.cell_shape, layout.kind.bits
        wanted = -(-LARGE // (plan.cell_nbytes * plan.together)) * plan.together
        self._cells = min(plan.cells, wanted)
        self._group_nbytes = self._cells * plan.cell_nbytes
        self._groups: dict[int, Group] = {}
        self._spare: list[np.ndarray] = []

    def put(self, cell: int, given: Given) -> None:
        """Take a cell.

        Raises:
            OSError: the disk did not take it.
        """
        nbytes = self.plan.cell_nbytes
        if self._cells == 1:
            whole = bytes_at(given, nbytes) if isinstance(given, int) else bytes_of(np.ascontiguousarray(given))
            self.blocks.write(cell * nbytes, whole)
            return
        number, place = divmod(cell, self._cells)
        group = self._groups.get(number) or self._begin(number)
        if isinstance(given, int):
            copy_bytes(group.address + place * nbytes, given, nbytes)
        else:
            group.cells[place] = given
        group.lacks -= nbytes
        if not group.lacks:
            self._end(number, group)

    def put_bytes(self, start: int, data: memoryview, lease: Lease | None = None) -> None:
        """Take bytes of a cell, or of cells of 1 MiB or more: these in whole blocks.

        Args:
            start: the first byte's place in the site.
            data: they.
            lease: of their memory, see `interp.store.output.Output.write`.

        Raises:
            OSError: the disk did not take them.
        """
        if self._cells == 1:
            self.blocks.write(start, data, lease)
            return
        number, at = divmod(start, self._cells * self.plan.cell_nbytes)
        group = self._groups.get(number) or self._begin(number)
        group.flat[at : at + data.nbytes] = data
        group.lacks -= data.nbytes
        if not group.lacks:
            self._end(number, group)

    def _begin(self, number: int) -> Group:
        """Memory for a group, placed in its page as the group is in the file's, so that it may go past the cache."""
        start = number * self._group_nbytes
        nbytes = min(self._group_nbytes, self.plan.nbytes - start)
        memory = self._spare.pop() if self._spare else np.empty(self._group_nbytes + PAGE, np.uint8)
        shift = (start - memory.ctypes.data) % PAGE
        flat = memory[shift : shift + nbytes]
        cells = flat.view(self._bits).reshape(-1, *self._cell_shape)
        group = self._groups[number] = Group(memory, cells, flat.data, flat.ctypes.data, nbytes)
        return group

    def _end(self, number: int, group: Group) -> None:
        del self._groups[number]
        lease = Lease(partial(self._spare.append, group.memory))
        try:
            self.blocks.write(number * self._group_nbytes, group.flat, lease)
        finally:
            lease.drop()
