"""From cells that arrive one by one to writes of at least 1 MiB, with a checksum for each block on the way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from interp.store.blocks import LARGE, BlockPlan
from interp.store.blockwriter import BlockWriter
from interp.store.cellcheck import Given
from interp.store.codedwriter import CodedWriter
from interp.store.disk import bytes_at, bytes_of, copy_bytes
from interp.store.layout import SiteLayout


@dataclass
class Group:
    """Cells that are written together.

    Attributes:
        cells: their bits [cell, <site axes>].
        flat: the same as bytes.
        address: where they begin.
        lacks: bytes that are still to come.
    """

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

    def put_bytes(self, cell: int, start: int, data: memoryview) -> None:
        """Take some bytes of a cell; a cell of 1 MiB or more in pieces that begin and end at multiples of 1 MiB.

        Raises:
            OSError: the disk did not take them.
        """
        if self._cells == 1:
            self.blocks.write(cell * self.plan.cell_nbytes + start, data)
            return
        number, place = divmod(cell, self._cells)
        group = self._groups.get(number) or self._begin(number)
        at = place * self.plan.cell_nbytes + start
        group.flat[at : at + data.nbytes] = data
        group.lacks -= data.nbytes
        if not group.lacks:
            self._end(number, group)

    def _begin(self, number: int) -> Group:
        cells = min(self._cells, self.plan.cells - number * self._cells)
        buffer = self._spare.pop() if self._spare else np.empty((self._cells, *self._cell_shape), self._bits)
        group = self._groups[number] = Group(
            buffer, bytes_of(buffer), buffer.ctypes.data, cells * self.plan.cell_nbytes
        )
        return group

    def _end(self, number: int, group: Group) -> None:
        first = number * self._cells
        self.blocks.write(first * self.plan.cell_nbytes, bytes_of(group.cells[: self.plan.cells - first]))
        self._spare.append(self._groups.pop(number).cells)
