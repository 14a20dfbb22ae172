"""Turns shards into site-major files, in which one cell over all runs is one stretch of bytes.

Shards are written in the order in which a model runs and are read back in another: one site and step over all runs.
Doing that transposition once, in large strides, beats doing it at each read. Everything is streamed with bounded
memory, and the new file is read back and compared with the shards before it counts. The shards stay the truth.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from xxhash import xxh3_64_hexdigest

from interp.errors import StoreError
from interp.store.blocks import LARGE
from interp.store.datafile import DataFile, Members
from interp.store.disk import bytes_of, pread_into, sync_folder
from interp.store.h5 import texts
from interp.store.layout import RunLayout, SiteLayout
from interp.store.manifest import LIST, Line, Manifest
from interp.store.pending import PendingFile
from interp.store.sitestream import SiteStream
from interp.store.storefile import Shard

if TYPE_CHECKING:
    from interp.store.store import Store

MEMORY = 512 << 20

NAME = re.compile(r"[0-9a-f]{16}")
"""Names of site-major files, see `_name`."""


@dataclass(frozen=True)
class Tile:
    """Cells [first, last) of runs [low, high): they lie together in a site-major file."""

    first: int
    last: int
    low: int
    high: int


def consolidate(
    store: Store, memory: int = MEMORY, progress: Callable[[int, int], None] | None = None
) -> tuple[str, ...]:
    """Bring a store's site-major files up to date; runs of one layout share a file.

    Args:
        store: it is refreshed afterwards, and reads from the new files.
        memory: bytes of data held at once, but at least one cell.
        progress: called with the bytes done and the bytes in all.

    Returns:
        Names of the files that were made; empty if all was up to date.

    Raises:
        StoreError: a shard is damaged, or the disk failed or is full. What was there before is still there.
    """
    store.refresh()
    kinds: dict[str, list[str]] = {}
    for run in store.runs:
        kinds.setdefault(_kind(store.layout(run)), []).append(run)
    folder = store.path / "consolidated"
    manifest = Manifest(folder / LIST)
    try:
        folder.mkdir(exist_ok=True)
        manifest.load()
        _remove_unlisted(folder, manifest)
        _remove(folder, manifest, {name for name, line in manifest.lines.items() if _lost(folder / f"{name}.h5", line)})
        names = {_name(store, runs): runs for runs in kinds.values()}
        todo = {name: runs for name, runs in names.items() if name not in manifest.lines}
        total = 2 * sum(store.layout(runs[0]).nbytes * len(runs) for runs in todo.values())
        meter = _Meter(total, progress)
        for name, runs in todo.items():
            _Job(store, folder / f"{name}.h5", manifest, runs, memory, meter).run()
        _remove(folder, manifest, manifest.lines.keys() - names.keys())
    except OSError as error:
        raise StoreError(f"{folder} cannot be used: {error.strerror}") from error
    store.refresh()
    return tuple(todo)


class _Meter:
    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        self.total, self.done, self._progress = total, 0, progress

    def add(self, nbytes: int) -> None:
        self.done += nbytes
        if self._progress:
            self._progress(self.done, self.total)


class _Job:
    """Makes one site-major file."""

    def __init__(
        self, store: Store, path: Path, manifest: Manifest, runs: list[str], memory: int, meter: _Meter
    ) -> None:
        self.shards = [Shard(store.path, store.line(run)) for run in runs]
        self.memory, self.meter = memory, meter
        members = Members(
            tuple(runs), tuple(shard.line.xxh3 for shard in self.shards), tuple(s.provenance for s in self.shards)
        )
        layout = store.layout(runs[0])
        sites = tuple(replace(site, codec=None if site.codec == "zstd" else site.codec) for site in layout.sites)
        self.layout = replace(layout, run=path.stem, sites=sites, provenance=_common(members.provenance))
        self.file = DataFile(self.layout, members)
        self.pending = PendingFile(path, manifest, self.file.size, f"site-major file {path.stem}")

    def run(self) -> None:
        """Write, read back, and commit; all or nothing."""
        try:
            sums = {site.site: self._write(site) for site in self.layout.sites}
            index_at, index = self.file.close(_labels(self.shards), sums)
            self.pending.write_metadata(self.file)
            os.posix_fadvise(self.pending.fd, 0, 0, os.POSIX_FADV_DONTNEED)  # read back from the disk, not from memory
            for site in self.layout.sites:
                self._compare(site)
            self.pending.commit(Line.of(self.layout.run, self.file.size, index_at, index))
        except OSError as error:
            self.pending.discard()
            raise StoreError(
                f"consolidating failed ({error.strerror}), and its file was removed; the runs are intact in their own "
                "files: free some space or mend the disk, then run the same command again"
            ) from error
        except BaseException:
            self.pending.discard()
            raise

    def _write(self, site: SiteLayout) -> np.ndarray:
        stream = SiteStream(self.file.plan(site), self.pending.output, self.file.offsets[site.site])
        for tile in self._tiles(site):
            stream.append(bytes_of(self._load(site, tile)))
        return stream.close()

    def _compare(self, site: SiteLayout) -> None:
        for tile in self._tiles(site):
            wanted = self._load(site, tile)
            got = np.empty_like(wanted)
            start = (tile.first * len(self.shards) + tile.low) * site.cell_nbytes
            pread_into(self.pending.fd, bytes_of(got), self.file.offsets[site.site] + start)
            if not _same(got.reshape(-1), wanted.reshape(-1)):
                raise StoreError(
                    f"site {site.site} was read back other than it was written: the disk or memory is faulty"
                )
            del wanted, got  # before the next tile is loaded: else three would be held at once

    def _load(self, site: SiteLayout, tile: Tile) -> np.ndarray:
        """Bytes [cell, run, byte] of a tile, from the shards."""
        count, nbytes = tile.last - tile.first, site.cell_nbytes
        out = np.empty((count, tile.high - tile.low, nbytes), np.uint8)
        column = np.empty((count, nbytes), np.uint8)
        for i, shard in enumerate(self.shards[tile.low : tile.high]):
            target = out[0, i] if count == 1 else column
            fd = shard.source.open()
            try:
                shard.extent(site.site).read(fd, tile.first * nbytes, bytes_of(target))
            finally:
                os.close(fd)
            if count > 1:
                out[:, i] = column
        self.meter.add(out.nbytes)
        return out

    def _tiles(self, site: SiteLayout) -> Iterator[Tile]:
        """Tiles that fill a site in the order of its bytes."""
        runs, cells = len(self.shards), site.cells
        wide = self.memory // (2 * runs * site.cell_nbytes)  # half for what is compared with
        if wide:
            for first in range(0, cells, wide):
                yield Tile(first, min(first + wide, cells), 0, runs)
        else:
            tall = max(1, self.memory // (2 * site.cell_nbytes))
            for first in range(cells):
                for low in range(0, runs, tall):
                    yield Tile(first, first + 1, low, min(low + tall, runs))


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Are two rows of bytes equal? Piece by piece, as a comparison is an array as long as they are."""
    return all(np.array_equal(a[at : at + LARGE], b[at : at + LARGE]) for at in range(0, len(a), LARGE))


