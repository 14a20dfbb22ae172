"""The list of finished runs: one line of JSON each, outside the HDF5 files, fsynced after the shard it speaks of.

A run is finished if and only if it has a line. Each line carries its own checksum; a last line without its line break
was cut off by a crash and does not count. The file's lock orders writers: threads, processes
and machines that share a folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from xxhash import xxh3_64_hexdigest

from interp.errors import StoreError
from interp.store.disk import locked, open_read, pwrite_all, try_lock, write_whole
from interp.store.layout import check_name, from_json

LIST = "manifest.jsonl"

PIECE = 1 << 20
"""Bytes that are read at a time, and more than any line has."""


@dataclass(frozen=True)
class Line:
    """A finished run.

    Attributes:
        run: its key; its shard is ``runs/<run>.h5``.
        size: bytes of the shard.
        index: first byte and number of bytes of the shard's index.
        xxh3: of the index, which holds the checksums of all else.
    """

    run: str
    size: int
    index: tuple[int, int]
    xxh3: str

    @staticmethod
    def of(run: str, size: int, index_at: int, index: bytes) -> Line:
        """The line of a file with this index at that byte."""
        return Line(run, size, (index_at, len(index)), xxh3_64_hexdigest(index))

    def to_json(self) -> str:
        """The line without its line break."""
        body = asdict(self)
        return _compact(body | {"line": xxh3_64_hexdigest(_compact(body).encode())})

    @staticmethod
    def parse(text: bytes) -> Line:
        """Read a line.

        Raises:
            ValueError: it is damaged.
        """
        body = from_json(text)
        if not isinstance(body, dict):
            raise ValueError("it is no JSON object")
        if body.pop("line", None) != xxh3_64_hexdigest(_compact(body).encode()):
            raise ValueError("it does not match its checksum")
        if body.keys() != {field.name for field in fields(Line)}:
            raise ValueError(f"it has the fields {sorted(body)}")
        offset, nbytes = map(int, body["index"])
        return Line(check_name(body["run"], "run key"), int(body["size"]), (offset, nbytes), str(body["xxh3"]))


class Manifest:
    """The finished runs of a store.

    Args:
        path: the file; it is made when the lock is first taken.

    Attributes:
        lines: by run, as last seen.
        changes: how often they have changed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.changes = 0
        self._forget()

    def load(self) -> None:
        """Read it afresh.

        Raises:
            StoreError: it cannot be read, or a line in it is damaged.
        """
        self._forget()
        try:
            fd, _ = open_read(self.path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._cannot("be read", error) from error
        try:
            self._update(fd)
        finally:
            os.close(fd)

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Hold the lock of the store; what others have added is seen. Gives a descriptor for `append`.

        Raises:
            StoreError: it cannot be opened or locked, or a line in it is damaged.
        """
        with ExitStack() as held:
            try:
                fd = held.enter_context(locked(self.path))
                self._update(fd)
            except OSError as error:
                raise self._cannot("be written", error) from error
            yield fd

    def append(self, fd: int, line: Line) -> None:
        """Add a finished run, lastingly; all or nothing.

        Args:
            fd: from `locked`.
            line: the run.

        Raises:
            OSError: the disk did not take it; the file is as it was.
        """
        data = line.to_json().encode() + b"\n"
        try:
            if os.fstat(fd).st_size != self._end:  # a line cut off by a crash
                os.ftruncate(fd, self._end)
            pwrite_all(fd, data, self._end)
            os.fsync(fd)
        except OSError:
            os.ftruncate(fd, self._end)
            raise
        self.lines[line.run] = line
        self.changes += 1
        self._end += len(data)
        self._count += 1

    def remove(self, runs: set[str]) -> None:
        """Take runs off the list, lastingly.

        Raises:
            StoreError: the disk did not take it; the file is as it was.
        """
        with self.locked():
            kept = [line for run, line in self.lines.items() if run not in runs]
            try:
                write_whole(self.path, b"".join(line.to_json().encode() + b"\n" for line in kept))
            except OSError as error:
                raise self._cannot("be written", error) from error
        self.load()

    def clean(self, *folders: Path) -> None:
        """Remove the temporary files that nobody holds a lock on: their writers are gone.

        Raises:
            StoreError: one cannot be removed.
        """
        with self.locked():
            for temporary in [path for folder in folders for path in folder.glob("*.tmp.*")]:
                if temporary.is_symlink() or not temporary.is_file():  # not ours
                    continue
                try:
                    _remove_if_free(temporary)
                except FileNotFoundError:  # its writer has just thrown it away
                    continue
                except OSError as error:
                    raise StoreError(f"{temporary} cannot be removed: {error.strerror}") from error

    def _forget(self) -> None:
        self.lines: dict[str, Line] = {}
        self.changes += 1
        self._file: tuple[int, int] | None = None
        self._end = self._count = 0  # what was read: bytes up to the last line break, and lines

    def _update(self, fd: int) -> None:
        """Read what was added since the last time; all of it if the file was replaced."""
        stat = os.fstat(fd)
        if (stat.st_dev, stat.st_ino) != self._file or stat.st_size < self._end:
            self._forget()
        self._file = (stat.st_dev, stat.st_ino)
        while b"\n" in (data := os.pread(fd, PIECE, self._end)):
            self._take(data[: data.rindex(b"\n") + 1])
        if len(data) == PIECE:
            raise self._damaged(self._count + 1, "it is longer than any line can be")

    def _take(self, data: bytes) -> None:
        """Read whole lines."""
        found = {}
        texts = data.split(b"\n")[:-1]
        for number, text in enumerate(texts, start=self._count + 1):
            try:
                line = Line.parse(text)
            except (ValueError, TypeError, OverflowError, StoreError) as error:
                raise self._damaged(number, str(error)) from error
            found[line.run] = line
        self.lines.update(found)
        self.changes += 1
        self._end += len(data)
        self._count += len(texts)

    def _cannot(self, what: str, error: OSError) -> StoreError:
        return StoreError(f"{self.path} cannot {what}: {error.strerror}")

    def _damaged(self, number: int, why: str) -> StoreError:
        return StoreError(
            f"line {number} of {self.path} is damaged: {why}; it is not known which run it speaks of, so remove that "
            f"line to have {'the run repeated' if self.path.parent.name != 'consolidated' else 'it consolidated again'}"
        )


def _remove_if_free(temporary: Path) -> None:
    """Remove a file unless its lock is held."""
    fd = os.open(temporary, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if try_lock(fd):
            temporary.unlink()
    finally:
        os.close(fd)


def _compact(body: dict[str, object]) -> str:
    return json.dumps(body, sort_keys=True, separators=(",", ":"))
