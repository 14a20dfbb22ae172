"""A run is there whole or not at all, whatever the disk, the caller or another process does."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from interp.errors import StoreError
from interp.store import RunLayout, Store, disk, head, manifest, skeleton
from tests.store.faults import Faults, descriptors, leftovers
from tests.store.making import (
    HEADS,
    NORM,
    PROVENANCE,
    RESID,
    labels_of,
    layout_of,
    make_store,
    stacked,
    tensors_of,
    write_run,
)


def assert_sound(path: Path, runs: tuple[str, ...]) -> None:
    """Exactly these runs are finished, and all their numbers are right."""
    store = Store.open(path)
    assert store.runs == runs
    assert sorted(file.name for file in (path / "runs").iterdir()) == sorted(f"{run}.h5" for run in runs)
    assert leftovers(path) == []
    if runs:
        for site in (RESID, HEADS, NORM):
            got = store.read(site, branch=["cond", "uncond"] if site != HEADS else ["cond"], as_="torch")
            assert torch.equal(got, stacked(store, site))


def test_resume_is_what_the_manifest_lacks(tmp_path: Path) -> None:
    path = make_store(tmp_path / "s", seeds=2).path
    (path / "runs" / "run9.h5.tmp.99999").write_bytes(b"left by a crash")
    (path / "store.json.tmp.99999").write_bytes(b"left by a crash")
    (path / "runs" / "run2.h5").write_bytes(b"renamed, but the crash came before its line")
    store = Store.create(path, PROVENANCE)
    assert leftovers(path) == []
    assert ["run0" in store, "run2" in store] == [True, False]
    write_run(store, layout_of("run2", seed=2))
    assert_sound(path, ("run0", "run1", "run2"))


def test_a_writer_may_throw_its_file_away_while_it_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path / "s", seeds=1)
    temporary = store.path / "runs/run1.h5.tmp.1"
    temporary.write_bytes(b"left")
    monkeypatch.setattr(manifest, "try_lock", lambda fd: temporary.unlink() is None)
    assert Store.create(store.path, PROVENANCE).runs == ("run0",)


def test_a_file_system_without_locks_is_told_and_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, real, before = make_store(tmp_path / "s", seeds=1), fcntl.flock, descriptors()

    def flock(fd: int, how: int) -> None:
        if how & fcntl.LOCK_NB:
            raise OSError(errno.ENOLCK, "No locks available")
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(StoreError, match=r"run run1 cannot be written to .*runs: No locks available"):
        store.writer("run1", layout_of("run1"))
    assert_sound(store.path, ("run0",))
    assert descriptors() == before


def test_files_of_living_writers_are_left_alone(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", seeds=1)
    layout = layout_of("run1", seed=1)
    writer = store.writer("run1", layout)
    again = Store.create(store.path, PROVENANCE)
    with pytest.raises(StoreError, match="being written already"):
        again.writer("run1", layout)
    for site, tensor in tensors_of(layout).items():
        for i, j in [(i, j) for i in range(tensor.shape[0]) for j in range(tensor.shape[1])]:
            writer.write(site, i, j, tensor[i, j])
    writer.finish(labels_of(layout))
    assert again.runs == ("run0",)
    again.refresh()
    assert_sound(store.path, ("run0", "run1"))
    with pytest.raises(StoreError, match="already in"):
        again.writer("run1", layout)


def test_a_store_of_other_provenance_is_not_continued(tmp_path: Path) -> None:
    make_store(tmp_path / "s", seeds=1)
    with pytest.raises(StoreError, match="model_hash is 'abc' there and 'xyz' here"):
        Store.create(tmp_path / "s", {**PROVENANCE, "model_hash": "xyz"})
    Store.create(tmp_path / "s", {**PROVENANCE, "versions": {"torch": "9"}})


def test_two_that_make_a_store_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first decides what it is; the second goes on with that, or is told."""
    both, said = threading.Barrier(2), list[str]()
    real = head.write_head

    def write_head(path: Path, provenance: dict[str, Any]) -> None:
        with suppress(threading.BrokenBarrierError):
            both.wait(0.2)  # were both to come so far, each would make a store of its own
        real(path, provenance)

    def create(model: str) -> None:
        try:
            Store.create(tmp_path / "s", {"model": model})
        except StoreError as error:
            said.append(str(error))

    monkeypatch.setattr(head, "write_head", write_head)
    threads = [threading.Thread(target=create, args=(model,)) for model in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (refused,) = said
    assert "holds a store of other provenance (model is" in refused
    assert leftovers(tmp_path) == []


def test_a_list_of_runs_without_its_store_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    path = make_store(tmp_path / "s", seeds=1).path
    (path / "store.json").unlink()
    with pytest.raises(StoreError, match=r"lists runs and has lost its store.json"):
        Store.create(path, PROVENANCE)
    assert not (path / "store.json").exists()


def test_mistakes_are_named_and_leave_the_writer_usable(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s", PROVENANCE)
    layout = layout_of("r")
    tensors = tensors_of(layout)
    writer = store.writer("r", layout)
    good = tensors[RESID][0, 0]
    for arguments, words in [
        (("blocks.0.hook_resid_pos", 0, 0, good), "did you mean blocks.0.hook_resid_post"),
        ((RESID, 4, 0, good), "outside its 4 steps, 2 branches"),
        ((RESID, 0, -1, good), "outside"),
        ((RESID, 0, 0, good[1:]), r"got shape \(23, 16\) where \('token', 'feature'\) is \(24, 16\)"),
        ((RESID, 0, 0, good.float()), "got float32 where bfloat16 is stored"),
        ((RESID, 0, 0, good.float().numpy()), "got float32 where bfloat16 is stored"),
        ((RESID, 0, 0, [1.0]), "got list"),
    ]:
        with pytest.raises(StoreError, match=words):
            writer.write(*arguments)
    writer.write(RESID, 0, 0, good)
    with pytest.raises(StoreError, match="written before"):
        writer.write(RESID, 0, 0, good)
    with pytest.raises(StoreError, match=f"site {RESID} was never written at step 0, branch uncond"):
        writer.finish()
    with pytest.raises(StoreError, match="cannot be finished: it was discarded"):
        writer.finish()
    with pytest.raises(StoreError, match="takes no more data"):
        writer.write(RESID, 0, 1, good)
    assert_sound(store.path, ())


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"seed": 1}, "would hide a column"),
        ({"a/b": 1}, "cannot be stored"),
        ({"x": object()}, "a label is a number, bool, text or array"),
        ({"x": [object()]}, "array of object"),
        ({"x": 2**70}, "a label is a number"),
    ],
)
def test_labels_that_cannot_be_stored(tmp_path: Path, labels: dict[str, Any], words: str) -> None:
    store = Store.create(tmp_path / "s", PROVENANCE)
    layout = layout_of("r")
    writer = store.writer("r", layout)
    with pytest.raises(StoreError, match=words):
        writer.finish(labels)
    assert_sound(store.path, ())


