"""Batches of rows for training, in a truly random order over all runs, steps and tokens, with bounded memory.

A row is one token of one run at one step (or one whole cell of a site without tokens). Nothing is held but the batch:
the order is computed, not listed (`interp.store.shuffle`), and rows are read where they lie, in the order of the file.
Each block of a file is checked when it is first met, which for the first epoch means that it is read whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from interp.errors import StoreError
from interp.store.disk import bytes_of
from interp.store.gather import MERGE
from interp.store.part import Part
from interp.store.shuffle import Shuffle
from interp.store.view import SiteView

if TYPE_CHECKING:
    from interp.store.gather import Steps, Tokens


@dataclass(frozen=True)
class Batch:
    """Some rows.

    Attributes:
        features: [row, <axes after token>], in the stored dtype.
        run: int64 [row], numbers among the runs asked for.
        step: int64 [row], in the sampler's schedule.
        token: int64 [row], on the full grid; zeros for sites without tokens.
        target: [row], what the label says of each row; None if none was asked for.
    """

    features: Tensor
    run: Tensor
    step: Tensor
    token: Tensor
    target: Tensor | None

    def __len__(self) -> int:
        return len(self.features)


class Batches(IterableDataset[Batch]):
    """One epoch of batches each time it is gone through. Made by `interp.store.Store.batches`.

    With ``DataLoader(batches, batch_size=None, num_workers=n)`` each of n processes reads every n-th batch; the batches
    are the same as without.

    Args:
        path: folder of the store; each process opens it for itself.
        site, step, runs, tokens: as in `interp.store.Store.read`.
        branch: one branch; None is the only one there is.
        label: name of the label that is the target.
        size: rows of a batch; the last one may be smaller.
        shuffle: in random order; else by step, run and token.
        seed: of the order.
    """

    def __init__(
        self,
        path: Path,
        site: str,
        step: Steps,
        branch: str | None,
        runs: Iterable[str] | None,
        tokens: Tokens,
        label: str | None,
        size: int,
        shuffle: bool,
        seed: int,
    ) -> None:
        if size < 1:
            raise StoreError(f"a batch of {size} rows cannot be; give size=1 or more")
        self.path, self.site, self.label, self.size = path, site, label, size
        self.shuffle, self.seed = shuffle, seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers that live on see it change
        self._asked = (step, branch, None if runs is None else list(runs), tokens)
        self.rows  # noqa: B018 - what is asked and is not there is told now, not in a worker

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass; each epoch has its own. Workers that live on hear of it, too."""
        self._epoch.fill_(epoch)

    @property
    def epoch(self) -> int:
        """Which order the next pass has."""
        return int(self._epoch)

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
        return self._plan.rows

    def __len__(self) -> int:
        """Batches of an epoch."""
        return (self.rows + self.size - 1) // self.size

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        order = Shuffle(self.rows, (self.seed, self.epoch)) if self.shuffle else None
        for number in range(worker, len(self), workers):
            places = np.arange(number * self.size, min((number + 1) * self.size, self.rows))
            yield self._plan.read(places if order is None else order(places))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_plan"}

    @cached_property
    def _plan(self) -> _Plan:
        from interp.store.store import Store

        store, (step, branch, runs, tokens) = Store.open(self.path), self._asked
        target = None if self.label is None else store.labels(self.label, runs, self.site if tokens is None else None)
        return _Plan(store.view(self.site, runs), step, branch, tokens, target)


