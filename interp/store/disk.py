"""The few system calls that touch a disk, in one place, so that each can be made to fail in a test.

Every write goes out in full or raises; what is renamed was fsynced before, and its folder is fsynced after.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from interp.errors import StoreError

_SYNC_FILE_RANGE = getattr(ctypes.CDLL(None), "sync_file_range", None)
if _SYNC_FILE_RANGE is not None:
    _SYNC_FILE_RANGE.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def pwrite_all(fd: int, data: memoryview | bytes, offset: int) -> None:
    """Write all bytes of contiguous ``data`` at ``offset``."""
    view = memoryview(data).cast("B")
    while view.nbytes:
        done = os.pwrite(fd, view, offset)
        if done == 0:
            raise OSError(errno.EIO, "the disk took no bytes")
        view, offset = view[done:], offset + done


def open_direct(path: Path) -> int | None:
    """Open a file to write it past the page cache; None where the system or the file system cannot."""
    flag = getattr(os, "O_DIRECT", None)
    if flag is None:
        return None
    try:
        return os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flag)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
            return None
        raise


def pread_into(fd: int, out: memoryview, offset: int) -> None:
    """Fill contiguous ``out`` from ``offset``.

    Raises:
        EOFError: the file ends before.
    """
    if os.preadv(fd, [out], offset) != out.nbytes:  # rare: what is too long for one call, or ends early
        scatter_into(fd, [out.cast("B")], offset)


def scatter_into(fd: int, views: list[memoryview], offset: int) -> None:
    """Fill several stretches of bytes, one after the other, from ``offset`` on, in one go where possible.

    Raises:
        EOFError: the file ends before.
    """
    lack = sum([view.nbytes for view in views])
    while lack:
        done = os.preadv(fd, views, offset)
        if done == lack:
            return
        if done == 0:
            raise EOFError(f"file ends {lack} bytes early")
        views, offset, lack = list(views), offset + done, lack - done
        while done >= views[0].nbytes:
            done -= views.pop(0).nbytes
        views[0] = views[0][done:]


def start_writing_back(fd: int, start: int, nbytes: int) -> None:
    """Ask that bytes just written go to the disk from now on, while the next are prepared; `os.fsync` makes them last.

    Only a hint: nothing happens where there is no ``sync_file_range`` (it is Linux's, and Python does not name it).
    """
    if _SYNC_FILE_RANGE is not None:
        _SYNC_FILE_RANGE(fd, start, nbytes, 2)  # SYNC_FILE_RANGE_WRITE


def read_ahead(fd: int, start: int, nbytes: int) -> None:
    """Ask that bytes be read from the disk while something else is done. Only a hint."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, start, nbytes, os.POSIX_FADV_WILLNEED)


def bytes_of(array: np.ndarray) -> memoryview:
    """The bytes of a contiguous array, sharing memory."""
    return array.reshape(-1).view(np.uint8).data


copy_bytes = ctypes.PYFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)(
    ctypes.cast(ctypes.memmove, ctypes.c_void_p).value or 0
)
"""``copy_bytes(to, from, nbytes)`` between addresses. `ctypes.memmove` itself lets other threads in at each call and
gives a number back, which for 2 KB takes longer than the copy."""


def bytes_at(address: int, nbytes: int) -> memoryview:
    """The bytes at an address, which the caller keeps alive."""
    return memoryview((ctypes.c_ubyte * nbytes).from_address(address)).cast("B")


def allocate(fd: int, size: int, what: str) -> None:
    """Take the disk space of a file before any work is done.

    Raises:
        StoreError: there is not enough.
    """
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        disk = os.fstatvfs(fd)
        free = disk.f_bavail * disk.f_frsize
        cannot = error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # the file system: go without
        if not cannot or size > free:
            why = os.strerror(errno.ENOSPC) if cannot else error.strerror
            raise StoreError(f"{what} needs {size:,} bytes, and {free:,} are free: {why}") from error


def sync_folder(folder: Path) -> None:
    """Make what was created, renamed or removed in a folder last through a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace(source: Path, target: Path) -> None:
    """Rename within a folder, lastingly. ``source`` must have been fsynced."""
    os.replace(source, target)
    sync_folder(target.parent)


def write_whole(path: Path, data: bytes) -> None:
    """Write a small file so that there is either all of it or what was there before."""
    temporary = path.with_name(f"{path.name}.tmp.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        try:
            pwrite_all(fd, data, 0)
            os.fsync(fd)
        finally:
            os.close(fd)
        replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


_TO_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""How a file is opened to be read: a symbolic link is not followed, and nobody waits for the other end of a pipe."""


def open_read(path: str | Path) -> tuple[int, os.stat_result]:
    """Open a plain file to read it, and say what it is; a symbolic link is not followed.

    Raises:
        OSError: it cannot be opened, or is a folder, a pipe or a device.
    """
    fd = os.open(path, _TO_READ)
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is not a plain file")
    return fd, found


def read_small(path: Path, most: int) -> bytes:
    """What is in a plain file of at most so many bytes.

    Raises:
        OSError: it cannot be read, or is longer.
    """
    fd, found = open_read(path)
    try:
        if found.st_size > most:
            raise OSError(errno.EFBIG, f"it has {found.st_size:,} bytes, more than can be meant")
        return os.read(fd, found.st_size)
    finally:
        os.close(fd)


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[int]:
    """Open a file to read and write and hold its lock, against other threads and processes; gives the descriptor.

    Raises:
        BlockingIOError: another one holds it, with ``wait=False``.
        OSError: it cannot be opened or locked.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if _same_file(fd, path):  # it may have been replaced while we waited
                yield fd
                return
        finally:
            os.close(fd)


def _same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def try_lock(fd: int) -> bool:
    """Take a file's lock if nobody holds it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
