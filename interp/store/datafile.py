"""The HDF5 side of a file that is being written: what a reader with plain h5py finds (see docs/design/store.md).

One class serves both kinds of file: a shard holds one run, a site-major file many, with "run" as its third axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import h5py
import numpy as np
from xxhash import xxh3_64_hexdigest

from interp.store.blocks import BlockPlan
from interp.store.h5 import ALIGNMENT, new_dataset, new_file, put_array, put_attribute, put_text, texts
from interp.store.index import Index, Piece, SiteEntry
from interp.store.layout import RunLayout, SiteLayout, to_json
from interp.store.skeleton import plan_of, put_piece, skeleton_of

SHOWN = ("model", "model_hash", "task", "sample", "seed")
"""What of the provenance is shown as attributes, too."""


@dataclass(frozen=True)
class Members:
    """The runs of a site-major file.

    Attributes:
        runs: their keys.
        sums: checksum of each one's index, as in the manifest.
        provenance: of each.
    """

    runs: tuple[str, ...]
    sums: tuple[str, ...]
    provenance: tuple[Mapping[str, Any], ...]


class DataFile:
    """A file's metadata in memory, and where its data belong.

    Args:
        layout: what a run of it holds.
        members: for a site-major file, its runs.
    """

    def __init__(self, layout: RunLayout, members: Members | None = None) -> None:
        self.layout, self.members = layout, members
        self._runs = None if members is None else len(members.runs)
        self._skeleton = skeleton_of(layout, self._runs)
        self.offsets = self._skeleton.offsets
        self._bytes = self._skeleton.content.copy()
        self._h5 = new_file(self._bytes, "r+")
        self._open = True
        self._chunks: dict[str, dict[int, tuple[int, int]]] = {}
        self._head()

    @property
    def size(self) -> int:
        """Bytes of the file; before `close`, what it may take at most."""
        more = 0
        if self._open:
            coded = [self.plan(site) for site in self.layout.sites if site.chunk]
            more = sum(plan.count * (plan.block_nbytes + ALIGNMENT) for plan in coded)
        return max([self._bytes.size, *(stop for _, stop in self._data())]) + more

    def plan(self, site: SiteLayout) -> BlockPlan:
        """How a site's bytes are cut into blocks."""
        return plan_of(site, self._runs)

    def place(self, site: SiteLayout, block: int, stored: bytes) -> int:
        """Have HDF5 give a coded block its place; gives the first byte. The bytes themselves are not kept."""
        assert site.chunk is not None
        first, _ = self.plan(site).bounds(block)
        cell, rest = divmod(first, site.cell_nbytes)
        start = [*divmod(cell, site.shape[1]), *(0,) * len(site.cell_shape)]
        if rest:
            start[2] = rest // (site.cell_nbytes // site.cell_shape[0])
        dataset = self._h5["sites"][site.site].id
        as_it_is = len(stored) == self.plan(site).block_nbytes
        dataset.write_direct_chunk(tuple(start), stored, filter_mask=0b11 if as_it_is else 0)
        found = dataset.get_chunk_info_by_coord(tuple(start))
        self._chunks.setdefault(site.site, {})[block] = (found.byte_offset, found.size)
        self._bytes.forget(found.byte_offset, found.byte_offset + found.size)
        return int(found.byte_offset)

    def close(self, labels: Mapping[str, Any], checksums: Mapping[str, np.ndarray]) -> tuple[int, bytes]:
        """Add what is known at the end.

        Args:
            labels: checked labels; [run, ...] in a site-major file.
            checksums: uint64 [block] of each site.

        Returns:
            Where the index lies, and the index.
        """
        entries, sums, skeleton = {}, {}, self._skeleton
        for site in self.layout.sites:
            numbers = sums[site.site] = checksums[site.site].astype("<u8")
            where = Piece(skeleton.checksums[site.site], numbers.shape, "uint64", xxh3_64_hexdigest(numbers.data))
            tokens = None if site.tokens is None else skeleton.token_sets[site.tokens]
            bare = replace(site, tokens=None)
            found = self._chunks.get(site.site, {})
            chunks = tuple(found[block] for block in sorted(found))
            entries[site.site] = SiteEntry(bare, self.offsets[site.site], self.plan(site), where, tokens, chunks)
        group = self._h5["labels"]
        places = {name: self._label(group, name, value) for name, value in labels.items()}
        members = self.members
        index = Index(
            run=self.layout,
            sites=entries,
            token_sets=skeleton.pieces,
            labels={name: place for name, place in places.items() if place is not None},
            runs=members.runs if members else (),
            sums=members.sums if members else (),
        )
        room = new_dataset(self._h5, "index", h5py.h5t.py_create(np.dtype(f"S{len(index.to_json().encode())}")), ())
        start, nbytes = room.id.get_offset(), room.id.get_storage_size()
        self._h5.close()
        self._open = False
        for name, numbers in sums.items():  # into the room that the skeleton has for them
            self._bytes.seek(skeleton.checksums[name])
            self._bytes.write(numbers)
        gaps = sorted([*index.data(), (start, start + nbytes)])
        text = replace(index, rest=self._bytes.digest(gaps)).to_json().encode()
        if len(text) != nbytes:
            raise AssertionError(f"index of {len(text)} bytes in a room of {nbytes}")
        self._bytes.seek(start)
        self._bytes.write(text)
        return start, text

    def pieces(self) -> Iterator[tuple[int, memoryview]]:
        """(offset, bytes) of all metadata, after `close`."""
        return self._bytes.pieces(sorted(self._data()))

    def _data(self) -> list[tuple[int, int]]:
        plain = [(self.offsets[s.site], self.plan(s).nbytes) for s in self.layout.sites if s.chunk is None]
        coded = [chunk for chunks in self._chunks.values() for chunk in chunks.values()]
        return [(at, at + nbytes) for at, nbytes in plain + coded]

    def _head(self) -> None:
        layout, h5, members = self.layout, self._h5, self.members
        put_attribute(h5, "run", layout.run)
        for name in SHOWN:
            value = layout.provenance.get(name)
            if isinstance(value, str | int) and len(str(value)) < 4096:
                put_attribute(h5, name, value)
        if members is None:
            put_text(h5, "provenance", to_json(layout.provenance, "provenance"))
            put_text(h5, "prompt", str(layout.provenance.get("prompt", "")))
        else:
            put_array(h5, "provenance", texts([to_json(p, "provenance") for p in members.provenance]))
            put_array(h5, "prompt", texts([str(p.get("prompt", "")) for p in members.provenance]))
            put_array(h5, "runs", texts(members.runs))

    def _label(self, group: h5py.Group, name: str, value: Any) -> Any:
        """Write a label; gives what the index says of it (None for text of several runs, which it leaves out)."""
        if isinstance(value, str):
            put_text(group, name, value)
            return value
        if not isinstance(value, np.ndarray):
            put_array(group, name, np.array(value))
            return value
        axes: Sequence[str] = ("run",) if self.members else ()
        if value.dtype.kind == "S":
            put_array(group, name, value)
            return None
        piece = put_piece(group, name, value)
        grid = self.layout.grid
        if value.shape[len(axes) :] == (grid.frames, grid.rows, grid.cols):
            put_attribute(group[name], "axes", (*axes, "frame", "row", "col"))
        return piece
