"""Writes that are under way: made by threads, so that the next is prepared, and asked for, while a disk is busy."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

AT_ONCE = 2
"""Writes of 8 MiB that a disk is asked for at a time. One at a time left it idle between them: 1.3 GiB/s where two gave
1.6, and four no more."""


class Underway:
    """Threads that write.

    Args:
        most: how many writes may be under way.
    """

    def __init__(self, most: int = AT_ONCE) -> None:
        self._room = threading.Semaphore(most)
        self._threads = ThreadPoolExecutor(most, "wan-interp-write")

    def begin(self, write: Callable[[], None]) -> None:
        """Have something done, which must not raise; waits while as many are under way as may be.

        Raises:
            RuntimeError: the system has no thread to give, or they were ended.
        """
        self._room.acquire()
        try:
            self._threads.submit(self._do, write)
        except BaseException:
            self._room.release()
            raise

    def end(self) -> None:
        """Wait for what is under way, and end the threads."""
        self._threads.shutdown()

    def _do(self, write: Callable[[], None]) -> None:
        try:
            write()
        finally:
            self._room.release()


class Lease:
    """Memory that writes read. It is given back when its owner and all of them have dropped it.

    Args:
        give_back: what is done then, by whoever is last; it must not raise.
    """

    def __init__(self, give_back: Callable[[], object]) -> None:
        self._give_back = give_back
        self._holders = 1
        self._lock = threading.Lock()

    def hold(self) -> None:
        """One more reads it."""
        with self._lock:
            self._holders += 1

    def drop(self) -> None:
        """One does no longer."""
        with self._lock:
            self._holders -= 1
            last = not self._holders
        if last:
            self._give_back()
