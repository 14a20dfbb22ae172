"""What codecs cost and save, on activations of the bundled model (random numbers would not say how small these get).

The residual stream of every layer and step of some runs is captured once. Then it is written and read with each codec,
without one, and by h5py with the filters that codec "zstd" uses, a dataset a site and a chunk of the same shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import torch
from torch import Tensor

from benchmarks.harness import row
from benchmarks.stores.common import Scale, empty, rounds_of, sync
from interp.lab import load
from interp.store import RunLayout, Store
from interp.store.zstd import LEVEL
from interp.tasks import get as get_task

NONE, PEER = "no codec", "h5py, same filters"


class Coding:
    """Activations, and the ways to write and read them.

    Args:
        folder: where; `made` in it is emptied before each write.
        scale: how many runs.
    """

    def __init__(self, folder: Path, scale: Scale) -> None:
        self.made = folder / "made"
        self.made.mkdir()
        lab = load("wan-maze-mini")
        runs = lab.plan(get_task("maze", size=6).sample(scale.coded_runs, seed=0), steps=scale.coded_steps)
        sites, to = "blocks.*.hook_resid_post", folder / "source"
        source = lab.capture(runs, sites, to=to, progress=False, batch_size=1, background=False)
        self.layouts = [source.layout(run) for run in source.runs]
        branches = list(self.layouts[0].branches)
        self.tensors = {site: source.read(site, branch=branches, as_="torch") for site in source.sites}
        self.nbytes = sum(tensor.nbytes for tensor in self.tensors.values())

    def layout(self, base: RunLayout, codec: str) -> RunLayout:
        """The run, with a codec or "no codec"."""
        chosen = None if codec == NONE else codec
        return replace(base, sites=tuple(replace(site, codec=chosen) for site in base.sites))

    def write(self, codec: str) -> None:
        """The store."""
        store = Store.create(self.made / codec)
        for number, base in enumerate(self.layouts):
            layout = self.layout(base, codec)
            with store.writer(layout.run, layout) as writer:
                for step in range(len(layout.steps)):
                    for site, tensor in self.tensors.items():
                        for branch in range(tensor.shape[2]):
                            writer.write(site, step, branch, tensor[number, step, branch])
                writer.finish()

    def write_h5py(self) -> None:
        """A file a run, a dataset a site."""
        (self.made / PEER).mkdir()
        for number, base in enumerate(self.layouts):
            path = self.made / PEER / f"{number}.h5"
            filters = {"shuffle": True, **hdf5plugin.Zstd(clevel=LEVEL)}
            with h5py.File(path, "w") as file:
                for site in self.layout(base, "zstd").sites:
                    bits = self.tensors[site.site][number].view(torch.uint16).numpy()
                    data = file.create_dataset(site.site, bits.shape, bits.dtype, chunks=site.chunk, **filters)
                    for step in range(len(bits)):
                        data[step] = bits[step]
            sync(path)

    def read(self, codec: str) -> dict[str, Tensor]:
        """The store, opened anew, so that every block is checked."""
        store = Store.open(self.made / codec)
        return {site: store.read(site, branch=self._branches, as_="torch") for site in self.tensors}

    def read_h5py(self) -> dict[str, Tensor]:
        """All files."""
        found: dict[str, list[Tensor]] = {site: [] for site in self.tensors}
        for number in range(len(self.layouts)):
            with h5py.File(self.made / PEER / f"{number}.h5") as file:
                for site, tensors in found.items():
                    tensors.append(torch.from_numpy(file[site][...]))
        return {site: torch.stack(tensors).view(torch.bfloat16) for site, tensors in found.items()}

    def stored(self, codec: str) -> float:
        """Bytes of the finished runs as a share of those of the activations."""
        store = Store.open(self.made / codec)
        return sum(store.line(run).size for run in store.runs) / self.nbytes

    def error(self) -> float:
        """Largest relative error, ||x - x'|| / ||x||, of a site and step that codec "int8" made."""
        store = Store.open(self.made / "int8")
        return max(float(store.read(f"{site}.int8_error", branch=self._branches).max()) for site in self.tensors)

    @cached_property
    def _branches(self) -> list[str]:
        return list(self.layouts[0].branches)


def coding_rows(folder: Path, scale: Scale, rounds: int, only: str = "") -> list[dict[str, Any]]:
    """MB/s of activations for every case whose name begins with ``only``."""
    if not ("codec".startswith(only) or only.startswith("codec")):
        return []
    coding, codecs = Coding(folder, scale), ("zstd", "int8", NONE)
    writes: dict[str, Callable[[], Any]] = {codec: partial(coding.write, codec) for codec in codecs}
    writes[PEER] = coding.write_h5py
    reads: dict[str, Callable[[], Any]] = {codec: partial(coding.read, codec) for codec in codecs}
    reads[PEER] = coding.read_h5py
    found = {"write, fsynced": rounds_of(writes, rounds, before=lambda: empty(coding.made))}
    empty(coding.made)
    for write in writes.values():
        write()
    found["read, warm, all checked"] = rounds_of(reads, rounds, before=lambda: None)
    rows = []
    for what, times in found.items():
        for codec in ("zstd", "int8"):
            more = {"stored": coding.stored(codec), **({"error": coding.error()} if codec == "int8" else {})}
            for peer in (NONE, PEER) if codec == "zstd" else (NONE,):
                ours, other = times[codec], times[peer]
                rate, theirs = (coding.nbytes / one.median / 1e6 for one in (ours, other))
                rows.append(
                    row(
                        f"codec {codec}: {what}",
                        rate,
                        peer,
                        theirs,
                        "MB/s",
                        "",
                        None,
                        paired_ratio=other.ratio(ours),
                        quartiles=[coding.nbytes / second / 1e6 for second in reversed(ours.spread)],
                        bytes=coding.nbytes,
                        **more,
                    )
                )
    return [one for one in rows if one["case"].startswith(only)]
