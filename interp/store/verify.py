"""Checks every byte of a store, and says of each run whether it can be trusted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from xxhash import xxh3_64

from interp.errors import StoreError
from interp.store.disk import pread_into
from interp.store.index import Piece
from interp.store.manifest import LIST
from interp.store.sparse import SparseFile, between
from interp.store.storefile import Bundle, Shard, StoreFile
from interp.store.structure import check_structure

if TYPE_CHECKING:
    from interp.store.store import Store

LARGEST_REST = 1 << 30
"""Bytes of a file that may be neither data nor index."""


@dataclass(frozen=True)
class Report:
    """What `verify` found.

    Attributes:
        files: files that were checked, each of one run or site-major.
        nbytes: their bytes.
        damaged: by run (or name of a site-major file), what is wrong with it, one sentence each.
        unlisted: files in the store's folders that belong to no finished run: left by a crash, or foreign; never read.
    """

    files: int
    nbytes: int
    damaged: dict[str, tuple[str, ...]]
    unlisted: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Nothing is damaged."""
        return not self.damaged


def verify(store: Store, runs: Iterable[str] | None = None, progress: Callable[[str], None] | None = None) -> Report:
    """Read everything and compare it with its checksums, and the HDF5 side with the index.

    Args:
        store: what to check.
        runs: keys; None is all, and the site-major files.
        progress: called with the name of each file when it is done.
    """
    chosen = list(store.runs if runs is None else runs)
    damaged, nbytes = {}, 0
    opened: dict[str, tuple[int, Callable[[], StoreFile]]] = {}
    for run in chosen:
        line = store.line(run)
        opened[run] = (line.size, partial(Shard, store.path, line))
    for line in store.bundle_lines() if runs is None else ():
        opened[line.run] = (line.size, partial(Bundle, store.path, line))
    for name, (size, opener) in opened.items():
        problems = tuple(_problems(opener))
        nbytes += size
        if problems:
            damaged[name] = problems
        if progress:
            progress(name)
    return Report(len(opened), nbytes, damaged, unlisted(store))


def unlisted(store: Store) -> tuple[str, ...]:
    """Files that are no finished run and no site-major file of now, as paths in the store's folder."""
    listed = {store.path / "runs" / f"{run}.h5" for run in store.runs}
    folder = store.path / "consolidated"
    listed |= {folder / LIST, *(folder / f"{line.run}.h5" for line in store.bundle_lines())}
    found = {*store.path.glob("runs/*"), *folder.glob("*")} - listed
    return tuple(sorted(path.relative_to(store.path).as_posix() for path in found))


def _problems(opener: Callable[[], StoreFile]) -> Iterator[str]:
    try:
        shard = opener()
        fd = shard.source.open()
    except StoreError as error:
        yield str(error)
        return
    try:
        for check in _checks(shard, fd):
            try:
                check()
            except StoreError as error:
                yield str(error)
    finally:
        os.close(fd)


def _checks(shard: StoreFile, fd: int) -> Iterator[Callable[[], object]]:
    index = shard.index
    for name in index.sites:
        yield partial(shard.extent(name).check, fd)
    for piece in [*index.token_sets, *(label for label in index.labels.values() if isinstance(label, Piece))]:
        yield partial(shard.numbers, fd, piece)
    yield partial(_check_rest, shard, fd)


def _check_rest(shard: StoreFile, fd: int) -> None:
    """Check what is neither data nor index, then what HDF5 makes of it."""
    index, size, (start, nbytes) = shard.index, shard.line.size, shard.line.index
    gaps = sorted([*index.data(), (start, start + nbytes)])
    ranges = list(between(gaps, size))
    if sum(stop - at for at, stop in ranges) > LARGEST_REST:
        shard.source.refuse("has more metadata than can be meant")
    content = SparseFile(size)
    hashed = xxh3_64()
    try:
        for at, stop in [*ranges, (start, start + nbytes)]:
            data = bytearray(stop - at)
            pread_into(fd, memoryview(data), at)
            content.seek(at)
            content.write(data)
            if at != start:
                hashed.update(data)
    except (OSError, EOFError) as error:
        shard.source.refuse(f"cannot be read: {error}")
    if hashed.hexdigest() != index.rest:
        shard.source.refuse("is damaged in its HDF5 structures: they do not match their checksum")
    try:
        check_structure(content, index)
    except ValueError as error:
        shard.source.refuse(f"is not what its index says: {error}")
