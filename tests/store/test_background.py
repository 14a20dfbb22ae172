"""Writing in another process gives the same bytes, waits where it must, and tells of every failure."""

from __future__ import annotations

import dataclasses
import errno
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp.errors import StoreError
from interp.store import BackgroundWriter, RunLayout, SiteLayout, Store
from interp.store.worker import step_back
from tests.store.faults import descriptors, leftovers
from tests.store.making import PROVENANCE, RESID, labels_of, layout_of, make_store, tensors_of
from tests.store.test_writing import assert_sound


def write_run(writers: BackgroundWriter, layout: RunLayout, finish: bool = True) -> None:
    tensors = tensors_of(layout)
    with writers.writer(layout.run, layout) as writer:
        for i in range(len(layout.steps)):
            for site, tensor in tensors.items():
                for j in range(tensor.shape[1]):
                    writer.write(site, i, j, tensor[i, j])
        if finish:
            writer.finish(labels_of(layout))


@pytest.mark.parametrize("borrow", [False, True])
def test_the_same_bytes_as_in_one_process(tmp_path: Path, borrow: bool) -> None:
    near = make_store(tmp_path / "near", seeds=5)
    far = Store.create(tmp_path / "far", PROVENANCE)
    with far.background(borrow=borrow) as writers:
        for seed in range(5):
            write_run(writers, layout_of(f"run{seed}", seed=seed))
    assert far.runs == near.runs
    for run in near.runs:
        assert (far.path / f"runs/{run}.h5").read_bytes() == (near.path / f"runs/{run}.h5").read_bytes()
    assert (far.path / "manifest.jsonl").read_bytes() == (near.path / "manifest.jsonl").read_bytes()


def test_a_system_that_allows_no_other_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(*policy: Any) -> None:
        asked.append(policy)
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse, raising=False)
    step_back()  # raises nothing
    assert len(asked) == hasattr(os, "SCHED_BATCH")


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="other systems have no such policy")
def test_whoever_computes_is_not_interrupted(tmp_path: Path) -> None:
    """The process that writes waits for its turn: the thread that writes, and the one that finishes runs."""
    with Store.create(tmp_path / "s", PROVENANCE).background() as writers:
        write_run(writers, layout_of("run0"))
        writers.flush()  # now the thread that finishes runs has begun, too
        threads = [int(thread.name) for thread in Path(f"/proc/{writers.process.pid}/task").iterdir()]
        assert os.sched_getscheduler(writers.process.pid) == os.SCHED_BATCH
        assert sum(os.sched_getscheduler(thread) == os.SCHED_BATCH for thread in threads) >= 2  # NumPy may have others
    assert os.sched_getscheduler(0) != os.SCHED_BATCH


def test_several_runs_at_a_time_and_tensors_larger_than_the_memory(tmp_path: Path) -> None:
    base = layout_of("r")
    sites = (
        SiteLayout("large", ("step", "branch", "token", "feature"), (2, 1, 24, 180_001), "float32"),
        SiteLayout("middle", ("step", "branch", "token", "feature"), (2, 1, 24, 30_001), "bfloat16"),
        SiteLayout("small", ("step", "branch", "number"), (2, 1, 3), "bfloat16"),
    )
    common = {"steps": (0, 1), "sigmas": (1.0, 0.5), "timesteps": (9.0, 5.0), "experts": ("main",) * 2}
    layouts = [
        RunLayout(**{**vars(base), **common, "run": f"r{i}", "sites": sites, "branches": ("cond",)}) for i in range(2)
    ]
    tensors = [tensors_of(layout) for layout in layouts]
    store = Store.create(tmp_path / "s", PROVENANCE)
    with store.background(memory=1) as writers:  # two slots of 8 MiB; a large cell has 17 MB
        both = [writers.writer(layout.run, layout) for layout in layouts]
        for step in range(2):
            for site in ("small", "middle", "large"):
                for writer, content in zip(both, tensors, strict=True):
                    writer.write(site, step, 0, content[site][step, 0])
        for writer in both:
            writer.finish()
    for site in ("small", "middle", "large"):
        assert torch.equal(store.read(site, as_="torch"), torch.stack([content[site][:, 0] for content in tensors]))


