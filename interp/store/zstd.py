"""Lossless compression of blocks by HDF5's own filters (byte shuffle, then Zstandard), as hdf5plugin brings them.

A block is coded by HDF5 in a file in memory that holds nothing else, so what is stored is to the bit what any HDF5
program with that plug-in reads and writes. A block that does not get smaller, or gets absurdly small, is stored as it
is: so a stored byte stands for at most `MOST` bytes, and no file can claim to unfold without end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5z

LEVEL = 1
"""Higher levels gain 1-2 % on activations, at a third of the speed."""

MOST = 1000
"""Bytes that one stored byte may stand for."""

ZSTD = 32015
"""The filter's number, as registered with The HDF Group."""

FILTERS = (h5z.FILTER_SHUFFLE, ZSTD)

_numbers = count()


def set_chunks(plan: Any, chunk: tuple[int, ...]) -> None:
    """Have a dataset stored in chunks of this shape, each filtered by itself.

    Args:
        plan: an ``h5py.h5p.PropDCID``.
        chunk: sizes.
    """
    import hdf5plugin  # noqa: F401  tells HDF5 of the filter; a third of what this room takes to import

    plan.set_chunk(chunk)
    plan.set_shuffle()
    plan.set_filter(ZSTD, h5z.FLAG_MANDATORY, (LEVEL,))


@contextmanager
def _one_block(block: np.ndarray) -> Iterator[h5py.Dataset]:
    """A dataset of one chunk, in a file in memory, whose name no other thread uses meanwhile."""
    with h5py.File(f"block {next(_numbers)}", "w", driver="core", backing_store=False) as file:
        plan = h5p.create(h5p.DATASET_CREATE)
        set_chunks(plan, block.shape)
        kind, space = h5py.h5t.py_create(block.dtype), h5s.create_simple(block.shape)
        yield h5py.Dataset(h5d.create(file.id, b"block", kind, space, plan))


def encode(block: np.ndarray) -> bytes:
    """The stored bytes of a block; as many as it has, or more, where it is stored as it is."""
    with _one_block(block) as dataset:
        dataset[...] = block
        dataset.flush()
        _, stored = dataset.id.read_direct_chunk((0,))
    return bytes(stored) if block.nbytes // MOST < len(stored) < block.nbytes else block.tobytes()


def decode(stored: bytes | memoryview, size: int, bits: np.dtype) -> np.ndarray:
    """A block [size] from its stored bytes.

    Raises:
        ValueError: they are no such block.
    """
    if len(stored) == size * bits.itemsize:
        return np.frombuffer(stored, bits)
    if _unfolded_nbytes(bytes(stored[:18])) != size * bits.itemsize:  # the filter would take what the frame asks for
        raise ValueError("it says that it unfolds to another size")
    out = np.empty(size, bits)
    try:
        with _one_block(out) as dataset:
            dataset.id.write_direct_chunk((0,), stored)
            dataset.read_direct(out)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"HDF5 cannot unfold it: {error}") from error
    return out


def _unfolded_nbytes(head: bytes) -> int | None:
    """What a Zstandard frame says of its size in its first 18 bytes (RFC 8878, 3.1.1.1); None if nothing."""
    if len(head) < 18 or head[:4] != b"\x28\xb5\x2f\xfd":
        return None
    said, single, names = head[4] >> 6, head[4] >> 5 & 1, head[4] & 3
    nbytes = (single, 2, 4, 8)[said]
    start = 5 + (not single) + (0, 1, 2, 4)[names]
    size = int.from_bytes(head[start : start + nbytes], "little") + (256 if nbytes == 2 else 0)
    return size if nbytes else None
