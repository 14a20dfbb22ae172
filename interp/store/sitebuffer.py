"""From cells that arrive one by one to writes of at least 1 MiB, with a checksum for each block on the way."""

from __future__ import annotations

from typing import Any

import numpy as np

from interp.errors import StoreError
from interp.store.blocks import BlockPlan
from interp.store.disk import bytes_of, pwrite_all
from interp.store.layout import SiteLayout

LEAST_WRITE = 1 << 20
STRIDE = 1 << 22
"""Large cells are checksummed and written in strides of this size, so that the second finds them in the CPU's cache."""


class SiteBuffer:
    """Writes one site of one run into its place in a file.

    Args:
        layout: the site.
        fd: file to write to.
        offset: where the site begins in it.
    """

    def __init__(self, layout: SiteLayout, fd: int, offset: int) -> None:
        self.layout, self.offset = layout, offset
        self.plan = BlockPlan.of(layout.cells, layout.cell_nbytes)
        self.checksums = np.zeros(self.plan.count, np.uint64)
        self._fd = fd
        together = self.plan.together
        wanted = -(-LEAST_WRITE // (layout.cell_nbytes * together)) * together
        self._cells = min(layout.cells, wanted)
        self._seen = bytearray(layout.cells)
        self._groups: dict[int, tuple[np.ndarray, list[int]]] = {}
        self._spare: list[np.ndarray] = []
        self._steps, self._branches = layout.shape[:2]
        self._bits_of, self._cell_shape = layout.kind.bits_of, layout.cell_shape

    def put(self, step: int, branch: int, tensor: Any) -> None:
        """Take [<site axes>] at a position along the axes step and branch.

        Raises:
            StoreError: it does not fit the layout or was there before. Nothing is written then.
            OSError: the disk did not take it.
        """
        if not (0 <= step < self._steps and 0 <= branch < self._branches):
            raise StoreError(
                f"position ({step}, {branch}) is outside its {self._steps} steps, {self._branches} branches"
            )
        cell = step * self._branches + branch
        if self._seen[cell]:
            raise StoreError(f"({step}, {branch}) was written before")
        bits = self._bits_of(tensor)
        if bits.shape != self._cell_shape:
            raise StoreError(f"got shape {tuple(bits.shape)} where {self.layout.axes[2:]} is {self._cell_shape}")
        if self._cells == 1:
            self._write(cell, bits if bits.flags.c_contiguous else np.ascontiguousarray(bits))
        else:
            number, place = divmod(cell, self._cells)
            group = self._groups.get(number)
            if group is None:
                group = self._groups[number] = (
                    self._new(),
                    [min(self._cells, self.layout.cells - number * self._cells)],
                )
            buffer, left = group
            buffer[place] = bits
            left[0] -= 1
            if not left[0]:
                self._write(number * self._cells, buffer[: self.layout.cells - number * self._cells])
                self._spare.append(self._groups.pop(number)[0])
        self._seen[cell] = 1

    def missing(self) -> tuple[int, int] | None:
        """Position (step, branch) of the first cell that was never written."""
        cell = self._seen.find(0)
        return None if cell < 0 else divmod(cell, self._branches)

    def _new(self) -> np.ndarray:
        if self._spare:
            return self._spare.pop()
        return np.empty((self._cells, *self._cell_shape), self.layout.kind.bits)

    def _write(self, cell: int, cells: np.ndarray) -> None:
        data = bytes_of(cells)
        start = cell * self.layout.cell_nbytes
        first = self.plan.covering(start, start + 1)[0]
        for at in range(0, data.nbytes, STRIDE):
            stride = data[at : at + STRIDE]
            sums = self.plan.checksums(start + at, stride)
            self.checksums[first : first + len(sums)] = sums
            first += len(sums)
            pwrite_all(self._fd, stride, self.offset + start + at)
