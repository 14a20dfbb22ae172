"""Memory that two processes share, in pages of 2 MiB where the system can.

A disk that is asked to take memory scattered in pages of 4 KiB gets a request of many small pieces: on ours 1.7 GiB/s
went past the page cache so, and 3.1 from large pages. Copies are a little faster, too. Nothing depends on it.
"""

from __future__ import annotations

import ctypes
import mmap
import os

import numpy as np

HUGE = 2 << 20
"""Bytes of a large page."""

_COLLAPSE = 25  # Linux's MADV_COLLAPSE, which Python does not name
_MAP_FIXED = 0x10
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def create(nbytes: int) -> int:
    """A descriptor of so many bytes of memory, for this process and those it is handed to."""
    fd = os.memfd_create("wan-interp-store", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, nbytes)
    except OSError:
        os.close(fd)
        raise
    return fd


def mapped(fd: int, nbytes: int) -> np.ndarray:
    """The memory behind a descriptor: uint8 [byte]. It begins at a multiple of 2 MiB, as large pages have to."""
    room = np.frombuffer(mmap.mmap(-1, nbytes + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)
    shift = -room.ctypes.data % HUGE
    at = room.ctypes.data + shift
    # In the middle of addresses that are taken; they are given back together, when the last array of them is gone.
    if _libc.mmap(at, nbytes, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | _MAP_FIXED, fd, 0) == _FAILED:
        raise OSError(ctypes.get_errno(), "the shared memory cannot be mapped")
    return room[shift : shift + nbytes]


def make_large(memory: np.ndarray) -> None:
    """Have memory in large pages. Only a hint: it stays as it is where that cannot be.

    For memory that was never used it costs a twentieth of what using it costs in small pages: of each large page one
    byte is touched, for a page with nothing in it is not collapsed, and the system clears the rest at once.
    """
    first = memory[::HUGE]
    first[:] = first.copy()
    _libc.madvise(memory.ctypes.data, memory.nbytes, _COLLAPSE)
