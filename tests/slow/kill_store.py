"""Kills capturing processes at random moments and looks at what they leave.

    python -m tests.slow.kill_store --kills 200

A capture writes runs into a store and says which it has been told are finished. At a random moment it is killed with
SIGKILL: the capturing process that writes itself, one that writes in the background, or its writing process. After
every kill the store is opened and each listed run is read and compared with its known numbers; all that was said to be
finished must be there. The next capture resumes. When the store is complete, every file is compared with that of a
capture which nobody disturbed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NoReturn

import numpy as np

from interp.grid import TokenGrid
from interp.store import RunLayout, SiteLayout, Store, verify

RUNS = tuple(f"run{i:02}" for i in range(8))
PROVENANCE = {"model": "kill"}
STEPS = 3


def layout_of(run: str) -> RunLayout:
    """A run of two sites, one of small cells and one of cells above 1 MiB."""
    sites = (
        SiteLayout("small", ("step", "branch", "token", "feature"), (STEPS, 1, 24, 50), "float32"),
        SiteLayout("large", ("step", "branch", "token", "feature"), (STEPS, 1, 24, 11_000), "float32"),
    )
    return RunLayout(
        run=run,
        sites=sites,
        steps=tuple(range(STEPS)),
        sigmas=(0.5,) * STEPS,
        timesteps=(500.0,) * STEPS,
        experts=("main",) * STEPS,
        branches=("cond",),
        grid=TokenGrid(frames=2, rows=3, cols=4),
        provenance={**PROVENANCE, "seed": RUNS.index(run)},
    )


@cache
def tensors_of(run: str) -> dict[str, np.ndarray]:
    """The run's known numbers."""
    random_ = np.random.default_rng(RUNS.index(run))
    return {site.site: random_.random(site.shape, np.float32) for site in layout_of(run).sites}


def capture(path: Path, background: bool, say: int) -> None:
    """Write what the store lacks; says each finished run, and first the writing process, on the descriptor ``say``."""
    store = Store.create(path, PROVENANCE)
    writers = store.background(memory=1) if background else store
    os.write(say, f"pid {writers.process.pid if background else os.getpid()}\n".encode())
    for run in RUNS:
        if run in store:
            continue
        layout = layout_of(run)
        tensors = tensors_of(run)
        with writers.writer(run, layout) as writer:
            for step in range(STEPS):
                for site, tensor in tensors.items():
                    writer.write(site, step, 0, tensor[step, 0])
            writer.finish({"seed_of_run": RUNS.index(run)})
        if background:
            writers.flush()
        os.write(say, f"run {run}\n".encode())
    if background:
        writers.close()


@dataclass
class Tally:
    """What was seen."""

    kills: Counter[str] = field(default_factory=Counter)
    too_late: int = 0
    resumed: int = 0
    completed: int = 0
    runs_at_kill: Counter[int] = field(default_factory=Counter)


def one_capture(path: Path, background: bool, victim: str, delay: float | None) -> tuple[set[str], bool]:
    """Start a capture, kill ``victim`` after ``delay`` seconds; gives what it said is finished, and if it was hit."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        _be_a_capture(path, background, read, write)
    os.close(write)
    said, text = set(), b""
    pids = {"capture": child}
    deadline = None
    killed = False
    with os.fdopen(read, "rb", buffering=0) as pipe:
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([pipe], [], [], left)[0]:
                with suppress(ProcessLookupError):
                    os.kill(pids[victim], signal.SIGKILL)
                    killed = True
                deadline = None
                continue
            got = pipe.read(4096)
            if not got:
                break
            text += got
            *lines, text = text.split(b"\n")
            for kind, value in (line.decode().split() for line in lines):
                if kind == "run":
                    said.add(value)
                else:
                    pids["writer"] = int(value)
                    deadline = None if delay is None else time.monotonic() + delay
    _, status = os.waitpid(child, 0)
    return said, killed and status != 0


def _be_a_capture(path: Path, background: bool, read: int, write: int) -> NoReturn:
    os.close(read)
    status = 1
    try:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 2)  # a capture whose writing process was killed ends with an error, as it should
        capture(path, background, write)
        status = 0
    finally:
        os._exit(status)


def check(path: Path, said: set[str]) -> int:
    """All that was said is there, and all that is there is right; gives the number of finished runs."""
    if not (path / "store.json").exists():
        assert not said
        return 0
    store = Store.open(path)
    lost = said - set(store.runs)
    assert not lost, f"lost: {lost}"
    for run in store.runs:
        for site, wanted in tensors_of(run).items():
            assert np.array_equal(store.read(site, runs=[run])[0], wanted[:, 0]), f"{run} {site} is wrong"
        assert store.labels("seed_of_run", runs=[run]).tolist() == [RUNS.index(run)]
    return len(store)


def files_of(path: Path) -> dict[str, bytes]:
    """Name and content of every file."""
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def campaign(folder: Path, kills: int, seed: int, show: bool = False) -> Tally:
    """Kill until ``kills`` captures were killed.

    Raises:
        AssertionError: a finished run was lost or is wrong, or the result differs from an undisturbed one.
    """
    random_, tally = random.Random(seed), Tally()
    for run in RUNS:  # before anything is timed or forked
        tensors_of(run)
    began = time.monotonic()
    one_capture(folder / "reference", False, "capture", None)
    duration = time.monotonic() - began
    reference = files_of(folder / "reference")
    assert check(folder / "reference", set(RUNS)) == len(RUNS)
    number = 0
    said: set[str] = set()
    while sum(tally.kills.values()) < kills:
        path = folder / f"store{number}"
        background = random_.random() < 0.35
        victim = random_.choice(("capture", "writer")) if background else "capture"
        before = len(said)
        new, killed = one_capture(path, background, victim, random_.uniform(0, duration * 1.1))
        said |= new
        tally.resumed += bool(before)
        count = check(path, said)
        tally.runs_at_kill[count] += killed
        if killed:
            tally.kills[f"{'background' if background else 'direct'}, {victim} killed"] += 1
        else:
            tally.too_late += 1
        if show:
            print(f"\r{sum(tally.kills.values())} kills, {tally.completed} stores completed", end="", file=sys.stderr)
        if count == len(RUNS):
            one_capture(path, False, "capture", None)  # removes what is left over
            assert files_of(path) == reference, "the resumed store differs from an undisturbed one"
            assert verify(Store.open(path)).ok
            tally.completed += 1
            number, said = number + 1, set()
    one_capture(folder / f"store{number}", False, "capture", None)
    assert files_of(folder / f"store{number}") == reference
    tally.completed += 1
    return tally


def main() -> None:
    """Run a campaign and print what was seen as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tally = campaign(Path(folder), options.kills, options.seed, show=sys.stderr.isatty())
    said = {
        "kills": dict(tally.kills),
        "captures that ended before their kill": tally.too_late,
        "captures that resumed": tally.resumed,
        "stores completed, bit-identical to an undisturbed one": tally.completed,
        "kills by number of finished runs": dict(sorted(tally.runs_at_kill.items())),
        "finished runs lost": 0,
        "finished runs wrong": 0,
    }
    print(json.dumps(said, indent=1))


if __name__ == "__main__":
    main()
