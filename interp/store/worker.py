"""The process that writes: takes filled slots of shared memory, hands them back, and reports what became of each run.

Started by `interp.store.background`. A run is made to last (fsync, rename, manifest) in a thread of its own, while
slots of the next run are written: otherwise the disk would be asked for nothing meanwhile. The process ends when the
other end of its socket is closed, and then removes what is unfinished; so neither process can leave the other hanging,
whichever is killed.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from interp.errors import InterpError
from interp.store import sharedmemory
from interp.store.index import run_of, site_of
from interp.store.shardwriter import ShardWriter
from interp.store.store import Store
from interp.store.underway import Lease, Underway
from interp.store.wire import RECORD, receive, send

UNFINISHED = 4
"""Runs that may be waiting to be made to last; their metadata are in memory."""


class Worker:
    """Writes what it is told.

    Args:
        end: its end of the socket.
        memory: the shared slots, uint8 [byte].
        slot_nbytes: bytes of each.
        store: where to write.
    """

    def __init__(self, end: socket.socket, memory: np.ndarray, slot_nbytes: int, store: Store) -> None:
        self.end, self.store, self.slot_nbytes = end, store, slot_nbytes
        self.memory = memory.data
        self.writers: dict[int, ShardWriter] = {}
        self.sites: dict[int, list[str]] = {}
        self._underway = Underway()
        self._finisher = ThreadPoolExecutor(1)  # one: runs are listed in the order in which they were finished
        self._finishing: deque[Future[None]] = deque()
        self._lock = threading.Lock()

    def run(self) -> None:
        """Serve until the other end is closed."""
        try:
            while (message := receive(self.end)) is not None:
                head, body = message
                getattr(self, f"on_{head.pop('do')}")(body, **head)
        except ConnectionError:  # told nobody: the other end is gone
            pass
        finally:
            self._finisher.shutdown()
            for writer in self.writers.values():
                writer.abort()
            self._underway.end()

    def on_open(self, body: bytes, number: int, layout: dict[str, Any], sites: list[dict[str, Any]]) -> None:
        """Begin a run."""
        path = self.store.path / "runs" / f"{layout['run']}.h5"
        try:
            whole = run_of(layout, map(site_of, sites))
            self.writers[number] = ShardWriter(path, whole, self.store.manifest, self._underway)
            self.sites[number] = [site["site"] for site in sites]
        except (InterpError, OSError) as error:
            self._failed(number, error, None)

    def on_slot(self, body: bytes, slot: int) -> None:
        """Have written what a slot holds; it is handed back when the last of it is."""
        memory = self.memory[slot * self.slot_nbytes : (slot + 1) * self.slot_nbytes]
        lease = Lease(partial(self._hand_back, slot))
        for number, site, start, place, nbytes in RECORD.iter_unpack(body):
            if number in self.writers:  # else it has failed
                data = memory[place : place + nbytes]
                try:
                    self.writers[number].put_bytes(self.sites[number][site], start, data, lease)
                except (InterpError, OSError) as error:
                    self._failed(number, error, self.writers.pop(number))
        lease.drop()

    def _hand_back(self, slot: int) -> None:
        with suppress(ConnectionError):  # a thread may find the other end gone; `run` will, too
            self._say({"slot": slot})

    def on_finish(self, body: bytes, number: int, labels: dict[str, Any], arrays: list[list[Any]]) -> None:
        """Have a run finished."""
        at = 0
        for name, dtype, shape in arrays:
            array = np.frombuffer(body, dtype, int(np.prod(shape)), at).reshape(shape)
            labels[name], at = array, at + array.nbytes
        if number in self.writers:
            self._wait(down_to=UNFINISHED - 1)
            self._finishing.append(self._finisher.submit(self._finish, number, self.writers.pop(number), labels))

    def on_abort(self, body: bytes, number: int) -> None:
        """Throw a run away."""
        if number in self.writers:
            self.writers.pop(number).abort()

    def on_flush(self, body: bytes) -> None:
        """Answer when all that came before is done."""
        self._wait(down_to=0)
        self._say({"flushed": True})

    def _wait(self, down_to: int) -> None:
        """Until no more runs than that are being finished."""
        while len(self._finishing) > down_to:
            self._finishing.popleft().result()

    def _finish(self, number: int, writer: ShardWriter, labels: dict[str, Any]) -> None:
        try:
            writer.finish(labels)
        except (InterpError, OSError) as error:
            self._failed(number, error, writer)
        else:
            self._say({"finished": number})

    def _failed(self, number: int, error: Exception, writer: ShardWriter | None) -> None:
        text = str(error)
        if writer is not None:
            if isinstance(error, OSError):
                text = str(writer.failed("writing", error))
            writer.abort()
        self._say({"failed": number, "error": text})

    def _say(self, head: dict[str, Any]) -> None:
        with self._lock:  # several threads speak
            send(self.end, head)


def step_back() -> None:
    """Wait for a processor that is free, or one's turn, when there is something to write. Otherwise the process that
    computes is interrupted each time it hands over a slot, on two cores for about half a millisecond. Only a hint.
    """
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):  # a container, or a policy that is even humbler, may not allow it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def main(arguments: list[str]) -> None:
    """``python -m interp.store.worker SOCKET MEMORY SLOTS SLOT_BYTES STORE``; the first two are descriptors."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that captures; this one ends after it
    step_back()
    end, memory, slots, slot_nbytes = map(int, arguments[:4])
    shared = sharedmemory.mapped(memory, slots * slot_nbytes)
    Worker(socket.socket(fileno=end), shared, slot_nbytes, Store.open(arguments[4])).run()


if __name__ == "__main__":
    main(sys.argv[1:])