def test_an_exception_in_the_callers_block_discards_the_run(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s", PROVENANCE)
    writer = store.writer("r", layout_of("r"))

    def interrupted() -> None:
        with writer:
            writer.write(RESID, 0, 0, tensors_of(writer.layout)[RESID][0, 0])
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    writer.abort()
    assert_sound(store.path, ())


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_at_any_call(tmp_path: Path, error: int) -> None:
    """Whichever call fails: a clear error, finished runs intact, nothing left behind, and the next try works."""
    at = 0
    while True:
        at += 1
        path = make_store(tmp_path / f"s{at}", seeds=1).path
        store = Store.create(path, PROVENANCE)
        faults = Faults(at, error, short=at % 2 == 0)
        said = None
        with pytest.MonkeyPatch.context() as patch:
            faults.install(patch)
            try:
                write_run(store, layout_of("run1", seed=1))
            except StoreError as caught:
                said = str(caught)
        assert said is None or os.strerror(error) in said
        if faults.count < at:
            break
        done = ("run0", "run1") if "run1" in Store.open(path) else ("run0",)
        assert_sound(path, done)
        assert done == ("run0",), "every failure here comes before the run is listed"
        write_run(Store.create(path, PROVENANCE), layout_of("run1", seed=1))
        assert_sound(path, ("run0", "run1"))
    assert at > 12
    assert_sound(path, ("run0", "run1"))


def test_a_disk_without_room_fails_before_any_work(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", seeds=1)
    base = layout_of("big")
    site = base.sites[0]
    huge = type(site)(site.site, site.axes, (4, 2, 24, 1 << 38), "bfloat16")
    with pytest.raises(StoreError, match=r"run big needs [\d,]+ bytes, and [\d,]+ are free"):
        store.writer("big", type(base)(**{**vars(base), "sites": (huge,)}))
    assert_sound(store.path, ("run0",))


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, memoryview(data)[:1000], at))
    assert_sound(make_store(tmp_path / "s", seeds=2).path, ("run0", "run1"))