def _kind(layout: RunLayout) -> str:
    """Runs with the same text share a file."""
    parts = {**vars(layout), "run": None, "provenance": None}
    return repr({name: parts[name] for name in sorted(parts)})


def _name(store: Store, runs: list[str]) -> str:
    """Name of the site-major file of these runs, as they are now."""
    return xxh3_64_hexdigest(json.dumps([(run, store.line(run).xxh3) for run in runs]).encode())


def _common(provenance: tuple[Any, ...]) -> dict[str, Any]:
    """What all runs share."""
    first = provenance[0]
    return {k: v for k, v in first.items() if all(p.get(k, _common) == v for p in provenance)}


def _labels(shards: list[Shard]) -> dict[str, np.ndarray]:
    """Labels [run, ...] that all runs have, in one kind and shape; the others stay in the shards."""
    out = {}
    for name in shards[0].index.labels:
        if not all(name in shard.index.labels for shard in shards):
            continue
        values = [shard.label(name) for shard in shards]
        if all(isinstance(value, str) for value in values):
            out[name] = texts(values)
            continue
        arrays = [np.asarray(value) for value in values]
        if len({(array.shape, array.dtype) for array in arrays}) == 1 and arrays[0].dtype.kind != "U":
            out[name] = np.stack(arrays)
    return out


def _lost(path: Path, line: Line) -> bool:
    """Is a file gone, or cut? `verify` finds all other damage."""
    return not path.is_file() or path.stat().st_size != line.size


def _remove_unlisted(folder: Path, manifest: Manifest) -> None:
    """Remove what a killed consolidation has left: its space is taken, and nobody would use it."""
    if any(folder.glob("*.tmp.*")):
        manifest.clean(folder)
    ours = [path for path in folder.glob("*.h5") if NAME.fullmatch(path.stem)]
    if any(path.stem not in manifest.lines for path in ours):
        with manifest.locked():  # under it a file is renamed and listed
            for path in ours:
                if path.stem not in manifest.lines:
                    path.unlink(missing_ok=True)


def _remove(folder: Path, manifest: Manifest, names: set[str]) -> None:
    """Take site-major files off the list, which are lost or which newer ones have replaced."""
    if names:
        manifest.remove(names)
        for name in names:
            (folder / f"{name}.h5").unlink(missing_ok=True)
        sync_folder(folder)
