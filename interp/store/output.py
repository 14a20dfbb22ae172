"""Where the bytes of a file go: through the page cache, or past it.

The page cache costs processor time, on the machine we measured most of a core at a gigabyte a second. A model that
writes by itself pays for it and gets something: its disk works on while it computes. A process that does nothing but
write gains nothing, so it goes past the cache (``O_DIRECT``), which takes next to no processor time. What was written
so is on the disk, but what the disk needs to find it is not: only an fsync makes it last, as always.
"""

from __future__ import annotations

import errno
import os
import threading

import numpy as np

from interp.store.blocks import LARGE, PAGE
from interp.store.disk import pwrite_all, start_writing_back
from interp.store.underway import Lease, Underway

LEAST = LARGE // 4
"""Bytes that are worth to wait for the disk for; fewer go through the page cache."""


class Output:
    """A file that is being written.

    Args:
        fd: its descriptor, which stays the caller's.
        direct: another one of the same file that goes past the page cache, see `interp.store.disk.open_direct`; it is
            closed by `close`. None writes all through the page cache.
        underway: threads that write past the page cache; None writes here.

    Attributes:
        stride: bytes that are best written at a time. Through the page cache, the processor's cache should still hold
            what was checksummed before, and the disk begin while the rest is copied (on the disk we tried, 4 MiB were
            three times slower than 1 MiB); past it, a disk likes long requests.
    """

    def __init__(self, fd: int, direct: int | None = None, underway: Underway | None = None) -> None:
        self.fd = fd
        self.stride = LARGE if direct is None else 8 * LARGE
        self._direct, self._refused = direct, direct is None
        self._underway = underway
        self._flying = 0
        self._error: Exception | None = None
        self._landed = threading.Condition()

    def write(self, data: memoryview | bytes, offset: int, lease: Lease | None = None) -> None:
        """Write all bytes of contiguous ``data`` at ``offset``.

        Past the page cache goes what can: whole pages of the file that are whole pages of memory, too.

        Args:
            data: they.
            offset: where to.
            lease: of their memory, for threads that may still read it after this has returned; without one all is
                written when it does.

        Raises:
            OSError: the disk did not take them, or some that came before.
        """
        view = memoryview(data).cast("B")
        head = -offset % PAGE
        pages = (view.nbytes - head) // PAGE * PAGE
        if not self._refused and pages >= LEAST and (_address(view) + head) % PAGE == 0:
            whole, at = view[head : head + pages], offset + head
            if self._underway is None or lease is None:
                self._write_past(whole, at)
            else:
                self._raise()
                self._begin(whole, at, lease)
            self._write_cached(view[:head], offset)
            view, offset = view[head + pages :], at + pages
        self._write_cached(view, offset)

    def settle(self) -> None:
        """Wait for what threads write.

        Raises:
            OSError: the disk did not take it.
        """
        with self._landed:
            self._landed.wait_for(lambda: not self._flying)
        self._raise()

    def close(self) -> None:
        """Let go of what is this object's own, once no thread uses it; `write` goes through the page cache then."""
        with self._landed:
            self._landed.wait_for(lambda: not self._flying)
        self._refused = True
        if self._direct is not None:
            direct, self._direct = self._direct, None
            os.close(direct)

    def _begin(self, view: memoryview, offset: int, lease: Lease) -> None:
        assert self._underway is not None
        with self._landed:
            self._flying += 1
        lease.hold()
        try:
            self._underway.begin(lambda: self._fly(view, offset, lease))
        except BaseException:  # there is no thread to be had
            self._land(None, lease)
            raise

    def _fly(self, view: memoryview, offset: int, lease: Lease) -> None:
        """Write in a thread."""
        error = None
        try:
            self._write_past(view, offset)
        except Exception as raised:  # for the one who comes next; whatever it is, nobody may wait for ever
            error = raised
        self._land(error, lease)

    def _land(self, error: Exception | None, lease: Lease) -> None:
        with self._landed:
            self._flying -= 1
            self._error = self._error or error
            self._landed.notify_all()
        lease.drop()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _write_past(self, view: memoryview, offset: int) -> None:
        """Write whole pages past the page cache, and through it what the file system does not take so."""
        done = self._write_direct(view, offset)
        self._write_cached(view[done:], offset + done)

    def _write_direct(self, view: memoryview, offset: int) -> int:
        """Write whole pages; gives the bytes that were taken. A file system that cannot is not asked again."""
        assert self._direct is not None
        done = 0
        try:
            while not self._refused and done < view.nbytes and done % PAGE == 0:
                count = os.pwrite(self._direct, view[done:], offset + done)
                if not count:
                    break
                done += count
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._refused = True
        return done

    def _write_cached(self, view: memoryview, offset: int) -> None:
        if view.nbytes:
            pwrite_all(self.fd, view, offset)
            start_writing_back(self.fd, offset, view.nbytes)


def _address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).ctypes.data)
