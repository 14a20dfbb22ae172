"""Writes one run: space is taken first, data goes to a temporary file, the run exists only once it is in the manifest.

Order: skeleton in memory, allocate ``runs/<run>.h5.tmp.<pid>``, data by pwrite, metadata by pwrite, fsync, rename,
fsync of the folder, manifest line, fsync. Any error on the way discards the shard whole: there is no retry, because
what a file system keeps of a file after a failed write or fsync is anybody's guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from interp.errors import StoreError
from interp.store.blockwriter import BlockWriter
from interp.store.cellcheck import RunCheck
from interp.store.codedwriter import CodedWriter
from interp.store.datafile import DataFile
from interp.store.labels import checked_labels
from interp.store.layout import RunLayout, SiteLayout
from interp.store.manifest import Line, Manifest
from interp.store.pending import PendingFile
from interp.store.sitebuffer import SiteBuffer
from interp.store.underway import Lease, Underway


class ShardWriter:
    """Takes the tensors of one run. Made by `Store.writer`; a context manager, or end with `finish` or `abort`.

    Args:
        path: the shard to be.
        layout: what will be written.
        manifest: where the finished run is listed.
        underway: what writes past the page cache where that can be, see `interp.store.output`; None writes through it.

    Raises:
        StoreError: the run is there already or is being written, or there is no space for it.
    """

    def __init__(self, path: Path, layout: RunLayout, manifest: Manifest, underway: Underway | None = None) -> None:
        self.path, self.layout = path, layout
        self._over: str | None = None
        self._file = DataFile(layout.stored)
        self._pending = PendingFile(path, manifest, self._file.size, f"run {layout.run}", underway)
        self._check = RunCheck(layout)
        self._sites = {
            site.site: SiteBuffer(site, self._file.plan(site), self._blocks(site)) for site in layout.stored.sites
        }

    def write(self, site: str, step_index: int, branch_index: int, tensor: Any) -> None:
        """Keep one tensor.

        Args:
            site: a site of the layout.
            step_index: place along the layout's steps (not the sampler's step).
            branch_index: place along the site's branches.
            tensor: torch tensor or NumPy array [<site axes>] of the site's dtype; it may be reused afterwards.

        Raises:
            StoreError: it does not fit the layout (the writer stays usable), or the disk failed (the run is discarded).
        """
        if self._over is not None:
            raise StoreError(f"run {self.layout.run} takes no more data: {self._over}")
        cell, given = self._check.site(site).check(step_index, branch_index, tensor)
        try:
            if isinstance(given, dict):
                for name, part in given.items():
                    self._sites[name].put(cell, part)
            else:
                self._sites[site].put(cell, given)
        except OSError as error:
            raise self.failed("writing", error) from error
        except BaseException as error:
            self._discard(f"{type(error).__name__} came in the middle of a write")
            raise

    def put_bytes(self, site: str, start: int, data: memoryview, lease: Lease | None = None) -> None:
        """Keep some bytes that another process has checked; see `SiteBuffer.put_bytes`.

        Raises:
            OSError: the disk failed; `abort` must follow.
        """
        self._sites[site].put_bytes(start, data, lease)

    def finish(self, labels: Mapping[str, Any] | None = None) -> None:
        """Write the labels, make all of it last, and list the run as finished.

        Args:
            labels: by name: a number, bool or text of the run, an array [frame, row, col] over the full token grid, or
                any other array of numbers. None values are left out.

        Raises:
            StoreError: something of the layout was never written, a label cannot be stored, or the disk failed. The
                run is discarded in each case.
        """
        if self._over is not None:
            raise StoreError(f"run {self.layout.run} cannot be finished: {self._over}")
        try:
            checked = checked_labels(labels or {}, f"run {self.layout.run}")
            if any(buffer.blocks.left for buffer in self._sites.values()):
                self._check.check_complete()
                raise AssertionError(f"run {self.layout.run} lacks bytes")
            sums = {name: buffer.blocks.checksums for name, buffer in self._sites.items()}
            index_at, index = self._file.close(checked, sums)
            self._pending.write_metadata(self._file)
            self._pending.commit(Line.of(self.layout.run, self._file.size, index_at, index))
        except OSError as error:
            raise self.failed("finishing", error) from error
        except BaseException as error:
            self._discard(f"finishing it failed: {type(error).__name__} {error}")
            raise
        self._over = "it is finished"

    def abort(self) -> None:
        """Throw the run away, unless it is finished."""
        if self._over is None:
            self._discard("it was aborted")

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.abort()

    def failed(self, doing: str, error: OSError) -> StoreError:
        """Discard the run because the disk failed; gives what to tell the user."""
        reason = error.strerror or str(error)
        self._discard(f"{doing} it failed: {reason}")
        return StoreError(
            f"{doing} run {self.layout.run} failed ({reason}), so it was discarded; finished runs are intact: "
            "free some space or mend the disk, then run the same command again"
        )

    def _blocks(self, site: SiteLayout) -> BlockWriter | CodedWriter:
        output, plan = self._pending.output, self._file.plan(site)
        if site.chunk is None:
            return BlockWriter(plan, output, self._file.offsets[site.site])
        return CodedWriter(plan, site.kind.bits, output, partial(self._file.place, site))

    def _discard(self, why: str) -> None:
        self._over = why if why.startswith("it was") else f"it was discarded ({why})"
        self._sites = {}
        self._pending.discard()
