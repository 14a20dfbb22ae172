"""Where the bytes of a file go: through the page cache, or past it.

The page cache costs processor time, on the machine we measured most of a core at a gigabyte a second. A model that
writes by itself pays for it and gets something: its disk works on while it computes. A process that does nothing but
write gains nothing, so it goes past the cache (``O_DIRECT``), which takes next to no processor time. What was written
so is on the disk, but what the disk needs to find it is not: only an fsync makes it last, as always.
"""

from __future__ import annotations

import errno
import os

import numpy as np

from interp.store.blocks import LARGE, PAGE
from interp.store.disk import pwrite_all, start_writing_back

LEAST = LARGE // 4
"""Bytes that are worth to wait for the disk for; fewer go through the page cache."""


class Output:
    """A file that is being written.

    Args:
        fd: its descriptor, which stays the caller's.
        direct: another one of the same file that goes past the page cache, see `interp.store.disk.open_direct`; it is
            closed by `close`. None writes all through the page cache.

    Attributes:
        stride: bytes that are best written at a time. Through the page cache, the processor's cache should still hold
            what was checksummed before, and the disk begin while the rest is copied (on the disk we tried, 4 MiB were
            three times slower than 1 MiB); past it, a disk likes long requests.
    """

    def __init__(self, fd: int, direct: int | None = None) -> None:
        self.fd = fd
        self.stride = LARGE if direct is None else 8 * LARGE
        self._direct = direct

    def write(self, data: memoryview | bytes, offset: int) -> None:
        """Write all bytes of contiguous ``data`` at ``offset``.

        Past the page cache goes what can: whole pages of the file that are whole pages of memory, too.

        Raises:
            OSError: the disk did not take them.
        """
        view = memoryview(data).cast("B")
        head = -offset % PAGE
        pages = (view.nbytes - head) // PAGE * PAGE
        if self._direct is not None and pages >= LEAST and (_address(view) + head) % PAGE == 0:
            done = head + self._write_direct(view[head : head + pages], offset + head)
            self._write_cached(view[:head], offset)
            view, offset = view[done:], offset + done
        self._write_cached(view, offset)

    def close(self) -> None:
        """Let go of what is this object's own; `write` goes through the page cache from now on."""
        if self._direct is not None:
            direct, self._direct = self._direct, None
            os.close(direct)

    def _write_direct(self, view: memoryview, offset: int) -> int:
        """Write whole pages; gives the bytes that were taken. A file system that cannot is not asked again."""
        assert self._direct is not None
        done = 0
        try:
            while done < view.nbytes and done % PAGE == 0:
                count = os.pwrite(self._direct, view[done:], offset + done)
                if not count:
                    break
                done += count
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self.close()
        return done

    def _write_cached(self, view: memoryview, offset: int) -> None:
        if view.nbytes:
            pwrite_all(self.fd, view, offset)
            start_writing_back(self.fd, offset, view.nbytes)


def _address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).ctypes.data)
