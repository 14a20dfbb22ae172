"""Writing in another process, so that the model need not wait for the disk, nor dies with it.

Tensors are copied once, into slots of memory that both processes share; full slots go to the writing process, written
ones come back. There are only so many, so a model that is faster than the disk waits (back-pressure) and memory stays
bounded. The price: a failure is reported at a later call than the one that caused it, at the latest at the end.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from itertools import starmap
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from interp.errors import StoreError
from interp.store import sharedmemory
from interp.store.backgroundshard import BackgroundShard
from interp.store.blocks import LARGE, PAGE
from interp.store.cellcheck import Given
from interp.store.disk import bytes_of, copy_bytes
from interp.store.errands import Errands
from interp.store.index import run_fields, site_fields
from interp.store.layout import RunLayout
from interp.store.wire import RECORD, receive, send

if TYPE_CHECKING:
    from interp.store.store import Store

SLOT = 8 * LARGE
COPIED = LARGE // 2
"""Bytes that are copied at a time, with other threads let in. What is longer the C library copies past the processor's
cache, which took up to half as long again where both ends lie alike in their pages, as they do for whole tensors."""
PATIENCE = 0.01
"""Seconds of writing after which it is asked whether the other process still lives."""


class BackgroundWriter:
    """Writes runs of a store in another process. Made by `Store.background`; a context manager, or end with `close`.

    Args:
        store: the store.
        memory: bytes of shared memory, at least 16 MiB; a capture holds no more than this (and the process that writes
            about as much as 1 MiB a site of an unfinished run).
        borrow: copy tensors in a thread, see `Store.background`; as many bytes of them as ``memory`` may wait.

    Raises:
        StoreError: the process cannot be started.
    """

    def __init__(self, store: Store, memory: int = 256 << 20, borrow: bool = False) -> None:
        self.store, self.borrow = store, borrow
        self._slots = max(2, memory // SLOT)
        self._names: dict[int, str] = {}
        self._unfinished: set[int] = set()
        self._failures: list[str] = []
        self._flushed = self._closed = False
        self._slot: int | None = None
        self._records: list[tuple[int, int, int, int, int]] = []
        self._used = 0
        self._heard = 0.0
        self._start()
        self._free = list(range(self._slots))
        self._touched: set[int] = set()
        self._errands = Errands(memory) if borrow else None

    def writer(self, run: str, layout: RunLayout) -> BackgroundShard:
        """Begin to write a run.

        Raises:
            StoreError: the run is there already, or some run failed meanwhile.
        """
        if self._errands is None:
            self._pump(wait=False)
        self._check_open()
        if layout.run != run or run in self.store:
            raise StoreError(f"run {run} is already in {self.store.path} or is not that of the layout ({layout.run})")
        number = len(self._names)
        self._names[number] = run
        self._unfinished.add(number)
        sites = [site_fields(site) for site in layout.stored.sites]
        head = {"do": "open", "number": number, "layout": run_fields(layout), "sites": sites}
        self.have_done(lambda: self._send(head))
        return BackgroundShard(self, number, layout)

    def have_done(self, errand: Callable[[], None], nbytes: int = 0) -> None:
        """Do something that speaks to the other process: now, or after all that was asked before in the thread.

        Raises:
            StoreError: what it, or something before it, raised.
        """
        if self._errands is None:
            errand()
        else:
            self._check_open()
            self._errands.ask(errand, nbytes)

    def flush(self) -> None:
        """Wait until all runs that were finished are on the disk.

        Raises:
            StoreError: one of them is not, or the process that writes is gone.
        """
        if self._errands is not None:
            self._errands.flush()
        self._pass_on()
        self._flushed = False
        self._send({"do": "flush"})
        while not self._flushed:
            self._pump(wait=True)
        self.store.refresh()

    def close(self) -> None:
        """Wait as `flush` does, and end the process that writes."""
        if self._closed:
            return
        try:
            self.flush()
        finally:
            if self._errands is not None:
                self._errands.end()
            self._end()

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self.close()
        except StoreError:
            if error is None:  # else what went wrong first is what the caller should see
                raise

    def put(self, number: int, site: int, start: int, given: Given, nbytes: int) -> None:
        """Copy a cell's bits, which begin at byte ``start`` of the site, into slots; see `BackgroundShard.write`."""
        if time.monotonic() - self._heard > PATIENCE:
            self._pump(wait=False)
        if nbytes < LARGE:
            if self._slot is None or self._used + nbytes > SLOT:
                self._take_slot()
            if isinstance(given, int):
                copy_bytes(self._address + self._used, given, nbytes)
            else:
                np.ndarray(given.shape, given.dtype, self._memory, self._used)[...] = given
            self._record(number, site, start, nbytes)
            self._used += -self._used % 16
            return
        if isinstance(given, int):
            source = given
        else:
            given = np.ascontiguousarray(given)
            source = given.ctypes.data
        at = 0
        while at < nbytes:
            # It lies in its page as it will in the file's, so that it may go past the page cache.
            shift = (start + at - self._used) % PAGE
            room = 0 if self._slot is None else (SLOT - self._used - shift) // LARGE * LARGE
            if room <= 0:
                self._take_slot()
                continue
            self._used += shift
            count = min(room, nbytes - at)
            for done in range(0, count, COPIED):
                ctypes.memmove(self._address + self._used + done, source + at + done, min(COPIED, count - done))
            self._record(number, site, start + at, count, merge=True)
            at += count

    def finish(self, number: int, labels: Mapping[str, Any]) -> None:
        """See `BackgroundShard.finish`."""
        self._pass_on()
        arrays = {name: value for name, value in labels.items() if isinstance(value, np.ndarray)}
        head = {
            "do": "finish",
            "number": number,
            "labels": {name: value for name, value in labels.items() if name not in arrays},
            "arrays": [(name, array.dtype.str, array.shape) for name, array in arrays.items()],
        }
        self._send(head, b"".join(bytes_of(array) for array in arrays.values()))
        self._pump(wait=False)

    def abort(self, number: int) -> None:
        """See `BackgroundShard.abort`."""
        self._unfinished.discard(number)
        if not self._closed:
            try:
                self._pass_on()
                self._send({"do": "abort", "number": number})
            except StoreError:  # the process that writes is gone, and the run with it
                pass

    def _record(self, number: int, site: int, start: int, nbytes: int, merge: bool = False) -> None:
        """Note what was put at the present place of the slot; with ``merge``, as more of what came before, if it is."""
        place, self._used = self._used, self._used + nbytes
        if merge and self._records:
            before = self._records[-1]
            if before[:2] == (number, site) and (before[2] + before[4], before[3] + before[4]) == (start, place):
                self._records[-1] = (*before[:4], before[4] + nbytes)
                return
        self._records.append((number, site, start, place, nbytes))

    def _take_slot(self) -> None:
        self._pass_on()
        self._pump(wait=False)
        while not self._free:
            self._pump(wait=True)
        self._slot = self._free.pop()
        memory = self._all[self._slot * SLOT : (self._slot + 1) * SLOT]
        if self._slot not in self._touched:
            self._touched.add(self._slot)
            sharedmemory.make_large(memory)
        self._memory, self._address = memory.data, memory.ctypes.data

    def _pass_on(self) -> None:
        """Hand the present slot to the process that writes."""
        if self._slot is not None:
            slot, records = self._slot, b"".join(starmap(RECORD.pack, self._records))
            self._slot, self._used = None, 0
            self._records.clear()
            self._send({"do": "slot", "slot": slot}, records)

    def _send(self, head: dict[str, Any], body: bytes = b"") -> None:
        self._check_open()
        try:
            send(self._socket, head, body)
        except OSError:
            self._gone()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("the background writer is closed; make a new one with store.background()")

    def _pump(self, wait: bool) -> None:
        """Take what the process that writes has to say.

        Raises:
            StoreError: a run failed, or the process is gone.
        """
        self._check_open()
        self._heard = time.monotonic()
        while wait or self._poll.poll(0):
            message = receive(self._socket)
            if message is None:
                self._gone()
            head, wait = message[0], False
            if "slot" in head:
                self._free.append(head["slot"])
            elif "flushed" in head:
                self._flushed = True
            elif "finished" in head:
                self._unfinished.discard(head["finished"])
            else:
                self._unfinished.discard(head["failed"])
                self._failures.append(head["error"])
        if self._failures:
            failures, self._failures = self._failures, []
            more = f" ({len(failures) - 1} more failed)" if len(failures) > 1 else ""
            raise StoreError(failures[0] + more)

    def _start(self) -> None:
        """Begin the other process, with its end of a socket and the memory.

        Raises:
            StoreError: the system does not give what that takes.
        """
        with ExitStack() as undo:
            try:
                memory = sharedmemory.create(self._slots * SLOT)
                undo.callback(os.close, memory)
                ours, theirs = socket.socketpair()
                undo.callback(theirs.close)
                failed = undo.enter_context(ExitStack())
                failed.callback(ours.close)
                self._all = sharedmemory.mapped(memory, self._slots * SLOT)
                numbers = [theirs.fileno(), memory, self._slots, SLOT, self.store.path.resolve()]
                command = [sys.executable, "-m", "interp.store.worker", *map(str, numbers)]
                paths = {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
                self.process = subprocess.Popen(
                    command, pass_fds=(theirs.fileno(), memory), stdin=subprocess.DEVNULL, env={**os.environ, **paths}
                )
            except OSError as error:
                raise StoreError(
                    f"the process that writes cannot be started with {self._slots * SLOT:,} bytes of shared memory "
                    f"({error.strerror}); give less memory=, or write with store.writer()"
                ) from error
            failed.pop_all()
        self._socket = ours
        self._poll = select.poll()
        self._poll.register(ours, select.POLLIN)

    def _end(self) -> None:
        self._closed = True
        self._socket.close()
        self.process.wait()

    def _gone(self) -> NoReturn:
        self._end()
        lost = sorted(self._names[number] for number in self._unfinished)
        self.store.refresh()
        lost = [run for run in lost if run not in self.store]
        raise StoreError(
            f"the process that writes ended with status {self.process.returncode}, and with it the unfinished runs "
            f"({', '.join(lost) or 'none'}); finished runs are intact: run the same command again"
        )
