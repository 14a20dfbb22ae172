"""Labels of runs: scalars and arrays, checked when they are written, stacked when they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.errors import StoreError, suggest
from interp.store.index import Piece
from interp.store.layout import MOST_AXES, check_name, few

if TYPE_CHECKING:
    from interp.store.storefile import Shard

RESERVED = ("run", "sample", "seed", "prompt", "model", "task", "frames", "rows", "cols")
"""Columns of the table of runs that come from its provenance and grid."""

OF_PROVENANCE = ("sample", "seed", "prompt", "model", "task")
"""Those of them that are read as labels are."""

Scalar = bool | int | float | str


def checked_labels(labels: Mapping[str, Any], where: str) -> dict[str, Scalar | np.ndarray]:
    """Labels as Python scalars and contiguous arrays; None is left out.

    Raises:
        StoreError: a name or a value that cannot be stored.
    """
    out: dict[str, Scalar | np.ndarray] = {}
    for name, value in labels.items():
        check_name(name, f"{where}: label")
        if name in RESERVED:
            raise StoreError(f"{where}: label {name!r} would hide a column of that name; call it otherwise")
        if value is None:
            continue
        if hasattr(value, "detach"):
            value = value.detach().cpu().numpy()
        if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
            value = value.item()
        out[name] = _array(value, name, where) if isinstance(value, np.ndarray | list | tuple) else value
        if not isinstance(out[name], bool | int | float | str | np.ndarray) or (
            isinstance(value, int) and not -(2**63) <= value < 2**63
        ):
            raise StoreError(
                f"{where}: label {name!r} is {value!r}; a label is a number, bool, text or array of numbers"
            )
    return out


def _array(value: Any, name: str, where: str) -> np.ndarray:
    array = np.ascontiguousarray(value)
    if array.dtype.newbyteorder("=").name not in Piece.ALLOWED:
        raise StoreError(f"{where}: label {name!r} is an array of {array.dtype}; use one of {', '.join(Piece.ALLOWED)}")
    if array.ndim >= MOST_AXES:
        raise StoreError(f"{where}: label {name!r} has {array.ndim} axes; fewer than {MOST_AXES} can be")
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def stacked_labels(shards: Sequence[Shard], name: str, site: str | None) -> np.ndarray:
    """A label of several runs, see `interp.store.Store.labels`."""
    values = []
    for shard in shards:
        if name in OF_PROVENANCE and shard.provenance.get(name) is not None:
            values.append(np.asarray(shard.provenance[name]))
            continue
        if name not in shard.index.labels:
            known = sorted(shard.index.labels)
            near = suggest(name, known) or f"; it has {few(known) or 'none'}"
            raise StoreError(f"run {shard.run} has no label {name!r}{near}. Leave such runs out with runs=")
        values.append(_at_tokens(shard, name, site))
    shapes = sorted({value.shape for value in values})
    if len(shapes) > 1:
        raise StoreError(f"label {name!r} has the shapes {shapes} in these runs; choose runs of one size with runs=")
    kinds = {_KINDS.get(value.dtype.kind, value.dtype.name) for value in values}
    if len(kinds) > 1:
        said = ", ".join(sorted(kinds))
        raise StoreError(f"label {name!r} is of different kinds in these runs ({said}); choose with runs=")
    return np.stack(values)


_KINDS = {"b": "bool", "i": "number", "u": "number", "f": "number", "U": "text"}


def _at_tokens(shard: Shard, name: str, site: str | None) -> np.ndarray:
    """A label of one run; labels of tokens as [token], those that the site keeps."""
    value = np.asarray(shard.label(name))
    grid = shard.index.run.grid
    if value.shape != (grid.frames, grid.rows, grid.cols):
        return value
    tokens = None if site is None else shard.tokens(site)
    return value.reshape(-1) if tokens is None else value.reshape(-1)[tokens]
