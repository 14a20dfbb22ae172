"""The HDF5 side of a shard that is being written: what a reader with plain h5py finds (see docs/design/store.md)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import h5py
import numpy as np
from xxhash import xxh3_64_hexdigest

from interp.store.blocks import BlockPlan
from interp.store.h5 import new_dataset, new_file, put_array, put_attribute, put_text, texts
from interp.store.index import SHARD, VERSION, Index, Piece, SiteEntry, grid_fields
from interp.store.layout import RunLayout, to_json
from interp.store.sparse import SparseFile

SHOWN = ("model", "model_hash", "task", "sample", "seed")
"""What of the provenance is shown as attributes, too."""


class ShardFile:
    """A shard's metadata in memory, and where its data belong.

    Args:
        layout: what the shard will hold.
    """

    def __init__(self, layout: RunLayout) -> None:
        self.layout = layout
        self.offsets: dict[str, int] = {}
        self._bytes = SparseFile()
        self._h5 = new_file(self._bytes)
        self._token_sets: dict[tuple[int, ...], int] = {}
        self._pieces: list[Piece] = []
        self._head()
        for site in layout.sites:
            self._site(site.site)

    @property
    def size(self) -> int:
        """Bytes of the file, as far as they are known."""
        return max([self._bytes.size, *(self.offsets[site.site] + site.nbytes for site in self.layout.sites)])

    def close(self, labels: Mapping[str, Any], checksums: Mapping[str, np.ndarray]) -> tuple[int, bytes]:
        """Add what is known at the end.

        Args:
            labels: checked labels.
            checksums: uint64 [block] of each site.

        Returns:
            Where the index lies, and the index.
        """
        group = self._h5.create_group("checksums")
        entries = {}
        for site in self.layout.sites:
            sums = _put(group, site.site, checksums[site.site].astype("<u8"))
            plan = BlockPlan.of(site.cells, site.cell_nbytes)
            tokens = None if site.tokens is None else self._token_sets[site.tokens]
            entry = SiteEntry(replace(site, tokens=None), self.offsets[site.site], plan, sums, tokens)
            entries[site.site] = entry
        group = self._h5.create_group("labels")
        places = {name: self._label(group, name, value) for name, value in labels.items()}
        index = Index(self.layout, entries, tuple(self._pieces), places)
        room = new_dataset(self._h5, "index", h5py.h5t.py_create(np.dtype(f"S{len(index.to_json().encode())}")), ())
        start, nbytes = room.id.get_offset(), room.id.get_storage_size()
        self._h5.close()
        gaps = sorted([*index.data(), (start, start + nbytes)])
        text = replace(index, rest=self._bytes.digest(gaps)).to_json().encode()
        if len(text) != nbytes:
            raise AssertionError(f"index of {len(text)} bytes in a room of {nbytes}")
        self._bytes.seek(start)
        self._bytes.write(text)
        return start, text

    def pieces(self) -> Iterator[tuple[int, memoryview]]:
        """(offset, bytes) of all metadata, after `close`."""
        return self._bytes.pieces(sorted((o, o + s.nbytes) for s in self.layout.sites for o in [self.offsets[s.site]]))

    def _head(self) -> None:
        layout, h5 = self.layout, self._h5
        put_attribute(h5, "format", SHARD)
        put_attribute(h5, "version", VERSION)
        put_attribute(h5, "run", layout.run)
        for name in SHOWN:
            value = layout.provenance.get(name)
            if isinstance(value, str | int) and len(str(value)) < 4096:
                put_attribute(h5, name, value)
        put_text(h5, "provenance", to_json(layout.provenance, "provenance"))
        put_text(h5, "prompt", str(layout.provenance.get("prompt", "")))
        h5["steps"] = np.array(layout.steps, "<i8")
        h5["sigmas"] = np.array(layout.sigmas, "<f8")
        h5["timesteps"] = np.array(layout.timesteps, "<f8")
        h5["experts"] = texts(layout.experts)
        h5["branches"] = texts(layout.branches)
        grid = h5.create_group("grid")
        for name, value in grid_fields(layout.grid).items():
            put_attribute(grid, name, value)
        h5.create_group("tokens")
        h5.create_group("sites")

    def _site(self, name: str) -> None:
        site = self.layout.site_named(name)
        dataset = new_dataset(self._h5["sites"], name, site.kind.h5(), site.shape)
        put_attribute(dataset, "axes", site.axes)
        put_attribute(dataset, "branches", self.layout.branches_of(site))
        if site.tokens is not None:
            if site.tokens not in self._token_sets:
                number = self._token_sets[site.tokens] = len(self._token_sets)
                self._pieces.append(_put(self._h5["tokens"], str(number), np.array(site.tokens, "<i8")))
            put_attribute(dataset, "tokens", f"/tokens/{self._token_sets[site.tokens]}")
        plan = BlockPlan.of(site.cells, site.cell_nbytes)
        put_attribute(dataset, "cells_per_group", plan.together)
        put_attribute(dataset, "block_bytes", plan.block_nbytes)
        self.offsets[name] = dataset.id.get_offset()

    def _label(self, group: h5py.Group, name: str, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            if isinstance(value, str):
                put_text(group, name, value)
            else:
                put_array(group, name, np.array(value))
            return value
        piece = _put(group, name, value)
        grid = self.layout.grid
        if value.shape == (grid.frames, grid.rows, grid.cols):
            put_attribute(group[name], "axes", ("frame", "row", "col"))
        return piece


def _put(group: h5py.Group, name: str, array: np.ndarray) -> Piece:
    dataset = put_array(group, name, array)
    kind = array.dtype.newbyteorder("=").name
    return Piece(dataset.id.get_offset() or 0, array.shape, kind, xxh3_64_hexdigest(np.ascontiguousarray(array).data))
