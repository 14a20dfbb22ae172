"""Writing one run, made to last: through the store's public API, by raw system calls, and by each peer.

Every case ends when an fsync of all it wrote has returned. Two raw writers stand beside the store: one that writes each
event as it comes, as the store's user does, and one that writes stretches of 8 MiB, which nobody can who is given 2 KB
at a time. Peers that make a file for every chunk are given fewer of the small events; rates are compared.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.harness import row
from benchmarks.stores.common import Scale, bits, empty, layout_of, numbers, rounds_of, sync
from interp.store import RunLayout, Store

Events = list[tuple[str, int, Tensor]]


class Writing:
    """One size of event: the run, its events in the order in which a model gives them, and the ways to write them.

    Args:
        folder: where to write; emptied before each case.
        layout: the run.
        events: (site, step, tensor [token, feature]).
        peers: how many of the events go to the peers.
    """

    def __init__(self, folder: Path, layout: RunLayout, events: Events, peers: int) -> None:
        self.folder, self.layout, self.events = folder, layout, events
        self.few = events[:peers]
        self._bits = [bits(tensor) for _, _, tensor in events]
        self._halves = [tensor.view(torch.uint16).numpy() for _, _, tensor in self.few]  # what NumPy has for bfloat16
        self.store: Store | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all events."""
        return sum(data.nbytes for data in self._bits)

    def before(self) -> None:
        """An empty folder with an empty store."""
        empty(self.folder)
        self.store = Store.create(self.folder / "store")

    def ours(self) -> None:
        """The store."""
        assert self.store is not None
        with self.store.writer(self.layout.run, self.layout) as writer:
            for site, step, tensor in self.events:
                writer.write(site, step, 0, tensor)
            writer.finish()

    def raw(self) -> None:
        """A write for each event."""
        self._raw(self._bits)

    def raw_coalesced(self) -> None:
        """Writes of 8 MiB of bytes that lie ready."""
        self._raw(self._whole())

    def _raw(self, pieces: Iterable[Any]) -> None:
        fd = os.open(self.folder / "raw", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            for piece in pieces:
                view = memoryview(piece)
                while view.nbytes:
                    view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)

    def _whole(self) -> list[memoryview]:
        size = 8 << 20
        if self._bits[0].nbytes >= size:
            return [data[at : at + size] for data in self._bits for at in range(0, data.nbytes, size)]
        buffer = self.__dict__.setdefault("_buffer", memoryview(b"".join(self._bits)))
        return [buffer[at : at + size] for at in range(0, buffer.nbytes, size)]

    def h5py_defaults(self) -> None:
        """One dataset of all events, written one by one."""
        path = self.folder / "peer.h5"
        with h5py.File(path, "w") as file:
            shape = self._halves[0].shape
            dataset = file.create_dataset("events", (len(self._halves), *shape), np.uint16)
            for i, event in enumerate(self._halves):
                dataset[i] = event
        sync(path)

    def zarr(self) -> None:
        """One array, a chunk for each event (what a model gives at once), defaults otherwise."""
        import zarr

        path, shape = self.folder / "peer.zarr", self._halves[0].shape
        array = zarr.create_array(store=path, shape=(len(self._halves), *shape), chunks=(1, *shape), dtype="uint16")
        for i, event in enumerate(self._halves):
            array[i] = event
        sync(path)

    def safetensors(self) -> None:
        """One file of all events, which have to be in memory together."""
        path = self.folder / "peer.safetensors"
        save_file({f"{i}": tensor for i, (_, _, tensor) in enumerate(self.few)}, path)
        sync(path)

    def torch_save(self) -> None:
        """One file of all events, which have to be in memory together."""
        path = self.folder / "peer.pt"
        torch.save([tensor.clone() for _, _, tensor in self.few], path)
        sync(path)

    def cases(self) -> dict[str, Callable[[], None]]:
        """By name."""
        return {
            "ours": self.ours,
            "raw": self.raw,
            "raw, 8 MiB at a time": self.raw_coalesced,
            "h5py defaults": self.h5py_defaults,
            "zarr 3": self.zarr,
            "safetensors": self.safetensors,
            "torch.save": self.torch_save,
        }


def writings(folder: Path, scale: Scale) -> dict[str, tuple[Callable[[], Writing], float]]:
    """Each size of event, with the share of raw speed that is aimed at."""

    def large() -> Writing:
        layout = layout_of("large", scale.large, 1, scale.large_tokens, 5120)
        events = numbers(scale.large, scale.large_tokens, 5120)
        return Writing(folder, layout, [("site0", i, tensor) for i, tensor in enumerate(events)], scale.large)

    def middle() -> Writing:
        layout, events = layout_of("middle", scale.middle, 1, 1024, 512), numbers(scale.middle, 1024, 512)
        return Writing(folder, layout, [("site0", i, tensor) for i, tensor in enumerate(events)], scale.middle)

    def small() -> Writing:
        sites = min(64, scale.small)
        layout, events = layout_of("small", scale.small // sites, sites, 1, 1024), numbers(scale.small, 1, 1024)
        cells = [(f"site{i % sites}", i // sites, tensor) for i, tensor in enumerate(events)]
        return Writing(folder, layout, cells, scale.peers)

    return {"84 MB events": (large, 0.9), "1 MB events": (middle, 0.9), "2 KB events": (small, 0.7)}


def write_rows(folder: Path, scale: Scale, rounds: int, only: str = "") -> list[dict[str, Any]]:
    """Rates in MB/s of every case whose name begins with ``only``."""
    rows = []
    for name, (make, aim) in writings(folder, scale).items():
        if not f"write {name}, fsynced".startswith(only):
            continue
        writing = make()
        times = rounds_of(writing.cases(), rounds, before=writing.before)
        ours = times["ours"]
        rate = writing.nbytes / ours.median / 1e6
        for peer, one in times.items():
            if peer == "ours":
                continue
            nbytes = writing.nbytes if peer.startswith("raw") else sum(t.nbytes for _, _, t in writing.few)
            ratio = one.ratio(ours) * writing.nbytes / nbytes
            wanted = aim if peer == "raw" else None if peer.startswith("raw") else 1.0
            said = "" if wanted is None else f">= {wanted}x" if peer == "raw" else "> 1x"
            rows.append(
                row(
                    f"write {name}, fsynced",
                    rate,
                    peer,
                    nbytes / one.median / 1e6,
                    "MB/s",
                    said,
                    None if wanted is None else ratio >= wanted,
                    paired_ratio=ratio,
                    quartiles=tuple(writing.nbytes / second / 1e6 for second in reversed(ours.spread)),
                    bytes=writing.nbytes,
                    peer_bytes=nbytes,
                )
            )
    empty(folder)
    return rows
