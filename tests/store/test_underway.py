"""Writes that are under way: how many at a time, whose memory they read, and what becomes of their errors."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.store import sharedmemory
from interp.store.blocks import LARGE
from interp.store.disk import open_direct
from interp.store.output import Output
from interp.store.underway import Lease, Underway
from tests.store.test_direct import FLAG, page_aligned, the_file_system_can


class Disk:
    """Takes what comes past the page cache only when it is told to, and says how much is waiting."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.waiting = self.most = 0
        self.go, self.lock = threading.Event(), threading.Lock()
        self.error: Exception | None = None
        real = os.pwrite

        def pwrite(fd: int, data: Any, at: int) -> int:
            if not fcntl.fcntl(fd, fcntl.F_GETFL) & FLAG:
                return real(fd, data, at)
            with self.lock:
                self.waiting += 1
                self.most = max(self.most, self.waiting)
            assert self.go.wait(10)
            with self.lock:
                self.waiting -= 1
            if self.error is not None:
                raise self.error
            return real(fd, data, at)

        patch.setattr(os, "pwrite", pwrite)

    def wait_for(self, count: int) -> None:
        """Until that many writes wait."""
        until = time.monotonic() + 10
        while self.waiting < count and time.monotonic() < until:
            time.sleep(0.001)
        assert self.waiting == count


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Output]:
    the_file_system_can(tmp_path)
    path = tmp_path / "file"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 4 * LARGE)
    output = Output(fd, open_direct(path), Underway(2))
    yield output
    output.close()
    os.close(fd)


def data_of(number: int) -> memoryview:
    return page_aligned(np.full(LARGE, number, np.uint8), 0)


def test_two_at_a_time_and_memory_is_kept_until_they_are_done(disk: Disk, output: Output) -> None:
    free: list[int] = []

    def write_all() -> None:
        for number in range(4):
            lease = Lease(lambda number=number: free.append(number))
            output.write(data_of(number + 1), number * LARGE, lease)
            lease.drop()

    writing = threading.Thread(target=write_all)
    writing.start()
    disk.wait_for(2)
    writing.join(0.05)
    assert writing.is_alive(), "the third waits for one of the first two"
    assert free == []
    disk.go.set()
    writing.join(10)
    output.settle()
    assert sorted(free) == [0, 1, 2, 3]
    assert disk.most == 2
    assert os.pread(output.fd, 4 * LARGE, 0) == b"".join(bytes([n + 1]) * LARGE for n in range(4))


def test_without_a_lease_all_is_written_at_once(disk: Disk, output: Output) -> None:
    disk.go.set()
    output.write(data_of(7), 0)
    assert os.pread(output.fd, LARGE, 0) == b"\7" * LARGE


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), MemoryError("broken")])
def test_an_error_is_told_by_what_comes_next(disk: Disk, output: Output, error: Exception) -> None:
    free: list[str] = []
    disk.error = error
    lease = Lease(lambda: free.append("memory"))
    output.write(data_of(1), 0, lease)
    lease.drop()
    disk.go.set()
    with pytest.raises(type(error), match="broken"):
        output.settle()
    assert free == ["memory"], "memory is given back, whatever became of its bytes"
    with pytest.raises(type(error), match="broken"):
        output.write(data_of(1), LARGE, Lease(lambda: None))


def test_a_write_that_no_thread_takes_is_not_waited_for(
    disk: Disk, output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    free: list[str] = []

    def submit(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    disk.go.set()
    for number in range(3):  # more often than writes may be under way
        lease = Lease(lambda: free.append("memory"))
        with monkeypatch.context() as patch:
            patch.setattr(ThreadPoolExecutor, "submit", submit)
            with pytest.raises(RuntimeError, match="new thread"):
                output.write(data_of(1), 0, lease)
        lease.drop()
        assert len(free) == number + 1
    output.write(data_of(2), 0, Lease(lambda: None))
    output.settle()
    assert os.pread(output.fd, LARGE, 0) == b"\2" * LARGE


def test_a_file_is_closed_only_when_no_thread_writes_to_it(disk: Disk, output: Output) -> None:
    lease = Lease(lambda: None)
    output.write(data_of(1), 0, lease)
    lease.drop()
    closing = threading.Thread(target=output.close)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()
    disk.go.set()
    closing.join(10)
    assert not closing.is_alive()
    assert os.pread(output.fd, LARGE, 0) == b"\1" * LARGE


def test_two_mappings_are_the_same_memory_and_are_given_back() -> None:
    fd = sharedmemory.create(3 * sharedmemory.HUGE)
    one, other = (sharedmemory.mapped(fd, 3 * sharedmemory.HUGE) for _ in range(2))
    os.close(fd)
    assert one.ctypes.data % sharedmemory.HUGE == other.ctypes.data % sharedmemory.HUGE == 0
    assert len(one) == 3 * sharedmemory.HUGE
    one[:] = np.arange(len(one)) % 251
    sharedmemory.make_large(one[: sharedmemory.HUGE])
    np.testing.assert_array_equal(other, np.arange(len(one)) % 251)
    assert mapped_memory() == 2
    part = one[5:10]
    del one, other
    assert mapped_memory() == 1, "as long as a part of it is used"
    del part
    assert mapped_memory() == 0


def test_memory_that_cannot_be_mapped_is_told() -> None:
    fd = os.open("/dev/null", os.O_RDWR)
    try:
        with pytest.raises(OSError, match="shared memory cannot be mapped") as caught:
            sharedmemory.mapped(fd, sharedmemory.HUGE)
        assert caught.value.errno == errno.ENODEV
    finally:
        os.close(fd)


def mapped_memory() -> int:
    maps = Path("/proc/self/maps").read_text().splitlines()
    return sum("wan-interp-store" in line for line in maps)
