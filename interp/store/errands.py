"""Errands: things that are done one after the other in a thread, while the one who asked for them goes on."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable


class Errands:
    """Does what it is asked in that order. Once something went wrong, nothing more is done, and every call says so.

    Args:
        most: bytes that what waits may hold; when there are more, `ask` waits.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._todo: deque[tuple[Callable[[], None], int]] = deque()
        self._held = 0
        self._error: Exception | None = None
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="wan-interp-store", daemon=True)
        self._thread.start()

    def ask(self, errand: Callable[[], None], nbytes: int = 0) -> None:
        """Have something done, which holds that many bytes until then.

        Raises:
            Exception: what an earlier errand raised.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._error or not self._held or self._held + nbytes <= self.most)
            self._raise()
            self._todo.append((errand, nbytes))
            self._held += nbytes
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until all is done.

        Raises:
            Exception: what an errand raised.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._error or not self._todo)
            self._raise()

    def end(self) -> None:
        """End the thread; what was not done yet is not done."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or (self._todo and self._error is None))
                if self._ended:
                    return
                errand, nbytes = self._todo[0]
            try:
                errand()
                error = None
            except Exception as raised:  # for the one who asked
                error = raised
            del errand
            with self._changed:
                self._todo.popleft()  # only now: an errand that is being done is not done
                self._held -= nbytes
                self._error = error
                self._changed.notify_all()
