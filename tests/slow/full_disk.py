"""Fills a small disk at every point of a capture, and damages shards at random.

    python -m tests.slow.full_disk

A tmpfs of a few MiB is mounted (root is needed) and all but n pages of it are filled, for every n from none to enough.
A run is written each time: as usual, in the background, and as on a file system that cannot reserve space, so that the
disk is found full at every single write. Then bits are flipped and shards truncated, 1,000 times: each must be found,
at the right run.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import numpy as np

from interp.errors import StoreError
from interp.store import Store, verify
from tests.slow.kill_store import PROVENANCE, RUNS, STEPS, check, layout_of, tensors_of

PAGE = 4096


def write_run(store: Store, run: str, background: bool = False) -> None:
    """Write a whole run."""
    tensors = tensors_of(run)
    with ExitStack() as stack:
        writers = stack.enter_context(store.background(memory=1)) if background else store
        writer = stack.enter_context(writers.writer(run, layout_of(run)))
        for step in range(STEPS):
            for site, tensor in tensors.items():
                writer.write(site, step, 0, tensor[step, 0])
        writer.finish({"seed_of_run": RUNS.index(run)})


@contextmanager
def small_disk(nbytes: int) -> Iterator[Path]:
    """A disk of its own of that many bytes."""
    folder = Path(tempfile.mkdtemp())
    try:
        command = ["mount", "-t", "tmpfs", "-o", f"size={nbytes}", "tmpfs", folder]
        subprocess.run(command, check=True, capture_output=True)
        try:
            yield folder
        finally:
            subprocess.run(["umount", folder], check=True)
    finally:
        folder.rmdir()


def cannot_reserve(*_: object) -> None:
    """What a file system without ``fallocate`` answers."""
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def fails_for_want_of_space(store: Store, run: str, background: bool) -> bool:
    """Write a run; was the disk full? Any other error is raised."""
    try:
        write_run(store, run, background)
    except StoreError as error:
        if os.strerror(errno.ENOSPC) in str(error):
            return True
        raise
    return False


WAYS = {"space reserved": (True, False), "in the background": (True, True), "space not reserved": (False, False)}
"""Is space reserved, and is it written by another process?"""


def can_mount() -> bool:
    """May this process mount a disk of its own?"""
    try:
        with small_disk(1 << 20):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def full_at_every_write(step: int, say: Callable[[str], None]) -> Counter[str]:
    """Write a run with 0, ``step``, 2 ``step`` ... free pages until it succeeds, in all `WAYS`.

    In the background, which starts a process each time, 16 times fewer amounts are tried.

    Raises:
        AssertionError: a finished run was lost or is wrong, something was left behind, or resuming failed.
    """
    seen: Counter[str] = Counter()
    for way, (reserves, background) in WAYS.items():
        pages = 0
        while True:
            with small_disk(24 << 20) as disk:
                store = Store.create(disk / "s", PROVENANCE)
                write_run(store, RUNS[0])
                filler = disk / "filler"
                with filler.open("wb") as file:
                    free = os.statvfs(disk)
                    os.posix_fallocate(file.fileno(), 0, max(PAGE, (free.f_bavail - pages) * PAGE))
                with mock.patch.object(os, "posix_fallocate", os.posix_fallocate if reserves else cannot_reserve):
                    failed = fails_for_want_of_space(store, RUNS[1], background)
                left = [path.name for path in disk.rglob("*.tmp.*")]
                assert not left, left
                count = check(disk / "s", {RUNS[0]} if failed else set(RUNS[:2]))
                assert count == (1 if failed else 2)
                filler.unlink()
                if failed:
                    write_run(Store.create(disk / "s", PROVENANCE), RUNS[1])
                    assert check(disk / "s", set(RUNS[:2])) == 2
                seen[way] += failed
            if not failed:
                break
            pages += step * 16 if background else step
            say(f"{pages} free pages")
    return seen


def random_damage(count: int, say: Callable[[str], None]) -> Counter[str]:
    """Flip a bit or cut a shard, ``count`` times.

    Raises:
        AssertionError: something went unseen, or was put down to another run.
    """
    random_, seen = random.Random(0), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s"
        store = Store.create(path, PROVENANCE)
        for run in RUNS[:3]:
            write_run(store, run)
        shard = path / f"runs/{RUNS[1]}.h5"
        good = np.fromfile(shard, np.uint8)
        for i in range(count):
            if i % 4 == 0:
                shard.write_bytes(good[: random_.randrange(len(good))].tobytes())
                kind = "truncations"
            else:
                bad = good.copy()
                bad[random_.randrange(len(good))] ^= 1 << random_.randrange(8)
                shard.write_bytes(bad.tobytes())
                kind = "bit flips"
            report = verify(Store.open(path))
            assert list(report.damaged) == [RUNS[1]], (i, kind, report)
            said = report.damaged[RUNS[1]][0]
            assert str(shard) in said
            seen[f"{kind}: found, run named"] += 1
            seen["place in the file named"] += any(word in said for word in ("block", "byte", "HDF5 structures"))
            say(f"{i} damages")
        shard.write_bytes(good.tobytes())
        assert verify(Store.open(path)).ok
    return seen


def main() -> None:
    """Run all and print what was seen as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--damages", type=int, default=1000)
    parser.add_argument("--step", type=int, default=1, help="free pages more at each try")
    options = parser.parse_args()

    def say(text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r{text}", end="", file=sys.stderr)

    full = (
        full_at_every_write(options.step, say) if can_mount() else {"left out": "a small disk cannot be mounted here"}
    )
    result = {
        "captures that met a full disk, cleanly": dict(full),
        "damage": dict(random_damage(options.damages, say)),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
