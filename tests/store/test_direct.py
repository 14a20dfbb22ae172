"""Past the page cache or through it, a file has the same bytes, and a failure is a failure."""

from __future__ import annotations

import errno
import fcntl
import itertools
import mmap
import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp.errors import StoreError
from interp.store import BackgroundWriter, RunLayout, SiteLayout, Store
from interp.store.disk import open_direct
from interp.store.output import LEAST, Output
from interp.store.shardwriter import ShardWriter
from interp.store.underway import Lease, Underway
from tests.store.faults import leftovers
from tests.store.making import PROVENANCE, layout_of, tensors_of

FLAG = getattr(os, "O_DIRECT", 0)
PAGE = 4096


@pytest.fixture(autouse=True)
def _direct_writes(tmp_path: Path) -> None:
    the_file_system_can(tmp_path)


def the_file_system_can(tmp_path: Path) -> None:
    """Skips the test where nothing can be written past the page cache."""
    probe = tmp_path / "probe"
    probe.touch()
    fd = open_direct(probe)
    if fd is None:
        pytest.skip("this file system knows no O_DIRECT")
    os.close(fd)


def odd_layout() -> RunLayout:
    """Run "r": cells above 1 MiB, of no whole pages and of whole ones; and some below, which are coalesced."""
    axes, base = ("step", "branch", "token", "feature"), layout_of("r")
    sites = (
        SiteLayout("large", axes, (2, 1, 24, 12_001), "float32"),
        SiteLayout("middle", axes, (2, 1, 24, 5_001), "float32"),
        SiteLayout("even", axes, (2, 1, 24, 32_768), "bfloat16"),
    )
    fields = {name: getattr(base, name)[:2] for name in ("steps", "sigmas", "timesteps", "experts")}
    return replace(base, **fields, sites=sites, branches=("cond",))


@cache
def pieces() -> tuple[tuple[str, int, memoryview], ...]:
    """Site, first byte and bytes of each cell, placed in its page as in the site's."""
    out = []
    for site, tensor in tensors_of(odd_layout()).items():
        for step, cell in enumerate(tensor):
            bits = cell.contiguous().view(torch.uint8).numpy().reshape(-1)
            out.append((site, step * bits.nbytes, page_aligned(bits, step * bits.nbytes % PAGE)))
    return tuple(out)


def page_aligned(data: np.ndarray, shift: int) -> memoryview:
    """A copy that begins ``shift`` bytes after the beginning of a page."""
    memory = np.frombuffer(mmap.mmap(-1, data.nbytes + PAGE), np.uint8)[shift : shift + data.nbytes]
    memory[:] = data
    return memory.data


def write_directly(store: Store) -> None:
    """As the process that writes does, in this one."""
    layout = odd_layout()
    with ShardWriter(store.path / "runs/r.h5", layout, store.manifest, Underway(1)) as writer:
        for site, start, data in pieces():
            lease = Lease(lambda: None)
            try:
                writer.put_bytes(site, start, data, lease)
            except OSError as error:
                raise writer.failed("writing", error) from error
            finally:
                lease.drop()
        writer.finish()