class _Plan:
    """Where each row lies: rows are numbered by step, then run, then token."""

    def __init__(self, view: SiteView, step: Steps, branch: str | None, tokens: Tokens, target: Any) -> None:
        self.view, layout = view, view.layout
        if view.token_axis not in (0, None):
            raise StoreError(
                f"site {view.site} has the axes {layout.axes[2:]}; rows of tokens need 'token' to be first"
            )
        self.by_token = view.token_axis == 0
        self._lay_out(step, branch, tokens)
        self.count = self.places.shape[1]
        self.rows = len(self.steps) * view.runs * self.count
        self.shape = layout.cell_shape[1:] if self.by_token else layout.cell_shape
        self.nbytes = int(np.prod(self.shape, dtype=np.int64)) * layout.kind.itemsize
        self.scales = None if view.scales is None else _Plan(view.scales, step, branch, None, None)
        self.target = None if target is None else self._targets(np.asarray(target), tokens is not None)

    def _lay_out(self, step: Steps, branch: Any, tokens: Tokens) -> None:
        view, places = self.view, self.view.choose(step, branch)
        self.steps = np.array(places[0].kept[0])
        self.cells = np.empty((len(self.steps), view.runs), np.int64)
        self.part_of = np.zeros(view.runs, np.int64)
        self.set_of = np.zeros(view.runs, np.int64)
        sets: dict[bytes, tuple[int, np.ndarray, np.ndarray]] = {}  # most runs keep the same tokens
        for number, (part, at) in enumerate(zip(view.parts, places, strict=True)):
            self.cells[:, part.chosen.places] = part.cells(at.steps, at.branches[0])
            self.part_of[part.chosen.places] = number
            rows, on_grid = self._tokens(part, tokens)
            key = rows.tobytes() + on_grid.tobytes()
            self.set_of[part.chosen.places] = sets.setdefault(key, (len(sets), rows, on_grid))[0]
        counts = sorted({len(rows) for _, rows, _ in sets.values()})
        if len(counts) > 1:
            raise StoreError(f"site {view.site} has {counts} tokens in these runs; choose with runs= or tokens=")
        self.places = np.stack([rows for _, rows, _ in sets.values()])
        self.on_grid = np.stack([on_grid for *_, on_grid in sets.values()])

    def _tokens(self, part: Part, tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
        """Chosen places int64 [token] along the axis "token", and their indices on the full grid int64 [token]."""
        if not self.by_token:
            return np.zeros(1, np.int64), np.zeros(1, np.int64)
        chosen, kept = self.view.rows(part, tokens), part.tokens()
        places = np.arange(part.site.cell_shape[0]) if chosen is None else chosen
        return places, places if kept is None else kept[places]

    def _targets(self, target: np.ndarray, on_grid: bool) -> np.ndarray:
        """A label [run], [run, token] or, where tokens were chosen, [run, token on the full grid], as [run, token]."""
        runs = self.view.runs
        if target.ndim == 1:
            return np.broadcast_to(target[:, None], (runs, self.count))
        if on_grid and target.ndim == 2 and target.shape[1] > self.on_grid.max():
            return np.take_along_axis(target, self.on_grid[self.set_of], axis=1)
        if not on_grid and target.shape == (runs, self.count):
            return target
        raise StoreError(f"a label of shape {target.shape[1:]} a run is neither of the run nor of its tokens")

    def read(self, wanted: np.ndarray) -> Batch:
        """Rows by their numbers."""
        rest, place = np.divmod(wanted, self.count)
        step, run = np.divmod(rest, self.view.runs)
        bits = self._bits(step, run, place)
        if self.scales is None:
            features = self.view.layout.kind.to_torch(bits)
        else:
            features = self.view.restored(bits, self.scales._bits(step, run, np.zeros_like(place)), "torch")
        target = None if self.target is None else torch.from_numpy(np.ascontiguousarray(self.target[run, place]))
        return Batch(
            features=features,
            run=torch.from_numpy(run),
            step=torch.from_numpy(self.steps[step]),
            token=torch.from_numpy(self.on_grid[self.set_of[run], place]),
            target=target,
        )

    def _bits(self, step: np.ndarray, run: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Bits [row, ...] of rows by their places along steps, runs and chosen tokens."""
        bits = np.empty((len(step), *self.shape), self.view.layout.kind.bits)
        part = self.part_of[run]
        offset = self.cells[step, run] * self.nbytes
        if self.by_token:
            size = np.array([p.site.cell_shape[0] for p in self.view.parts])[part]
            offset = (self.cells[step, run] * size + self.places[self.set_of[run], place]) * self.nbytes
        for number in np.unique(part):
            mine = np.flatnonzero(part == number)
            self._fill(self.view.parts[number], mine[np.argsort(offset[mine])], offset, bits)
        return bits

    def _fill(self, part: Part, rows: np.ndarray, offset: np.ndarray, bits: np.ndarray) -> None:
        """Read rows of one file, in the order of their offsets; near ones in one go."""
        cuts = np.flatnonzero(np.diff(offset[rows]) > MERGE) + 1
        fd = part.extent.source.open()
        try:
            for near in np.split(rows, cuts):
                low = int(offset[near[0]])
                scratch = np.empty(int(offset[near[-1]]) + self.nbytes - low, np.uint8)
                part.extent.read(fd, low, bytes_of(scratch))
                for row in near:
                    at = int(offset[row]) - low
                    flat = scratch[at : at + self.nbytes]
                    bits[row] = flat.view(bits.dtype).reshape(self.shape)
        finally:
            os.close(fd)
