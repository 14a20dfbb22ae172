"""The folder that an export fills: it ends up complete or empty, and what a killed one leaves is told from all else.

While it is filled, ``unfinished-export.jsonl`` in it says what was made so far. What a killed export left can therefore
be removed by the next one, and nothing else is: a file that is not in that list, or is not as it was made, is
somebody's own, and the folder is refused as it is. The list is not fsynced: a power cut may cost lines of it, and the
folder is refused then, too.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from xxhash import xxh3_64_hexdigest

from interp.errors import StoreError
from interp.store.disk import locked, pwrite_all, replace, sync_folder
from interp.store.layout import few, from_json

UNFINISHED = "unfinished-export.jsonl"
LARGEST = 1 << 26


class ExportFolder:
    """A folder that is being filled. Made by `filling`.

    Args:
        path: the folder.
        fd: of its list, which is locked.

    Raises:
        StoreError: the list is something else.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path, self._fd = path, fd
        self._made: dict[str, str] = {}  # by name, what it is known by; nothing while it is being made
        self._end = 0
        try:
            for line in os.pread(fd, LARGEST, 0).split(b"\n")[:-1]:  # the last may have been cut off
                name, known_by = from_json(line)
                self._made[str(name)] = str(known_by)
        except (ValueError, TypeError) as error:
            raise StoreError(f"{path} is not empty: its {UNFINISHED} is not of an export; give a new folder") from error

    @contextmanager
    def whole(self, name: str) -> Iterator[Path]:
        """Where to write a file (or zarr's folder), which gets its name when all of it is there, lastingly.

        Raises:
            OSError: the disk failed.
        """
        path = self.path / name
        temporary = path.with_name(f"{path.name}.tmp.{os.getpid()}")
        self._note(name, "")
        path.parent.mkdir(exist_ok=True)
        yield temporary
        if temporary.is_file():
            fd = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        self._note(name, _known_by(temporary))
        replace(temporary, path)

    def others(self) -> list[str]:
        """Names of what is there and was not made by an export."""
        return [path.relative_to(self.path).as_posix() for path in self._found() if not self._is_ours(path)]

    def remove(self) -> None:
        """Remove what an export has made.

        Raises:
            OSError: something cannot be removed.
        """
        for path in self._found():
            if self._is_ours(path):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name in self._folders():
            with suppress(OSError):  # somebody's file may be in it
                (self.path / name).rmdir()
        self._made.clear()

    def _note(self, name: str, known_by: str) -> None:
        data = json.dumps([name, known_by]).encode() + b"\n"
        pwrite_all(self._fd, data, self._end)
        self._end += len(data)
        self._made[name] = known_by

    def _found(self) -> list[Path]:
        """What is in the folder, and in those that hold nothing but what exports make."""
        found = []
        for path in sorted(self.path.iterdir()):
            if path.name in self._folders() and path.is_dir() and not path.is_symlink():
                found += sorted(path.iterdir())
            elif path.name != UNFINISHED:
                found.append(path)
        return found

    def _folders(self) -> set[str]:
        return {name.partition("/")[0] for name in self._made if "/" in name}

    def _is_ours(self, path: Path) -> bool:
        name, temporary, _ = path.relative_to(self.path).as_posix().partition(".tmp.")
        known_by = self._made.get(name)
        return (temporary and known_by == "") or known_by == _known_by(path)


@contextmanager
def filling(path: Path) -> Iterator[ExportFolder]:
    """Fill a folder that is empty, or holds what a killed export left. On an error it is empty afterwards.

    Args:
        path: the folder; made if missing.

    Raises:
        StoreError: something else is in it, or another export fills it.
        OSError: the disk failed.
    """
    path.mkdir(parents=True, exist_ok=True)
    listed = path / UNFINISHED
    if not listed.exists() and any(path.iterdir()):
        raise StoreError(f"{path} is not empty; give a new folder")
    with ExitStack() as held:
        try:
            fd = held.enter_context(locked(listed, wait=False))
        except BlockingIOError as error:
            raise StoreError(f"another export into {path} is under way; give another folder") from error
        folder = ExportFolder(path, fd)
        others = folder.others()
        if others:
            if not os.fstat(fd).st_size:  # it was filled since we looked, and the list is our own
                listed.unlink()
            raise StoreError(
                f"{path} is not empty: no export that was killed there made {few(others)}; give a new folder"
            )
        try:
            folder.remove()
            os.ftruncate(fd, 0)
            yield folder
            listed.unlink()
            sync_folder(path)
        except BaseException:
            with suppress(OSError):  # what went wrong first is what the caller should see; the list says what stays
                folder.remove()
                listed.unlink(missing_ok=True)
            raise


def _known_by(path: Path) -> str:
    """What tells a file, or a folder with all in it, from another of its name, and from itself once it was changed."""
    inside = sorted(path.rglob("*")) if path.is_dir() and not path.is_symlink() else [path]
    stats = [
        (each.relative_to(path).as_posix(), each.lstat()) for each in inside if each.is_symlink() or not each.is_dir()
    ]
    said = [(name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return xxh3_64_hexdigest(json.dumps(said).encode())
