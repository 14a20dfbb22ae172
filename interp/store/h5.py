"""HDF5 objects as shards use them: contiguous, allocated at once, no times, nothing of variable length."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5p, h5s, h5t

from interp.store import zstd
from interp.store.sparse import SparseFile

ALIGNED, ALIGNMENT = 1 << 16, 4096
"""Objects of this many bytes or more begin on a page."""


def new_file(into: SparseFile, mode: str = "w") -> h5py.File:
    """An HDF5 file in memory, of the oldest format that holds it (newer ones survive a crash less well).

    Empty, or with ``mode="r+"`` what is in it.
    """
    return h5py.File(into, mode, alignment_threshold=ALIGNED, alignment_interval=ALIGNMENT)


def new_dataset(
    group: h5py.Group, name: str, kind: Any, shape: tuple[int, ...], chunk: tuple[int, ...] | None = None
) -> h5py.Dataset:
    """A contiguous dataset whose space is taken now and never filled; ``get_offset`` of its id says where it lies.

    With ``chunk``, a dataset of compressed chunks instead, none of which is there yet.
    """
    plan = h5p.create(h5p.DATASET_CREATE)
    if chunk is None:
        plan.set_layout(h5d.CONTIGUOUS)
        plan.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    else:
        zstd.set_chunks(plan, chunk)
    plan.set_fill_time(h5d.FILL_TIME_NEVER)
    plan.set_obj_track_times(False)
    space = h5s.create_simple(shape) if shape else h5s.create(h5s.SCALAR)
    return h5py.Dataset(h5d.create(group.id, name.encode(), kind, space, plan))


def put_array(group: h5py.Group, name: str, array: np.ndarray) -> h5py.Dataset:
    """A dataset with these numbers (or NumPy bools, which become HDF5's usual FALSE/TRUE enum)."""
    dataset = new_dataset(group, name, _kind(array.dtype), array.shape)
    dataset.id.write(h5s.ALL, h5s.ALL, np.ascontiguousarray(array), h5t.py_create(array.dtype))
    return dataset


def put_text(group: h5py.Group, name: str, text: str) -> h5py.Dataset:
    """A scalar dataset with UTF-8 text of fixed length."""
    return put_array(group, name, texts([text]).reshape(()))


def put_attribute(where: h5py.HLObject, name: str, value: str | int | Sequence[str] | Sequence[int]) -> None:
    """An attribute: a number, numbers, text or texts, of fixed length. There must be none of that name."""
    if isinstance(value, str):
        array = texts([value]).reshape(())
    elif isinstance(value, int):
        array = np.array(value, np.int64)
    else:
        array = texts(value) if value and isinstance(value[0], str) else np.array(value, np.int64)
    # ``attrs.create`` does the same and takes three times as long, which a file of many sites feels.
    attribute = h5a.create(where.id, name.encode(), _kind(array.dtype), h5s.create_simple(array.shape))
    attribute.write(array, mtype=h5t.py_create(array.dtype))


def texts(values: Sequence[Any]) -> np.ndarray:
    """Texts as an array of fixed-length UTF-8."""
    encoded = [str(value).encode() for value in values]
    width = max((len(text) for text in encoded), default=1) or 1
    return np.array(encoded, dtype=_utf8(width))


@cache
def _utf8(width: int) -> np.dtype:
    return h5py.string_dtype("utf-8", width)


def _kind(dtype: np.dtype) -> Any:
    """The HDF5 type that stands for it, text and truth values included."""
    return h5t.py_create(dtype, logical=True)
