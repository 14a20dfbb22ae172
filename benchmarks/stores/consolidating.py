"""Consolidating a store, beside a copy of the same bytes.

Shards are read from a cold cache. The raw copy reads every shard from end to end and writes it to one file that is
fsynced; "and compared" also reads both again, the copy from a cold cache, which is the least that finds a disk that
kept other bytes than it was given. Neither transposes anything.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import row
from benchmarks.stores.common import Scale, forget, layout_of, numbers, rounds_of, sync
from interp.store import Store, consolidate

PIECE = 8 << 20
MEMORY = 256 << 20


class Consolidating:
    """A store of many runs.

    Args:
        folder: where.
        scale: how large.
    """

    def __init__(self, folder: Path, scale: Scale) -> None:
        self.folder, self.store = folder, Store.create(folder / "store")
        self.grown = 0
        for run in range(scale.runs):
            layout = layout_of(f"run{run:04}", scale.steps, scale.sites, scale.consolidated_tokens, 256)
            tensor = numbers(scale.steps, scale.consolidated_tokens, 256) + run
            with self.store.writer(layout.run, layout) as writer:
                for step in range(scale.steps):
                    for site in layout.sites:
                        writer.write(site.site, step, 0, tensor[step])
                writer.finish()
        self.store.refresh()
        sync(folder)
        self.shards = [self.store.path / f"runs/{run}.h5" for run in self.store.runs]
        self.nbytes = sum(self.store.layout(run).nbytes for run in self.store.runs)

    def before(self) -> None:
        """Shards alone, none of them in memory."""
        shutil.rmtree(self.store.path / "consolidated", ignore_errors=True)
        self.copy.unlink(missing_ok=True)
        self.store = Store.open(self.store.path)
        forget(self.folder)

    def ours(self) -> None:
        """Transposed, read back, compared."""
        reset = Path("/proc/self/clear_refs")
        if reset.exists():
            reset.write_text("5")  # forget the peak so far
        held = _held("VmRSS")
        consolidate(self.store, memory=MEMORY)
        self.grown = max(self.grown, _held("VmHWM") - held)

    @property
    def copy(self) -> Path:
        """Where raw copies go."""
        return self.folder / "copy"

    def raw(self) -> None:
        """One file of all shards, fsynced."""
        buffer = np.empty(PIECE, np.uint8)
        target = os.open(self.copy, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            for shard in self.shards:
                for piece in _pieces(shard, buffer):
                    os.write(target, piece)
            os.fsync(target)
        finally:
            os.close(target)

    def compared(self) -> None:
        """... and both read again."""
        self.raw()
        forget(self.copy)
        buffer, other = np.empty(PIECE, np.uint8), np.empty(PIECE, np.uint8)
        with self.copy.open("rb", buffering=0) as file:
            for shard in self.shards:
                for piece in _pieces(shard, buffer):
                    back = memoryview(other)[: piece.nbytes]
                    assert file.readinto(back) == piece.nbytes
                    assert np.array_equal(buffer[: piece.nbytes], other[: piece.nbytes])


def _pieces(path: Path, buffer: np.ndarray) -> Any:
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer.data):
            yield memoryview(buffer)[:count]


def _held(name: str) -> int:
    """Bytes of main memory of this process: "VmRSS" now, "VmHWM" at most; 0 where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(name)), 0)


def consolidating_rows(folder: Path, scale: Scale, rounds: int, only: str = "") -> list[dict[str, Any]]:
    """MB/s of data, if the case's name begins with ``only``."""
    case = f"consolidate {scale.runs} runs"
    if not case.startswith(only):
        return []
    made = Consolidating(folder, scale)
    cases = {"ours": made.ours, "raw copy": made.raw, "raw copy, read back and compared": made.compared}
    times = rounds_of(cases, rounds, before=made.before)
    ours = times["ours"]
    shutil.rmtree(folder)
    return [
        row(
            case,
            made.nbytes / ours.median / 1e6,
            name,
            made.nbytes / one.median / 1e6,
            "MB/s",
            "",
            None,
            paired_ratio=one.ratio(ours),
            quartiles=[made.nbytes / second / 1e6 for second in reversed(ours.spread)],
            bytes=made.nbytes,
            memory_asked=MEMORY,
            memory_grown=made.grown,
        )
        for name, one in times.items()
        if name != "ours"
    ]
