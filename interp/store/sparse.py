"""A file in memory with holes, in which HDF5 writes and reads nothing but metadata.

HDF5 answers a full disk with a lost cache or a segmentation fault, and a crash with a file that cannot be opened. So it
never touches the disk here: it lays out a file in memory (site data are allocated, never written), we write those pages
and the data ourselves, and every error has an errno.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import Any

from xxhash import xxh3_64

PAGE = 1 << 16


class SparseFile(io.RawIOBase):
    """An in-memory file of which only written pages take memory; unwritten bytes are zeros.

    Args:
        size: bytes at first, all of them unwritten.
    """

    def __init__(self, size: int = 0) -> None:
        self.size = size
        self._pages: dict[int, bytearray] = {}
        self._at = 0

    def copy(self) -> SparseFile:
        """Another file of the same bytes."""
        same = SparseFile(self.size)
        same._pages = {page: bytearray(have) for page, have in self._pages.items()}
        return same

    def readable(self) -> bool:
        """True."""
        return True

    def writable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Where the next read or write goes."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a byte."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        return self._at

    def truncate(self, size: int | None = None) -> int:
        """Set the size; what lies beyond is forgotten."""
        self.size = self._at if size is None else size
        last, rest = divmod(self.size, PAGE)
        for page in [p for p in self._pages if p > last or (p == last and rest == 0)]:
            del self._pages[page]
        if rest and last in self._pages:
            self._pages[last][rest:] = bytes(PAGE - rest)
        return self.size

    def write(self, data: Any) -> int:
        """Write at the present place."""
        view = memoryview(data).cast("B")
        for page, a, b, done in _pages(self._at, view.nbytes):
            if page not in self._pages:
                self._pages[page] = bytearray(PAGE)
            self._pages[page][a:b] = view[done : done + b - a]
        self._at += view.nbytes
        self.size = max(self.size, self._at)
        return view.nbytes

    def readinto(self, out: Any) -> int:
        """Read at the present place."""
        view = memoryview(out).cast("B")
        count = max(0, min(view.nbytes, self.size - self._at))
        for page, a, b, done in _pages(self._at, count):
            have = self._pages.get(page)
            view[done : done + b - a] = have[a:b] if have is not None else bytes(b - a)
        self._at += count
        return count

    def forget(self, start: int, stop: int) -> None:
        """Let go of the whole pages in a byte range; it must be one of ``gaps`` later."""
        for page in range(-(-start // PAGE), stop // PAGE):
            self._pages.pop(page, None)

    def pieces(self, gaps: list[tuple[int, int]]) -> Iterator[tuple[int, memoryview]]:
        """(offset, bytes) of what was written, without the byte ranges [start, stop) of ``gaps``, in order."""
        for start, stop in between(gaps, self.size):
            for page, a, b, _ in _pages(start, stop - start):
                if page in self._pages:
                    yield page * PAGE + a, memoryview(self._pages[page])[a:b]

    def digest(self, gaps: list[tuple[int, int]]) -> str:
        """xxh3 (16 hexadecimal digits) of all bytes that are not in ``gaps``, in order."""
        hashed = xxh3_64()
        for start, stop in between(gaps, self.size):
            for page, a, b, _ in _pages(start, stop - start):
                have = self._pages.get(page)
                hashed.update(memoryview(have)[a:b] if have is not None else bytes(b - a))
        return hashed.hexdigest()


def between(gaps: list[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    """Byte ranges [start, stop) of a file that are not in ``gaps`` (ascending, disjoint)."""
    at = 0
    for start, stop in gaps:
        if start > at:
            yield at, start
        at = stop
    if size > at:
        yield at, size


def _pages(start: int, count: int) -> Iterator[tuple[int, int, int, int]]:
    """(page, first byte in it, byte after the last in it, bytes before) of a byte range."""
    done = 0
    while done < count:
        page, a = divmod(start + done, PAGE)
        b = min(PAGE, a + count - done)
        yield page, a, b, done
        done += b - a
