"""Is a file's HDF5 side what the format says, and nothing else? Looked at in memory, on bytes that were checked before.

The reader needs none of this, as it never asks HDF5. It is for those who will open the file with other tools: nothing
in it may point out of it, need a plug-in, or take more memory than the file is long.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5l, h5t

from interp.store.dtypes import dtype_of_h5
from interp.store.index import LARGEST_INDEX, Index, Piece, SiteEntry, grid_fields
from interp.store.layout import to_json
from interp.store.sparse import SparseFile
from interp.store.zstd import FILTERS, MOST

GROUPS = ("grid", "tokens", "sites", "labels", "checksums")
DATASETS = ("provenance", "prompt", "steps", "sigmas", "timesteps", "experts", "branches", "index")
MOST_ATTRIBUTES = 32
LARGEST_ATTRIBUTE = 1 << 16


def check_structure(content: SparseFile, index: Index) -> None:
    """Compare the HDF5 side of a shard with its index.

    Args:
        content: the file; the data of sites may be left out.
        index: its index.

    Raises:
        ValueError: something is there that the format does not have, or the two disagree.
    """
    content.seek(0)
    try:
        with h5py.File(content, "r") as file:
            found = dict(_datasets(file, content.size))
            _agree(file, found, index)
    except (OSError, RuntimeError, KeyError, TypeError, UnicodeError) as error:
        raise ValueError(f"HDF5 cannot read it: {error}") from error


def _datasets(file: h5py.File, size: int) -> Iterator[tuple[str, h5py.Dataset]]:
    """Every dataset under its path; anything else that is found is refused."""
    _check_attributes(file, "/")
    for name in _links(file, "/"):
        if name in GROUPS and file.get(name, getclass=True) is h5py.Group:
            group = file[name]
            _check_attributes(group, name)
            for inner in _links(group, name):
                yield f"{name}/{inner}", _dataset(group, inner, f"{name}/{inner}", size)
        elif name in (*DATASETS, "runs"):
            yield name, _dataset(file, name, name, size)
        else:
            raise ValueError(f"it holds /{name}, which the format does not have")


def _links(group: h5py.Group, where: str) -> list[str]:
    names = list(group)
    for name in names:
        if group.id.links.get_info(name.encode()).type != h5l.TYPE_HARD:
            raise ValueError(f"{where} holds the link {name!r} to another place")
    return names


def _dataset(group: h5py.Group, name: str, where: str, size: int) -> h5py.Dataset:
    if group.get(name, getclass=True) is not h5py.Dataset:
        raise ValueError(f"/{where} is not a dataset")
    dataset = group[name]
    plan = dataset.id.get_create_plist()
    filters = tuple(plan.get_filter(i)[0] for i in range(plan.get_nfilters()))
    coded = plan.get_layout() == h5d.CHUNKED and filters == FILTERS and where.startswith("sites/")
    plain = plan.get_layout() in (h5d.CONTIGUOUS, h5d.COMPACT) and not filters and not plan.get_external_count()
    if not (coded or plain):
        raise ValueError(
            f"/{where} is not contiguous, is filtered in a way the format does not have, or lies in another file"
        )
    _check_kind(dataset.id.get_type(), where)
    if math.prod(dataset.shape) * dataset.id.get_type().get_size() > size * (MOST if coded else 1):
        raise ValueError(f"/{where} claims the shape {dataset.shape}, more than the file holds")
    _check_attributes(dataset, where)
    return dataset


def _check_attributes(where: h5py.HLObject, name: str) -> None:
    count = h5a.get_num_attrs(where.id)
    if count > MOST_ATTRIBUTES:
        raise ValueError(f"{name} has {count} attributes")
    for i in range(count):
        attribute = h5a.open(where.id, index=i)
        _check_kind(attribute.get_type(), f"an attribute of {name}")
        if math.prod(attribute.shape) * attribute.get_type().get_size() > LARGEST_ATTRIBUTE:
            raise ValueError(f"{name} has an attribute of shape {attribute.shape}")


def _check_kind(kind: h5t.TypeID, where: str) -> None:
    """Numbers, bools and text of fixed length."""
    fixed_text = isinstance(kind, h5t.TypeStringID) and not kind.is_variable_str()
    if not (fixed_text or isinstance(kind, h5t.TypeIntegerID | h5t.TypeFloatID | h5t.TypeEnumID)):
        raise ValueError(f"/{where} has a type that the format does not have ({type(kind).__name__})")


def _agree(file: h5py.File, found: dict[str, h5py.Dataset], index: Index) -> None:
    run = index.run
    there = {f"{group}/{name}" for group in ("sites", "checksums") for name in index.sites}
    there |= {f"labels/{name}" for name in index.labels} | {f"tokens/{i}" for i in range(len(index.token_sets))}
    there |= {*DATASETS, *(["runs"] if index.runs else [])}
    if index.runs:  # text labels of many runs are for other tools only
        there |= {name for name, dataset in found.items() if name.startswith("labels/") and dataset.dtype.kind == "S"}
    differ = sorted(found.keys() ^ there)
    if differ:
        raise ValueError(f"its index and its HDF5 objects disagree about {differ[0]}")
    if _text(file.attrs["run"]) != run.run:
        raise ValueError(f"HDF5 says that it is of run {file.attrs['run']!r}")
    if not index.runs and _text(_values(found["provenance"])) != to_json(run.provenance, "provenance"):
        raise ValueError("its index and /provenance disagree")
    for name, wanted in grid_fields(run.grid).items():
        if not np.array_equal(file["grid"].attrs[name], wanted):
            raise ValueError(f"its index and /grid disagree about {name}")
    if index.runs and tuple(_text(value) for value in _values(found["runs"])) != index.runs:
        raise ValueError("its index and /runs disagree")
    for name, values in (("steps", run.steps), ("sigmas", run.sigmas), ("timesteps", run.timesteps)):
        if tuple(_values(found[name]).tolist()) != values:
            raise ValueError(f"its index and /{name} disagree")
    for name, texts in (("experts", run.experts), ("branches", run.branches)):
        if tuple(_text(value) for value in _values(found[name])) != texts:
            raise ValueError(f"its index and /{name} disagree")
    for name, entry in index.sites.items():
        dataset, layout = found[f"sites/{name}"], entry.layout
        axes, shape = layout.axes, layout.shape
        if index.runs:
            axes, shape = (*axes[:2], "run", *axes[2:]), (*shape[:2], len(index.runs), *shape[2:])
        tokens = None if entry.tokens is None else f"/tokens/{entry.tokens}"
        said = (
            dataset.shape,
            _texts(dataset, "axes"),
            _texts(dataset, "branches"),
            _said_of(dataset, "tokens", "codec"),
        )
        same = said == (shape, axes, run.branches_of(layout), (tokens, layout.codec))
        same &= _said_of(dataset, "dtype")[0] in (None, layout.dtype)  # None: of files made before it was said
        plan = (entry.plan.together, entry.plan.block_nbytes)
        same &= (dataset.attrs["cells_per_group"], dataset.attrs["block_bytes"]) == plan
        if not same or dtype_of_h5(dataset.id.get_type()) != layout.kind or _places(dataset) != _said(entry):
            raise ValueError(f"its index and /sites/{name} disagree")
        _same_piece(found[f"checksums/{name}"], entry.checksums)
    for i, piece in enumerate(index.token_sets):
        _same_piece(found[f"tokens/{i}"], piece)
    for name, label in index.labels.items():
        if isinstance(label, Piece):
            _same_piece(found[f"labels/{name}"], label)
        else:
            value = _values(found[f"labels/{name}"])
            value = _text(value) if isinstance(value, bytes) else value.item()
            if value != label and not (value != value and label != label):
                raise ValueError(f"its index and /labels/{name} disagree")


def _values(dataset: h5py.Dataset) -> Any:
    """What is in a dataset that the index holds as text, too, and which is small therefore."""
    if math.prod(dataset.shape) * dataset.id.get_type().get_size() > LARGEST_INDEX:
        raise ValueError(f"{dataset.name} has the shape {dataset.shape}, more than can be meant")
    return dataset[()]


def _places(dataset: h5py.Dataset) -> Any:
    """Where a site lies: its first byte, or for each chunk where, how many bytes, and whether filters were skipped."""
    if dataset.chunks is None:
        return dataset.id.get_offset()
    found = (dataset.id.get_chunk_info(i) for i in range(dataset.id.get_num_chunks()))
    return dataset.chunks, sorted((each.byte_offset, each.size, each.filter_mask) for each in found)


def _said(entry: SiteEntry) -> Any:
    """The same by the index."""
    if entry.layout.chunk is None:
        return entry.offset
    whole = entry.plan.block_nbytes
    return entry.layout.chunk, sorted((at, nbytes, 0b11 if nbytes == whole else 0) for at, nbytes in entry.chunks)


def _same_piece(dataset: h5py.Dataset, piece: Piece) -> None:
    offset = dataset.id.get_offset() or 0
    if (offset, dataset.shape, dataset.dtype.newbyteorder("=").name) != (piece.offset, piece.shape, piece.dtype):
        raise ValueError(f"its index and {dataset.name} disagree")


def _texts(dataset: h5py.Dataset, name: str) -> tuple[str, ...]:
    """An attribute of several texts."""
    return tuple(_text(value) for value in dataset.attrs[name])


def _said_of(dataset: h5py.Dataset, *names: str) -> tuple[str | None, ...]:
    """Attributes of one text; None where there is none of that name."""
    return tuple(_text(dataset.attrs[name]) if name in dataset.attrs else None for name in names)


def _text(value: bytes | str | np.bytes_) -> str:
    return value.decode() if isinstance(value, bytes) else value
