"""Reads one file of a store: its index is checked against the manifest, and everything else against the index."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from xxhash import xxh3_64_hexdigest

from interp.store.codedextent import CodedExtent
from interp.store.disk import pread_into
from interp.store.extent import Extent, Source
from interp.store.index import LARGEST_INDEX, Index, Piece
from interp.store.layout import SiteLayout, find_site
from interp.store.manifest import Line
from interp.store.part import Chosen, Part


class StoreFile:
    """A finished file, of one run or of many.

    Args:
        folder: where it lies.
        line: what the manifest says of it.
        name: how errors call it.
        remedy: what errors tell the user to do.

    Raises:
        StoreError: the file is missing, truncated, damaged, foreign or of another version.
    """

    def __init__(self, folder: Path, line: Line, name: str, remedy: str) -> None:
        self.source = Source(folder / f"{line.run}.h5", name, remedy)
        self.line = line
        self.index = self._open(line)
        self._extents: dict[str, Extent | CodedExtent] = {}

    @property
    def total(self) -> int:
        """Runs in it."""
        return max(1, len(self.index.runs))

    def site(self, name: str) -> SiteLayout:
        """Layout of a site in a run, without its tokens (see `tokens`)."""
        return find_site(name, self.index.sites, self.source.name).layout

    def tokens(self, name: str) -> np.ndarray | None:
        """Indices int64 [token] on the full grid that a site keeps; None for all."""
        entry = find_site(name, self.index.sites, self.source.name)
        if entry.tokens is None:
            return None
        tokens, grid = self._read(self.index.token_sets[entry.tokens]), self.index.run.grid
        if tokens.min() < 0 or tokens.max() >= grid.frames * grid.rows * grid.cols:
            self.source.refuse(f"cannot be used: site {name} keeps tokens that are not on its grid")
        return tokens

    def extent(self, name: str) -> Extent | CodedExtent:
        """The bytes of a site."""
        if name not in self._extents:
            entry = find_site(name, self.index.sites, self.source.name)

            def describe(first: int, last: int) -> str:
                cells = (first, last) if last > first else (first,)
                return f"site {name}, {' to '.join(self._cell(entry.layout, cell) for cell in cells)}"

            sums = partial(self.numbers, piece=entry.checksums)
            if entry.layout.chunk is None:
                table = (entry.checksums.offset, entry.checksums.nbytes)
                self._extents[name] = Extent(self.source, entry.offset, entry.plan, sums, table, describe)
            else:
                bits = entry.layout.kind.bits
                self._extents[name] = CodedExtent(self.source, entry.chunks, bits, entry.plan, sums, describe)
        return self._extents[name]

    def part(self, name: str, chosen: Chosen) -> Part:
        """A site of some runs."""
        tokens = partial(self.tokens, name)
        extent, site = self.extent(name), self.index.sites[name].layout
        return Part(self.source.name, self.index.run, site, tokens, extent, self.total, chosen)

    def numbers(self, fd: int, piece: Piece) -> np.ndarray:
        """Read and check small numbers from ``fd``, a descriptor of `source`."""
        data = bytearray(piece.nbytes)
        self._pread(fd, data, piece.offset)
        if xxh3_64_hexdigest(data) != piece.xxh3:
            self.source.refuse(f"is damaged: {piece.dtype} numbers at byte {piece.offset} do not match their checksum")
        return np.frombuffer(data, _little(piece.dtype)).reshape(piece.shape)

    def _cell(self, site: SiteLayout, cell: int) -> str:
        index = self.index
        pair, number = divmod(cell, self.total)
        step, branch = divmod(pair, site.shape[1])
        where = f"step {index.run.steps[step]}, branch {index.run.branches_of(site)[branch]}"
        return f"{where}, run {index.runs[number]}" if index.runs else where

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
                return Index.parse(bytes(text), line.run, start, size)
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


class Shard(StoreFile):
    """The file of one run.

    Args:
        store: folder of the store.
        line: what the manifest says of the run.
    """

    def __init__(self, store: Path, line: Line) -> None:
        remedy = f"take the run off the list with `wan-interp cache verify --drop {store}` and capture it again"
        super().__init__(store / "runs", line, f"run {line.run}", remedy)
        self.run = line.run

    @property
    def provenance(self) -> Any:
        """Everything that determined the run."""
        return self.index.run.provenance

    def layout_of(self, name: str) -> SiteLayout:
        """Layout of a site, with its tokens."""
        tokens = self.tokens(name)
        return replace(self.site(name), tokens=None if tokens is None else tuple(tokens.tolist()))

    def label(self, name: str) -> Any:
        """A label: a scalar, or an array. KeyError if the run has none of that name."""
        value = self.index.labels[name]
        return self._read(value) if isinstance(value, Piece) else value


class Bundle(StoreFile):
    """A site-major file of many runs.

    Args:
        store: folder of the store.
        line: what the manifest of site-major files says of it.
    """

    def __init__(self, store: Path, line: Line) -> None:
        remedy = (
            "if it was consolidated meanwhile, open the store anew; else "
            f"remove {store / 'consolidated'} (the runs themselves stay) and consolidate again"
        )
        super().__init__(store / "consolidated", line, f"site-major file {line.run}", remedy)


@cache
def _little(name: str) -> np.dtype:
    return np.dtype(name).newbyteorder("<")
