"""What both sides of each comparison share: the same tensors, files that are removed untimed, cold caches."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Times
from interp.grid import TokenGrid
from interp.store import RunLayout, SiteLayout


@dataclass(frozen=True)
class Scale:
    """How much is measured. ``--quick`` and the tests take hundredths, whose figures mean nothing.

    Attributes:
        large, middle, small: how many events of 84 MB, 1 MB and 2 KB a run has.
        large_tokens: tokens of a large event, of 5120 features.
        peers: at most so many small events go to peers that need milliseconds for each; rates are compared.
        background_runs: runs of middle events in the background case.
        runs, steps, sites, groups, features: of the store that is read.
        wide_groups, wide_features: of another one, whose cells are as large as those of a large model; it has two sites
            and two steps.
        consolidated_tokens: of a cell of the store that is consolidated, in place of ``groups``.
        coded_runs, coded_steps: of the bundled model, whose activations are coded.
    """

    large: int = 4
    middle: int = 256
    small: int = 65_536
    large_tokens: int = 8_192
    peers: int = 1_024
    background_runs: int = 150
    runs: int = 300
    steps: int = 20
    sites: int = 12
    groups: int = 8
    features: int = 256
    wide_groups: int = 16
    wide_features: int = 5120
    consolidated_tokens: int = 64
    coded_runs: int = 16
    coded_steps: int = 20

    @property
    def wide(self) -> Scale:
        """The store with larger cells."""
        return replace(self, steps=2, sites=2, groups=self.wide_groups, features=self.wide_features)


FULL = Scale()
QUICK = Scale(
    large=2,
    middle=4,
    small=256,
    large_tokens=512,
    peers=16,
    background_runs=2,
    runs=6,
    steps=3,
    sites=2,
    groups=2,
    features=16,
    wide_groups=2,
    wide_features=64,
    consolidated_tokens=4,
    coded_runs=1,
    coded_steps=2,
)


def layout_of(run: str, steps: int, sites: int, tokens: int, features: int) -> RunLayout:
    """A run of equal sites in bfloat16, of one branch."""
    axes = ("step", "branch", "token", "feature")
    return RunLayout(
        run=run,
        sites=tuple(SiteLayout(f"site{i}", axes, (steps, 1, tokens, features), "bfloat16") for i in range(sites)),
        steps=tuple(range(steps)),
        sigmas=(0.5,) * steps,
        timesteps=(500.0,) * steps,
        experts=("main",) * steps,
        branches=("cond",),
        grid=TokenGrid(frames=1, rows=1, cols=tokens),
        provenance={"model": "benchmark"},
    )


def numbers(*shape: int) -> Tensor:
    """Random bfloat16 [*shape]."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)


def bits(tensor: Tensor) -> memoryview:
    """A tensor's bytes."""
    return memoryview(tensor.view(torch.uint8).numpy().reshape(-1))


def rounds_of(
    cases: Mapping[str, Callable[[], Any]], rounds: int, *, before: Callable[[], None], warmup: int = 1
) -> dict[str, Times]:
    """As `benchmarks.harness.interleaved`, with work that is not timed before each case."""
    kept: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(-warmup, rounds):
        for name in list(cases) if number % 2 == 0 else reversed(list(cases)):
            before()
            start = time.perf_counter()
            cases[name]()
            if number >= 0:
                kept[name].append(time.perf_counter() - start)
    return {name: Times(tuple(seconds)) for name, seconds in kept.items()}


def sync(path: Path) -> None:
    """Fsync a file, or all files and folders of a folder."""
    inside = [Path(root) / name for root, _, names in os.walk(path) for name in (*names, ".")]
    for one in inside or [path]:
        fd = os.open(one, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def forget(path: Path) -> None:
    """Drop a file, or all files of a folder, from the page cache (``posix_fadvise``; no root needed)."""
    for one in [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]:
        fd = os.open(one, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def empty(folder: Path) -> None:
    """Remove all that is in a folder, and wait until the disk has taken note."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    sync(folder)
