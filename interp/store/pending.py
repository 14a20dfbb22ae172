"""A file that is being written: it has its space and a lock, and is there only once its manifest says so."""

from __future__ import annotations

import fcntl
import os
from contextlib import ExitStack
from pathlib import Path

from interp.errors import StoreError
from interp.store.datafile import DataFile
from interp.store.disk import allocate, open_direct, pwrite_all, replace
from interp.store.manifest import Line, Manifest
from interp.store.output import Output
from interp.store.underway import Underway


class PendingFile:
    """``<name>.h5.tmp.<pid>``, to become ``<name>.h5``.

    Args:
        path: the file to be; its stem is its name in the manifest.
        manifest: where it will be listed.
        size: bytes to take now.
        what: how errors call it, as "run 3f2a".
        underway: what writes past the page cache where that can be, see `interp.store.output`; None writes through it.

    Attributes:
        fd: its descriptor.
        output: what takes its bytes.

    Raises:
        StoreError: it is there already or is being written, or there is no space for it.
    """

    def __init__(self, path: Path, manifest: Manifest, size: int, what: str, underway: Underway | None = None) -> None:
        self.path, self.what = path, what
        self._manifest = manifest
        self._temporary = path.with_name(f"{path.name}.tmp.{os.getpid()}")
        with ExitStack() as undo:
            try:
                with manifest.locked():
                    if path.stem in manifest.lines:
                        raise StoreError(f"{what} is already in {path.parent.parent}; nothing is overwritten")
                    self.fd = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
                    self.output = Output(self.fd)
                    undo.callback(self.discard)
                    fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                allocate(self.fd, size, what)
                if underway is not None:
                    self.output = Output(self.fd, open_direct(self._temporary), underway)
            except FileExistsError as error:
                raise StoreError(f"{what} is being written already ({self._temporary} exists)") from error
            except OSError as error:
                raise StoreError(f"{what} cannot be written to {path.parent}: {error.strerror}") from error
            undo.pop_all()

    def write_metadata(self, file: DataFile) -> None:
        """Write all but the data of sites, and make the file last.

        Raises:
            OSError: the disk did not take it, or what was written before.
        """
        self.output.settle()
        for offset, piece in file.pieces():
            pwrite_all(self.fd, piece, offset)
        os.ftruncate(self.fd, file.size)
        os.fsync(self.fd)

    def commit(self, line: Line) -> None:
        """Give the file its name and list it. On an error it is as if it had never been.

        Args:
            line: what the manifest will say.

        Raises:
            OSError: the disk did not take it.
            StoreError: another process has listed it meanwhile.
        """
        with self._manifest.locked() as fd:
            if line.run in self._manifest.lines:
                raise StoreError(f"{self.what} was finished by another process meanwhile; that one is kept")
            try:
                replace(self._temporary, self.path)
                self._manifest.append(fd, line)
            except BaseException:
                self.path.unlink(missing_ok=True)
                raise
        self._close()

    def discard(self) -> None:
        """Remove what was written."""
        try:
            self._temporary.unlink(missing_ok=True)
        finally:
            self._close()

    def _close(self) -> None:
        self.output.close()
        os.close(self.fd)
