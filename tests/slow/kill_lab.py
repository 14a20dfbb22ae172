"""Kills whole captures (`lab.capture` of a tiny pipeline) at random moments, or the processes that write for them.

    python -m tests.slow.kill_lab --kills 30

As `tests.slow.kill_store`, but with all of it: pipeline, hooks, views, background writer. After every kill each listed
run is compared byte for byte with that of a capture which nobody disturbed; then the capture is resumed. Runs go two at
a time: a resumed capture runs a half-finished batch whole, since matrix products round otherwise in another batch size.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from interp.lab import Lab
from interp.store import Store, verify
from tests.pipelines import call_arguments, tiny_i2v
from tests.tracer.runs import specs_of

RUNS = 6


def begin(lab: Lab, runs: list[Any], to: Path, background: bool) -> int:
    """Capture in a process of its own; gives its id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # a killed writer is told there, rightly
        sites, views = "blocks.*.hook_resid_post", ["full", "frame_mean"]
        lab.capture(runs, sites, to=to, views=views, batch_size=2, progress=False, background=background)
        status = 0
    finally:
        os._exit(status)


def children(pid: int) -> list[int]:
    """Processes that a process has started."""
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def finish(pid: int) -> int:
    """Wait for a process; gives its status."""
    return os.waitpid(pid, 0)[1]


def shards(path: Path) -> dict[str, bytes]:
    """Content of the finished runs."""
    if not (path / "store.json").exists():
        return {}
    store = Store.open(path)
    assert verify(store).ok
    return {run: (path / f"runs/{run}.h5").read_bytes() for run in store.runs}


def campaign(folder: Path, kills: int, seed: int) -> Counter[str]:
    """Kill until ``kills`` captures were killed.

    Raises:
        AssertionError: a finished run was lost or differs from that of an undisturbed capture.
    """
    pipe = tiny_i2v()
    pipe.set_progress_bar_config(disable=True)
    lab = Lab(pipe, "tiny")
    runs = specs_of(lab, call_arguments(pipe), list(range(RUNS)))
    assert lab.model_hash  # once, not in every process
    began = time.monotonic()
    assert finish(begin(lab, runs, folder / "reference", background=True)) == 0
    duration, reference = time.monotonic() - began, shards(folder / "reference")
    random_, seen, number, before = random.Random(seed), Counter[str](), 0, set[str]()
    while seen["killed"] < kills:
        path, background = folder / f"store{number}", random_.random() < 0.7
        capture = begin(lab, runs, path, background)
        time.sleep(random_.uniform(0, duration))
        writers = children(capture) if background and random_.random() < 0.5 else []
        victim = writers[0] if writers else capture
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        if finish(capture) == 0:
            seen["ended before"] += 1
        else:
            seen["killed"] += 1
            seen[f"{'writer' if writers else 'capture'} killed, {'background' if background else 'one process'}"] += 1
        found = shards(path)
        assert before <= found.keys(), "a finished run was lost"
        assert all(content == reference[run] for run, content in found.items())
        before = set(found)
        if len(found) == RUNS:
            seen["completed"] += 1
            number, before = number + 1, set()
    return seen


def main() -> None:
    """Run a campaign and print what was seen as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(campaign(Path(folder), options.kills, options.seed), indent=1))


if __name__ == "__main__":
    main()
