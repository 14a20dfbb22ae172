"""Brings the runs of several stores into one; only what is sound and belongs together."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from xxhash import xxh3_64

from interp.errors import StoreError
from interp.store.disk import open_read, pread_into, pwrite_all
from interp.store.head import differences
from interp.store.manifest import Line
from interp.store.pending import PendingFile
from interp.store.store import Store
from interp.store.verify import verify

PIECE = 1 << 24


def merge(
    target: str | Path, sources: Sequence[str | Path], progress: Callable[[str, int, int], None] | None = None
) -> Store:
    """Copy all runs of ``sources`` into ``target``.

    Every run is verified in full before it is copied, and its copy is read back. Nothing is copied before it is known
    that all stores fit together. A merge that was interrupted goes on where it was when it is called again.

    Args:
        target: folder of a store, or of one to be made.
        sources: folders of stores; they are left as they are.
        progress: called with a run that is there now, how many are, and how many there will be.

    Returns:
        The merged store.

    Raises:
        StoreError: provenances differ, one run key stands for different data, a run is damaged, or the disk failed.
    """
    stores = [Store.open(path) for path in sources]
    if not stores:
        raise StoreError("no stores were given to merge")
    for store in stores[1:]:
        differ = differences(stores[0].provenance, store.provenance, ("in the first", "in the second"))
        if differ:
            raise StoreError(f"{stores[0].path} and {store.path} do not belong together: {differ}")
    merged = Store.create(target, stores[0].provenance)
    todo: dict[str, tuple[Store, Line]] = {}
    for store in stores:
        for run in store.runs:
            line = store.line(run)
            other = merged.line(run) if run in merged else todo[run][1] if run in todo else None
            if other is None:
                todo[run] = (store, line)
            elif other != line:
                raise StoreError(
                    f"run {run} of {store.path} differs from the run of that key in the other stores; "
                    "drop one of them before merging"
                )
    for done, (run, (store, line)) in enumerate(todo.items(), start=1):
        report = verify(store, [run])
        if not report.ok:
            raise StoreError(f"nothing more is merged: {report.damaged[run][0]}")
        _copy(store, merged, line)
        if progress:
            progress(run, done, len(todo))
    merged.refresh()
    return merged


def _copy(store: Store, merged: Store, line: Line) -> None:
    source = store.path / "runs" / f"{line.run}.h5"
    pending = PendingFile(merged.path / "runs" / source.name, merged.manifest, line.size, f"run {line.run}")
    try:
        fd, _ = open_read(source)
        try:
            written = _stream(fd, line.size, lambda data, at: pwrite_all(pending.fd, data, at))
        finally:
            os.close(fd)
        os.fsync(pending.fd)
        os.posix_fadvise(pending.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if _stream(pending.fd, line.size, lambda data, at: None) != written:
            raise StoreError(f"run {line.run} was read back other than written: the disk or memory is faulty")
        pending.commit(line)
    except (OSError, EOFError) as error:
        pending.discard()
        raise StoreError(f"copying run {line.run} failed ({error}); finished runs are intact: merge again") from error
    except BaseException:
        pending.discard()
        raise


def _stream(fd: int, size: int, take: Callable[[memoryview, int], None]) -> str:
    """Read a file in pieces; gives its checksum."""
    hashed, buffer = xxh3_64(), memoryview(bytearray(min(size, PIECE)))
    for at in range(0, size, PIECE):
        piece = buffer[: min(PIECE, size - at)]
        pread_into(fd, piece, at)
        hashed.update(piece)
        take(piece, at)
    return hashed.hexdigest()
