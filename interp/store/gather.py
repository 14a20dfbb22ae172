"""One site over many runs as one array: what is asked is turned into byte ranges once, then read."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from interp.errors import StoreError
from interp.store.codedextent import CodedExtent
from interp.store.disk import bytes_of
from interp.store.extent import Extent
from interp.store.layout import few
from interp.store.part import Stretch

MERGE = 1 << 16
"""Chosen tokens that are nearer than this many bytes are read in one go."""

Steps = int | slice | Sequence[int] | None
Tokens = Sequence[int] | np.ndarray | Callable[[Any], Sequence[int]] | None


@dataclass(frozen=True)
class Cells:
    """Cells of one file and where they go.

    Attributes:
        extent: the bytes they are in.
        stretches: numbers of the cells in the extent, and their places in the result.
        cell_shape: sizes of a cell in this file.
        rows: chosen positions along the site's axis "token"; None for all.
    """

    extent: Extent | CodedExtent
    stretches: tuple[Stretch, ...]
    cell_shape: tuple[int, ...]
    rows: np.ndarray | None


def gather(requests: Iterable[Cells], out: np.ndarray, slots: int, token_axis: int | None) -> None:
    """Read cells.

    Args:
        requests: what goes where.
        out: bits [<some axes>, <cell axes, chosen tokens>], contiguous.
        slots: cells in it.
        token_axis: where "token" is among the cell's axes.
    """
    flat = out.data.cast("B")
    slot_nbytes = flat.nbytes // slots
    for request in requests:
        fd = request.extent.source.open()
        try:
            if request.rows is None:
                for cell, slot, count in request.stretches:
                    place = flat[slot * slot_nbytes : (slot + count) * slot_nbytes]
                    request.extent.read(fd, cell * slot_nbytes, place)
            else:
                by_slot = out.reshape(slots, *out.shape[out.ndim - len(request.cell_shape) :])
                for cell, slot, count in request.stretches:
                    for i in range(count):
                        _read_rows(fd, request, cell + i, by_slot[slot + i], token_axis or 0)
        finally:
            os.close(fd)


def positions(asked: Steps, have: Sequence[int], what: str) -> tuple[list[int], bool]:
    """Where steps lie along an axis.

    Args:
        asked: a step of the sampler's schedule, several, a slice of step numbers (stop excluded), or None for all.
        have: steps that are there.
        what: how errors call the thing asked.

    Returns:
        Places along the axis, and whether the axis is kept.

    Raises:
        StoreError: a step is not there, or none is meant.
    """
    if asked is None:
        return list(range(len(have))), True
    if isinstance(asked, slice):
        if (asked.start or 0) < 0 or (asked.stop is not None and asked.stop < 0):
            raise StoreError(
                f"{what}: step={asked} counts from the end; name steps by their number, there are {few(have)}"
            )
        wanted, one = [s for s in have if s in range(*asked.indices(max(have) + 1))], False
    else:
        one = isinstance(asked, int) or np.ndim(asked) == 0
        wanted = [_step(step, what) for step in (cast(list[int], [asked] if one else asked))]
    place = {step: i for i, step in enumerate(have)}
    lost = [step for step in wanted if step not in place]
    if lost or not wanted:
        raise StoreError(f"{what}: step {lost[0] if lost else asked} was not kept; there are steps {few(have)}")
    return [place[step] for step in wanted], not one


def _step(step: Any, what: str) -> int:
    """A whole number as it is; nothing is rounded, and a truth value is none."""
    try:
        if isinstance(step, bool):
            raise TypeError
        return operator.index(step)
    except TypeError:
        raise StoreError(f"{what}: step {step!r} is not a step; name steps by their number") from None


def token_rows(asked: Tokens, kept: np.ndarray | None, grid: Any, what: str) -> np.ndarray | None:
    """Positions of tokens along the axis of a site.

    Args:
        asked: indices on the full grid, or a mask over it, or a function that gives either for a grid; None for all
            that are kept.
        kept: tokens int64 [token] that the site keeps; None if all.
        grid: the run's token grid.
        what: how errors call the site.

    Raises:
        StoreError: a token was not kept or is outside the grid, or these are no tokens.
    """
    if asked is None:
        return None
    total = grid.frames * grid.rows * grid.cols
    wanted = np.asarray(asked(grid) if callable(asked) else asked).reshape(-1)
    if wanted.dtype == bool:
        if len(wanted) != total:
            raise StoreError(f"{what}: tokens are a mask of {len(wanted)}, and the grid has {total} tokens")
        wanted = np.flatnonzero(wanted)
    if not len(wanted) or wanted.dtype.kind not in "iu":
        raise StoreError(f"{what}: tokens={str(wanted.tolist())[:40]} names none; give their indices, or a mask")
    wanted = wanted.astype(np.int64)
    if wanted.min() < 0 or wanted.max() >= total:
        raise StoreError(f"{what}: tokens {few(wanted.tolist())} are not on the grid, which has tokens 0-{total - 1}")
    if kept is None:
        return wanted
    order = np.argsort(kept)
    rows = order[np.minimum(np.searchsorted(kept, wanted, sorter=order), len(kept) - 1)]
    lost = wanted[kept[rows] != wanted]
    if len(lost):
        raise StoreError(f"{what}: token {lost[0]} was not kept; there are tokens {few(kept.tolist())}")
    return rows


def _read_rows(fd: int, request: Cells, cell: int, out: np.ndarray, token_axis: int) -> None:
    extent, rows, cell_shape = request.extent, request.rows, request.cell_shape
    assert rows is not None
    start, nbytes = cell * extent.plan.cell_nbytes, extent.plan.cell_nbytes
    if token_axis != 0:
        scratch = np.empty(cell_shape, out.dtype)
        extent.read(fd, start, bytes_of(scratch))
        np.take(scratch, rows, axis=token_axis, out=out)
        return
    row = nbytes // cell_shape[0]
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    cuts = np.flatnonzero(np.diff(ordered) * row > MERGE) + 1
    for part in np.split(order, cuts):
        low, high = int(rows[part[0]]), int(rows[part[-1]]) + 1
        scratch = np.empty((high - low, *cell_shape[1:]), out.dtype)
        extent.read(fd, start + low * row, bytes_of(scratch))
        out[part] = scratch[rows[part] - low]
