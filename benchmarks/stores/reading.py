"""Reading back what many runs wrote: one cell over all of them, and everything; from cold and from warm caches.

The store is consolidated, so a cell over all runs is one stretch of bytes, and the raw reader reads that very stretch
from the very file. A store checks every block the first time it is met: "first" reads pay for that, later ones do not.
Peers have one file a run (zarr: one array a site and one chunk a run), as their users do who write run by run.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from benchmarks.harness import row
from benchmarks.stores.common import Scale, forget, layout_of, numbers, rounds_of, sync
from interp.store import Store, consolidate

SITE = 1
"""The site and step whose cell is read."""


class Reading:
    """A store, its peers, and the ways to read them.

    Args:
        folder: where they are made.
        scale: how large.
        alone: make no peers.
    """

    def __init__(self, folder: Path, scale: Scale, alone: bool = False) -> None:
        self.folder, self.scale, self.alone = folder, scale, alone
        self.store = self._write()
        (line,) = self.store.bundle_lines()
        self._file = self.store.path / "consolidated" / f"{line.run}.h5"
        with h5py.File(self._file) as file:
            self._offsets = [file[f"sites/site{i}"].id.get_offset() for i in range(scale.sites)]
        self.cell_nbytes = scale.runs * scale.groups * scale.features * 2
        self.nbytes = self.cell_nbytes * scale.steps * scale.sites

    def _write(self) -> Store:
        scale = self.scale
        store = Store.create(self.folder / "store")
        keep = None if self.alone else self._peers()
        for run in range(scale.runs):
            layout = layout_of(f"run{run:04}", scale.steps, scale.sites, scale.groups, scale.features)
            tensors = {site.site: numbers(scale.steps, scale.groups, scale.features) for site in layout.sites}
            with store.writer(layout.run, layout) as writer:
                for site, tensor in tensors.items():
                    for step in range(scale.steps):
                        writer.write(site, step, 0, tensor[step])
                writer.finish()
            if keep is not None:
                keep(run, tensors)
        consolidate(store)
        sync(self.folder)
        return store

    def _peers(self) -> Callable[[int, dict[str, torch.Tensor]], None]:
        """What writes a run as each peer does."""
        for name in ("h5", "safetensors", "pt"):
            (self.folder / name).mkdir()
        arrays = self._zarr_arrays()

        def keep(run: int, tensors: dict[str, torch.Tensor]) -> None:
            with h5py.File(self.folder / "h5" / f"{run}.h5", "w") as file:
                for site, tensor in tensors.items():
                    file[site] = tensor.view(torch.uint16).numpy()
            save_file(tensors, self.folder / "safetensors" / f"{run}.safetensors")
            torch.save(tensors, self.folder / "pt" / f"{run}.pt")
            for site, tensor in tensors.items():
                arrays[site][run] = tensor.view(torch.uint16).numpy()

        return keep

    def _zarr_arrays(self) -> dict[str, Any]:
        import zarr

        scale = self.scale
        whole = (scale.runs, scale.steps, scale.groups, scale.features)
        group = zarr.create_group(self.folder / "zarr")
        return {
            f"site{i}": group.create_array(f"site{i}", shape=whole, chunks=(1, *whole[1:]), dtype="uint16")
            for i in range(scale.sites)
        }

    def open(self) -> None:
        """Open the store anew, so that nothing of it counts as checked; which run lies where is looked up, too."""
        self.store = Store.open(self.store.path)
        assert self.store.sites
        assert self.store.view("site0").runs == self.scale.runs

    def ready(self, first: bool, cold: Path | None) -> None:
        """Make the next read the first one of an opened store, and have the files of a folder on the disk alone."""
        if first:
            self.open()
        if cold is not None:
            forget(cold)

    def ours(self, grid: bool) -> list[Any]:
        """The store."""
        if grid:
            return [self.store.read(f"site{i}", branch="cond", as_="torch") for i in range(self.scale.sites)]
        return [self.store.read(f"site{SITE}", step=SITE, branch="cond", as_="torch")]

    def raw(self, grid: bool) -> list[Any]:
        """The same bytes by ``preadv``."""
        out = []
        stretches = [(at, self.cell_nbytes * self.scale.steps) for at in self._offsets]
        if not grid:
            stretches = [(self._offsets[SITE] + SITE * self.cell_nbytes, self.cell_nbytes)]
        for at, nbytes in stretches:
            fd = os.open(self._file, os.O_RDONLY)
            try:
                array = np.empty(nbytes, np.uint8)
                assert os.preadv(fd, [array], at) == nbytes
            finally:
                os.close(fd)
            out.append(torch.from_numpy(array).view(torch.bfloat16))
        return out

    def h5py_shards(self, grid: bool) -> list[Any]:
        """A file a run."""
        out = []
        for run in range(self.scale.runs):
            with h5py.File(self.folder / "h5" / f"{run}.h5") as file:
                out.append([file[name][...] for name in file] if grid else file[f"site{SITE}"][SITE])
        return self._stacked(out, grid)

    def zarr_arrays(self, grid: bool) -> list[Any]:
        """An array a site."""
        import zarr

        group = zarr.open_group(self.folder / "zarr", mode="r")
        if grid:
            return [group[f"site{i}"][...] for i in range(self.scale.sites)]
        return [group[f"site{SITE}"][:, SITE]]

    def safetensors_shards(self, grid: bool) -> list[Any]:
        """A file a run."""
        out = []
        for run in range(self.scale.runs):
            with safe_open(self.folder / "safetensors" / f"{run}.safetensors", "pt") as file:
                names = file.keys()
                out.append([file.get_tensor(n) for n in names] if grid else file.get_slice(f"site{SITE}")[SITE])
        return self._stacked(out, grid)

    def torch_shards(self, grid: bool) -> list[Any]:
        """A file a run, memory-mapped."""
        out = []
        for run in range(self.scale.runs):
            file = torch.load(self.folder / "pt" / f"{run}.pt", mmap=True, weights_only=True)
            out.append(list(file.values()) if grid else file[f"site{SITE}"][SITE])
        return self._stacked(out, grid)

    @staticmethod
    def _stacked(runs: list[Any], grid: bool) -> list[Any]:
        stack = np.stack if isinstance(runs[0][0] if grid else runs[0], np.ndarray) else torch.stack
        return [stack(site) for site in zip(*runs, strict=True)] if grid else [stack(runs)]

    def peers(self) -> dict[str, Callable[[bool], list[Any]]]:
        """By name."""
        return {
            "h5py, a file a run": self.h5py_shards,
            "zarr 3": self.zarr_arrays,
            "safetensors, a file a run": self.safetensors_shards,
            "torch.save, a file a run": self.torch_shards,
        }


def read_rows(folder: Path, scale: Scale, rounds: int, only: str = "") -> list[dict[str, Any]]:
    """Milliseconds of every case whose name begins with ``only``."""
    cell, large = f"one cell over {scale.runs} runs", f"{scale.wide_groups} tokens of {scale.wide_features} features"
    rows = []
    for chosen, what, alone in (
        (scale, {cell: False, "the whole grid": True}, False),
        (scale.wide, {f"{cell}, {large}": False}, True),
    ):
        what = {name: grid for name, grid in what.items() if f"read {name}".startswith(only)}
        if what:
            place = folder / ("wide" if alone else "narrow")
            place.mkdir()
            reading = Reading(place, chosen, alone)
            rows += [one for name, grid in what.items() for one in _rows(reading, name, grid, rounds)]
    return rows


def _rows(reading: Reading, what: str, grid: bool, rounds: int) -> list[dict[str, Any]]:
    """Rows of one case: read for the first time and again, from cold and from warm caches."""
    rows = []
    for cold, first in product((True, False), repeat=2):
        if not first:
            reading.ours(grid)
        cases: dict[str, Callable[[], Any]] = {"ours": partial(reading.ours, grid)}
        # A cell takes a millisecond, and some of them go astray: more of them are measured.
        many = rounds if grid else 10 * rounds
        before = partial(reading.ready, first, reading.store.path / "consolidated" if cold else None)
        pairs = [rounds_of(cases | {"raw preadv": partial(reading.raw, grid)}, many, before=before)]
        if first == cold and not reading.alone:  # a cold read is most often a first one, a warm one a later one
            cases |= {name: partial(peer, grid) for name, peer in reading.peers().items()}
            before = partial(reading.ready, first, reading.folder if cold else None)
            pairs.append(rounds_of(cases, rounds, before=before))
        said = f"{'cold' if cold else 'warm'}, {'first read, all checked' if first else 'read before'}"
        for ours, name, one in [(times["ours"], *each) for times in pairs for each in list(times.items())[1:]]:
            ratio, raw = one.ratio(ours), name.startswith("raw")
            wanted = (0.9 if first == cold else None) if raw else 1.0
            rows.append(
                row(
                    f"read {what}: {said}",
                    1000 * ours.median,
                    name,
                    1000 * one.median,
                    "ms",
                    "" if wanted is None else ">= 0.9x speed" if raw else "> 1x speed",
                    None if wanted is None else ratio >= wanted,
                    speed=ratio,
                    quartiles=[1000 * second for second in ours.spread],
                    bytes=reading.nbytes if grid else reading.cell_nbytes,
                )
            )
    return rows