def test_a_borrowed_tensor_that_is_changed_too_early_is_noticed(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s", PROVENANCE)
    layout = layout_of("r")
    tensor = torch.zeros(24, 16, dtype=torch.bfloat16)
    hold = threading.Event()
    far = store.background(borrow=True)
    writer = far.writer("r", layout)
    far.have_done(lambda: hold.wait(10) and None)
    writer.write(RESID, 0, 0, tensor)
    tensor += 1
    hold.set()
    with pytest.raises(StoreError, match="changed in place before it was copied"):
        far.close()
    assert_sound(store.path, ())


def test_borrowed_arrays_may_be_changed_at_once(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s", PROVENANCE)
    site = SiteLayout("number", ("step", "branch", "number"), (4, 1, 3), "float32", branches=("cond",))
    hold = threading.Event()
    with torch.inference_mode(), store.background(borrow=True) as writers:
        writer = writers.writer("r", dataclasses.replace(layout_of("r"), sites=(site,)))
        writers.have_done(lambda: hold.wait(10) and None)
        array, tensor = np.zeros(3, np.float32), torch.zeros(3)
        for step in range(4):
            given = array if step % 2 else tensor
            given[:] = step
            writer.write("number", step, 0, given)
        array[:] = tensor[:] = -1
        hold.set()
        writer.finish()
    assert store.read("number")[0, :, 0].tolist() == [0, 1, 2, 3]


def test_finished_runs_are_there_after_a_flush(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s", PROVENANCE)
    with store.background() as writers:
        write_run(writers, layout_of("run0"))
        writers.flush()
        assert store.runs == ("run0",)
        with pytest.raises(StoreError, match="run run0 is already in"):
            writers.writer("run0", layout_of("run0"))
        write_run(writers, layout_of("run1", seed=1), finish=False)
    assert_sound(store.path, ("run0",))
    with pytest.raises(StoreError, match="closed"):
        writers.writer("run2", layout_of("run2"))


def test_mistakes_are_told_at_once(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s", PROVENANCE)
    layout = layout_of("r")
    with store.background() as writers:
        writer = writers.writer("r", layout)
        with pytest.raises(StoreError, match="got shape"):
            writer.write(RESID, 0, 0, torch.zeros(3, dtype=torch.bfloat16))
        with pytest.raises(StoreError, match="never written"):
            writer.finish()
        with pytest.raises(StoreError, match="takes no more data"):
            writer.write(RESID, 0, 0, torch.zeros(24, 16, dtype=torch.bfloat16))
    assert_sound(store.path, ())


def test_a_failed_disk_is_told_and_costs_only_that_run(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", seeds=1)
    writers = store.background()
    resource.prlimit(writers.process.pid, resource.RLIMIT_FSIZE, (5000, 5000))
    write_run(writers, layout_of("run1", seed=1))
    with pytest.raises(StoreError, match=r"run run1 needs .* bytes, .*: File too large"):
        writers.close()
    assert_sound(store.path, ("run0",))
    with store.background() as again:
        write_run(again, layout_of("run1", seed=1))
    assert_sound(store.path, ("run0", "run1"))


def test_a_process_that_cannot_be_started_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    store, before = make_store(tmp_path / "s", seeds=0), descriptors()
    monkeypatch.setattr(subprocess, "Popen", fails)
    with pytest.raises(StoreError, match=r"cannot be started with 268,435,456 bytes .*memory\); give less memory="):
        store.background()
    assert descriptors() == before


def test_a_writing_process_that_is_killed_is_told(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", seeds=1)
    writers = store.background()
    write_run(writers, layout_of("run1", seed=1))
    writers.flush()
    write_run(writers, layout_of("run2", seed=2), finish=False)
    writers.process.send_signal(signal.SIGKILL)

    def go_on() -> None:
        write_run(writers, layout_of("run3", seed=3))
        writers.flush()

    with pytest.raises(StoreError, match=r"ended with status -9, and with it the unfinished runs \((run3|none)\)"):
        go_on()
    writers.close()
    Store.create(store.path, PROVENANCE)
    assert_sound(store.path, ("run0", "run1"))


CAPTURE = """
import os, signal, sys
from interp.store import Store
from tests.store.making import PROVENANCE, RESID, layout_of, tensors_of
from tests.store.test_background import write_run
store = Store.create(sys.argv[1], PROVENANCE)
writers = store.background()
write_run(writers, layout_of("run0"))
writers.flush()
writer = writers.writer("run1", layout_of("run1", seed=1))
writer.write(RESID, 0, 0, tensors_of(writer.layout)[RESID][0, 0])
print(writers.process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_capture_that_is_killed_takes_the_writing_process_with_it(tmp_path: Path) -> None:
    """It ends by itself, keeps what is finished, and removes the rest."""
    done = subprocess.run([sys.executable, "-c", CAPTURE, tmp_path / "s"], stdout=subprocess.PIPE, check=False)
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    pidfd = None
    try:
        pidfd = os.pidfd_open(pid)
        assert signal.pidfd_send_signal(pidfd, 0) is None
    except ProcessLookupError:
        pass
    if pidfd is not None:  # readable once the process has ended
        import select

        assert select.select([pidfd], [], [], 60)[0]
        os.close(pidfd)
    assert leftovers(tmp_path / "s") == []
    assert_sound(tmp_path / "s", ("run0",))