def write_cells(writers: Store | BackgroundWriter, steps: tuple[int, ...] = (0, 1)) -> None:
    """As a user does."""
    layout = odd_layout()
    with writers.writer("r", layout) as writer:
        for step in steps:
            for site, tensor in tensors_of(layout).items():
                writer.write(site, step, 0, tensor[step, 0])
        writer.finish()


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file as it is written as usual."""
    store = Store.create(tmp_path_factory.mktemp("plain") / "s", PROVENANCE)
    write_cells(store)
    return (store.path / "runs/r.h5").read_bytes()


class Spy:
    """Sees the writes past the page cache, and may interfere."""

    def __init__(self, patch: pytest.MonkeyPatch, interfere: Callable[[int, memoryview, int], int | None]) -> None:
        self.count = self.nbytes = 0
        real = os.pwrite

        def pwrite(fd: int, data: Any, at: int) -> int:
            if not fcntl.fcntl(fd, fcntl.F_GETFL) & FLAG:
                return real(fd, data, at)
            self.count += 1
            done = interfere(fd, data, at)
            done = real(fd, data, at) if done is None else done
            self.nbytes += done
            return done

        patch.setattr(os, "pwrite", pwrite)


def test_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: bytes) -> None:
    store = Store.create(tmp_path / "s", PROVENANCE)
    spy = Spy(monkeypatch, lambda fd, data, at: None)
    write_directly(store)
    assert (store.path / "runs/r.h5").read_bytes() == wanted
    assert spy.nbytes > 0.99 * odd_layout().nbytes, "all but the ends of cells went past the cache"
    assert spy.nbytes % PAGE == 0


def test_the_same_bytes_from_another_process(tmp_path: Path, wanted: bytes) -> None:
    store = Store.create(tmp_path / "s", PROVENANCE)
    with store.background(memory=1) as writers:
        write_cells(writers, (1, 0))
    assert (store.path / "runs/r.h5").read_bytes() == wanted


def failing(at: int, code: int) -> Callable[[int, memoryview, int], None]:
    """Fails at the call of that number."""
    calls = itertools.count(1)

    def interfere(fd: int, data: memoryview, offset: int) -> None:
        if next(calls) == at:
            raise OSError(code, os.strerror(code))

    return interfere


def test_a_direct_write_that_fails_discards_the_run(tmp_path: Path, wanted: bytes) -> None:
    """At each of them: a clear error, nothing left behind, and the next try works."""
    store = Store.create(tmp_path / "s", PROVENANCE)
    codes = dict(enumerate([errno.ENOSPC, errno.EIO, errno.ENOSPC, errno.EIO, errno.EDQUOT], start=1))
    for at, code in codes.items():
        with pytest.MonkeyPatch.context() as patch:
            Spy(patch, failing(at, code))
            with pytest.raises(StoreError, match=os.strerror(code)):
                write_directly(store)
        assert leftovers(store.path) == []
        assert "r" not in Store.open(store.path)
    with pytest.MonkeyPatch.context() as patch:
        spy = Spy(patch, lambda fd, data, offset: None)
        write_directly(store)
    assert spy.count == len(codes), "each of them has failed once"
    assert (store.path / "runs/r.h5").read_bytes() == wanted


@pytest.mark.parametrize("when", ["opening", "writing", "writing later", "short", "short of a page", "nothing"])
def test_a_file_system_that_refuses_gets_ordinary_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: bytes, when: str
) -> None:
    store = Store.create(tmp_path / "s", PROVENANCE)
    real_open, real_pwrite = os.open, os.pwrite

    def open_(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & FLAG and when == "opening":
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real_open(path, flags, *more, **named)

    def interfere(fd: int, data: memoryview, at: int) -> int | None:
        if when == "writing" or (when == "writing later" and spy.count == 2):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if when == "short":
            return real_pwrite(fd, data[: 3 * PAGE], at)
        if when == "short of a page":  # which a real one answers with so many bytes taken
            other = real_open(f"/proc/self/fd/{fd}", os.O_WRONLY)
            try:
                return real_pwrite(other, data[: PAGE + 17], at)
            finally:
                os.close(other)
        return 0 if when == "nothing" else None

    monkeypatch.setattr(os, "open", open_)
    spy = Spy(monkeypatch, interfere)
    write_directly(store)
    assert (store.path / "runs/r.h5").read_bytes() == wanted
    seen = {"opening": spy.count == 0, "writing": spy.count == 1, "writing later": spy.count == 2}
    assert seen.get(when, spy.count > 3)


def test_direct_data_are_made_to_last_like_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What finds them on the disk is not there before an fsync, which must come after the last of them."""
    seen: list[str] = []
    Spy(monkeypatch, lambda fd, data, at: seen.append("direct"))
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(fd: int) -> None:
        name = Path(f"/proc/self/fd/{fd}").readlink().name
        seen.append("fsync" if name.startswith("r.h5") else "other")
        real_fsync(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", lambda a, b: (seen.append("rename"), real_replace(a, b))[1])
    write_directly(Store.create(tmp_path / "s", PROVENANCE))
    kept = [call for call in seen if call != "other"]
    assert kept[kept.index("direct") :][-3:] == ["direct", "fsync", "rename"]


def test_pieces_at_any_place(tmp_path: Path) -> None:
    """Any bytes, from any memory, to any place."""
    random = np.random.default_rng(0)
    path, size = tmp_path / "file", 2 << 20
    wanted = np.zeros(size, np.uint8)
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, size)
    output = Output(fd, open_direct(path))
    for _ in range(60):
        at = int(random.integers(0, size - 1))
        data = random.integers(0, 256, int(random.integers(0, min(3 * LEAST, size - at) + 1)), np.uint8)
        output.write(page_aligned(data, int(random.choice([at % PAGE, 0, 64]))) if len(data) else b"", at)
        wanted[at : at + len(data)] = data
    output.close()
    os.close(fd)
    assert path.read_bytes() == wanted.tobytes()