def test_a_file_system_that_cannot_allocate_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "no")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    store = make_store(tmp_path / "s", seeds=2)
    monkeypatch.setattr(os, "fstatvfs", lambda fd: SimpleNamespace(f_bavail=1, f_frsize=4096))
    with pytest.raises(StoreError, match=r"run run2 needs .* bytes, and 4,096 are free: No space left on device"):
        store.writer("run2", layout_of("run2"))
    assert_sound(store.path, ("run0", "run1"))


def test_the_order_that_makes_it_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data and metadata are fsynced before the rename, the folder after it, and the manifest is written only then."""
    store = make_store(tmp_path / "s", seeds=1)
    seen: list[str] = []

    def name_of(fd: int) -> str:
        name = Path(f"/proc/self/fd/{fd}").readlink().name
        return "shard" if name.startswith("run1") else name

    for call in ("pwrite", "fsync", "ftruncate"):
        real = getattr(os, call)
        monkeypatch.setattr(os, call, lambda fd, *a, c=call, r=real: (seen.append(f"{c} {name_of(fd)}"), r(fd, *a))[1])
    real_replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (seen.append("rename"), real_replace(a, b))[1])
    write_run(store, layout_of("run1", seed=1))
    calls = [call for call, before in zip(seen, [None, *seen], strict=False) if call != before]
    assert calls[-6:] == [
        "ftruncate shard",
        "fsync shard",
        "rename",
        "fsync runs",
        "pwrite manifest.jsonl",
        "fsync manifest.jsonl",
    ]


def test_two_processes_finish_the_same_run(tmp_path: Path) -> None:
    """The first that is listed is kept; the other is told so."""
    store = make_store(tmp_path / "s", seeds=0)
    layout = layout_of("run0")
    writer = store.writer("run0", layout)
    other = os.getpid() + 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getpid", lambda: other)
        write_run(Store.create(store.path, PROVENANCE), layout)
    kept = (store.path / "runs/run0.h5").stat().st_ino
    for site, tensor in tensors_of(layout).items():
        for i in range(tensor.shape[0]):
            for j in range(tensor.shape[1]):
                writer.write(site, i, j, tensor[i, j])
    with pytest.raises(StoreError, match="finished by another process"):
        writer.finish()
    assert (store.path / "runs/run0.h5").stat().st_ino == kept
    assert_sound(store.path, ("run0",))


def test_the_lock_is_taken_on_the_file_that_is_there(tmp_path: Path) -> None:
    """A list that was replaced while someone waited for its lock is not written to by mistake."""
    path = tmp_path / "list"
    with disk.locked(path) as fd:
        disk.write_whole(path, b"new\n")
        with disk.locked(path) as other:
            assert os.fstat(fd).st_ino != os.fstat(other).st_ino
            probe = os.open(path, os.O_RDWR)
            with pytest.raises(BlockingIOError):
                fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(probe)


def test_runs_can_be_dropped_and_repeated(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", seeds=3)
    store.drop(["run1"])
    assert store.runs == ("run0", "run2")
    assert not (store.path / "runs/run1.h5").exists()
    write_run(store, layout_of("run1", seed=1))
    assert_sound(store.path, ("run0", "run1", "run2"))
    with pytest.raises(StoreError, match="run 'run7' is not among the 3"):
        store.drop(["run7"])


def test_a_file_is_the_same_whatever_was_written_before(tmp_path: Path) -> None:
    """Runs of one layout begin as copies of one skeleton: what a run adds stays its own."""
    first, second = layout_of("a", seed=1, tokens=(1, 5)), layout_of("b", seed=2, tokens=(1, 5))

    def written(folder: str, layouts: list[RunLayout]) -> bytes:
        skeleton._made.cache_clear()
        store = Store.create(tmp_path / folder, PROVENANCE)
        for layout in layouts:
            write_run(store, layout)
        return (tmp_path / folder / "runs" / "b.h5").read_bytes()

    assert written("one", [second]) == written("two", [first, second])
    assert_sound(tmp_path / "two", ("a", "b"))
