"""Reads one run's shard: its index is checked against the manifest, and everything else against the index."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from xxhash import xxh3_64_hexdigest

from interp.store.disk import pread_into
from interp.store.extent import Extent, Source
from interp.store.index import LARGEST_INDEX, Index, Piece
from interp.store.layout import SiteLayout, find_site
from interp.store.manifest import Line


class Shard:
    """A finished run.

    Args:
        folder: where the shards are.
        line: what the manifest says of it.

    Raises:
        StoreError: the file is missing, truncated, damaged, foreign or of another version.
    """

    def __init__(self, folder: Path, line: Line) -> None:
        self.run = line.run
        self.source = Source(folder / f"{line.run}.h5", f"run {line.run}")
        self.line = line
        self.index = self._open(line)
        self._extents: dict[str, Extent] = {}

    @property
    def provenance(self) -> Any:
        """Everything that determined the run."""
        return self.index.run.provenance

    def site(self, name: str) -> SiteLayout:
        """Layout of a site, without its tokens (see `tokens`)."""
        return find_site(name, self.index.sites, f"run {self.run}").layout

    def tokens(self, name: str) -> np.ndarray | None:
        """Indices int64 [token] on the full grid that a site keeps; None for all."""
        entry = find_site(name, self.index.sites, f"run {self.run}")
        return None if entry.tokens is None else self._read(self.index.token_sets[entry.tokens])

    def layout_of(self, name: str) -> SiteLayout:
        """Layout of a site, with its tokens."""
        tokens = self.tokens(name)
        return replace(self.site(name), tokens=None if tokens is None else tuple(tokens.tolist()))

    def extent(self, name: str) -> Extent:
        """The bytes of a site."""
        if name not in self._extents:
            entry = find_site(name, self.index.sites, f"run {self.run}")

            def describe(first: int, last: int) -> str:
                names = []
                for cell in (first, last) if last > first else (first,):
                    step, branch = divmod(cell, entry.layout.shape[1])
                    branches = self.index.run.branches_of(entry.layout)
                    names.append(f"step {self.index.run.steps[step]}, branch {branches[branch]}")
                return f"site {name}, {' to '.join(names)}"

            self._extents[name] = Extent(
                self.source, entry.offset, entry.plan, lambda fd: self.numbers(fd, entry.checksums), describe
            )
        return self._extents[name]

    def label(self, name: str) -> Any:
        """A label: a scalar, or an array. KeyError if the run has none of that name."""
        value = self.index.labels[name]
        return self._read(value) if isinstance(value, Piece) else value

    def numbers(self, fd: int, piece: Piece) -> np.ndarray:
        """Read and check small numbers of this shard from ``fd``, a descriptor of its source."""
        data = bytearray(piece.nbytes)
        self._pread(fd, data, piece.offset)
        if xxh3_64_hexdigest(data) != piece.xxh3:
            self.source.refuse(
                f"is damaged: the {piece.dtype} numbers at byte {piece.offset} do not match their checksum"
            )
        return np.frombuffer(data, _little(piece.dtype)).reshape(piece.shape)

    def _open(self, line: Line) -> Index:
        fd = self.source.open()
        try:
            size = os.fstat(fd).st_size
            if size != line.size:
                self.source.refuse(f"has {size} bytes instead of {line.size}: it is truncated or foreign")
            start, nbytes = line.index
            if not (start >= 0 and 0 <= nbytes <= LARGEST_INDEX and start + nbytes <= size):
                self.source.refuse(f"has no index at byte {start}")
            text = bytearray(nbytes)
            self._pread(fd, text, start)
            if xxh3_64_hexdigest(text) != line.xxh3:
                self.source.refuse(f"is damaged or foreign: its index (byte {start}) does not match its checksum")
            try:
                return Index.parse(bytes(text), line.run, size)
            except ValueError as error:
                self.source.refuse(f"cannot be used: {error}")
        finally:
            os.close(fd)

    def _read(self, piece: Piece) -> np.ndarray:
        fd = self.source.open()
        try:
            return self.numbers(fd, piece)
        finally:
            os.close(fd)

    def _pread(self, fd: int, out: bytearray, start: int) -> None:
        try:
            pread_into(fd, memoryview(out), start)
        except (EOFError, OSError) as error:
            self.source.refuse(f"cannot be read at byte {start}: {error}")


@cache
def _little(name: str) -> np.dtype:
    return np.dtype(name).newbyteorder("<")
