"""A folder of finished runs: written run by run, read as one table and one array per site."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from interp.errors import StoreError, suggest
from interp.store.background import BackgroundWriter
from interp.store.cells import Cell, cells_of
from interp.store.files import Files
from interp.store.head import begin, read_head
from interp.store.index import Index
from interp.store.labels import stacked_labels
from interp.store.layout import RunLayout
from interp.store.manifest import LIST, Line, Manifest
from interp.store.shardwriter import ShardWriter
from interp.store.tables import runs_table, schedule_table, sites_table, values_table
from interp.store.view import SiteView

if TYPE_CHECKING:
    import polars as pl

    from interp.selection import Selection
    from interp.store.batches import Batches
    from interp.store.gather import Steps, Tokens


class Store:
    """Finished runs in a folder. Make one with `Store.create` (to write) or `Store.open` (to read).

    What is there is listed when it is opened; `refresh` looks again. Runs are ordered by their key.

    Attributes:
        path: the folder.
        provenance: what all runs have in common.
        manifest: the list of finished runs.
    """

    def __init__(self, path: Path, provenance: Mapping[str, Any]) -> None:
        self.path = path
        self.provenance = dict(provenance)
        self.manifest = Manifest(path / LIST)
        self._views: dict[tuple[str, int], SiteView] = {}
        self._runs: tuple[int, tuple[str, ...]] = (-1, ())
        self.refresh()

    @staticmethod
    def create(path: str | Path, provenance: Mapping[str, Any] | None = None) -> Store:
        """Make a store, or go on with the one that is there; what a crash left half-written is removed.

        Args:
            path: folder; made if missing.
            provenance: what all runs have in common, JSON-ready. A store that is there must have been made with the
                same (only "versions" may differ; each run records its own).

        Raises:
            StoreError: the folder cannot be used, holds something else, or holds a store of other provenance.
        """
        path = Path(path)
        try:
            begin(path, provenance or {})
            store = Store.open(path)
            store._files.clean()
        except OSError as error:
            raise StoreError(f"{path} cannot be used as a store: {error.strerror}") from error
        return store

    @staticmethod
    def open(path: str | Path) -> Store:
        """Open a store to read it; nothing in it is changed.

        Raises:
            StoreError: there is none, or its lists are damaged or of another version.
        """
        path = Path(path)
        return Store(path, read_head(path))

    def refresh(self) -> None:
        """Look again which runs are finished."""
        self.manifest.load()
        self._files = Files(self.path, self.manifest)
        self._views.clear()
        self.__dict__.pop("sites", None)

    def writer(self, run: str, layout: RunLayout) -> ShardWriter:
        """Begin to write a run.

        Args:
            run: its key.
            layout: what will be written.

        Raises:
            StoreError: the run is there already or is being written, or there is no space for it.
        """
        if layout.run != run:
            raise StoreError(f"the layout is of run {layout.run!r}, not of {run!r}")
        return ShardWriter(self.path / "runs" / f"{run}.h5", layout, self.manifest)

    def background(self, memory: int = 256 << 20, borrow: bool = False) -> BackgroundWriter:
        """Write runs in another process: ``with store.background() as writers: writers.writer(run, layout)`` ...

        Args:
            memory: bytes that may wait to be written; when they are full, `write` waits.
            borrow: `write` returns before a tensor was copied, which a thread does while the caller waits for something
                else, such as a GPU. Nobody may change it in place before; that is noticed (of torch tensors outside of
                inference mode; others are copied at once), and ends the writing with an error, as any failure then
                does. ``memory`` bounds what is borrowed, too.
        """
        return BackgroundWriter(self, memory, borrow)

    def drop(self, runs: Iterable[str]) -> None:
        """Take runs off the list and remove their shards, so that they are repeated; site-major files likewise.

        Args:
            runs: keys of runs, or names of site-major files.

        Raises:
            StoreError: one is not there, or the disk failed.
        """
        asked = set(runs)
        missing = asked - self._files.bundle_manifest.lines.keys()
        if missing:
            self.chosen(sorted(missing))  # says so
        self._files.drop(asked)
        self.refresh()

    @property
    def runs(self) -> tuple[str, ...]:
        """Keys of the finished runs, ascending."""
        if self._runs[0] != self.manifest.changes:  # thousands of keys are not sorted at each read
            self._runs = self.manifest.changes, tuple(sorted(self.manifest.lines))
            self._views.clear()
        return self._runs[1]

    def __contains__(self, run: object) -> bool:
        return run in self.manifest.lines

    def __len__(self) -> int:
        return len(self.manifest.lines)

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, {len(self)} runs)"

    @cached_property
    def sites(self) -> tuple[str, ...]:
        """Sites that at least one run keeps, in the order in which runs name them."""
        return tuple(dict.fromkeys(site for run in self.runs for site in self._files.shard(run).index.shown))

    @property
    def frame(self) -> pl.DataFrame:
        """One row per run and site: run, site, axes, shape, dtype, steps, branches, tokens, bytes, model, sample …"""
        return sites_table([self._files.shard(run) for run in self.runs])

    @property
    def runs_frame(self) -> pl.DataFrame:
        """One row per run: run, sample, seed, prompt, task, model, the grid's frames, rows, cols, all scalar labels."""
        return runs_table([self._files.shard(run) for run in self.runs])

    def schedule(self, runs: Iterable[str] | None = None) -> pl.DataFrame:
        """One row per kept step: step, sigma, timestep, expert.

        Raises:
            StoreError: the runs differ in it.
        """
        return schedule_table([self._files.shard(run).index.run for run in self.chosen(runs)])

    def line(self, run: str) -> Line:
        """What the manifest says of a finished run."""
        return self.manifest.lines[self.chosen([run])[0]]

    @property
    def consolidated(self) -> frozenset[str]:
        """Runs that site-major files hold as they are now."""
        return frozenset(self._files.in_bundles)

    def bundle_lines(self) -> tuple[Line, ...]:
        """What the manifest of site-major files says."""
        return self._files.bundle_lines()

    def index(self, run: str) -> Index:
        """Table of contents of a run's shard."""
        return self._files.shard(self.chosen([run])[0]).index

    def label(self, run: str, name: str) -> Any:
        """A label of one run as it was given: a scalar, or an array."""
        if name not in self.index(run).labels:
            raise StoreError(f"run {run} has no label {name!r}{suggest(name, self.index(run).labels)}")
        return self._files.shard(run).label(name)

    def layout(self, run: str) -> RunLayout:
        """All that was said of a run before it began."""
        shard = self._files.shard(self.chosen([run])[0])
        return replace(shard.index.run, sites=tuple(shard.layout_of(name) for name in shard.index.sites))

    def read(
        self,
        site: str,
        step: Steps = None,
        branch: str | Sequence[str] | None = None,
        runs: Iterable[str] | None = None,
        tokens: Tokens = None,
        as_: Literal["numpy", "torch", "polars"] = "numpy",
    ) -> Any:
        """One site over runs. Every block is checked against its checksum when it is first read.

        Args:
            site: hook point.
            step: a step of the sampler's schedule; several, or a slice of step numbers, keep an axis "step"; None: all.
            branch: a branch; several keep an axis "branch"; None is the only one there is.
            runs: keys, in the order wanted; None is all of `runs`.
            tokens: indices on the full token grid, or a mask over it, or a function from the run's `TokenGrid` to
                either; None is all kept.
            as_: "numpy" (bfloat16 becomes float32, exactly), "torch" (the stored dtype, on the CPU), or "polars".

        Returns:
            Array [run, step?, branch?, <site axes>]; with "polars" a table with a row for each place along all axes but
            the site's last: run, step, branch, token (on the full grid) or what the axes are called, and "values".

        Raises:
            StoreError: something asked is not there, the runs do not have one shape, or a file is missing or damaged.
        """
        if as_ not in ("numpy", "torch", "polars"):
            raise StoreError(f"as_={as_!r} is not known; use 'numpy', 'torch' or 'polars'")
        view = self.view(site, runs)
        if as_ == "polars":
            return values_table(view, self.chosen(runs), step, branch, tokens)
        return view.read(step, branch, tokens, as_)

    def cells(
        self,
        selection: str | Selection,
        runs: Iterable[str] | None = None,
        as_: Literal["numpy", "torch"] = "numpy",
    ) -> Iterator[Cell]:
        """What a selection names, one (site, step, branch) over all runs at a time; each is read when it is asked for.

        Args:
            selection: as in captures and edits: "blocks.*.hook_resid_post[step=0:5, branch=cond, frames=1:]". Negative
                steps count from the last that is kept. Views are named by their hook point.
            runs: keys, in the order wanted; None is all of `runs`. They must have the steps of the first.
            as_: as in `read`.

        Raises:
            StoreError: the selection names nothing that is kept, or heads, or tokens of what was kept without them; or,
                while reading, as `read`.
        """
        from interp.selection import select

        return cells_of(self, select(selection), self.chosen(runs), as_)

    def batches(
        self,
        site: str,
        size: int,
        step: Steps = None,
        branch: str | None = None,
        runs: Iterable[str] | None = None,
        tokens: Tokens = None,
        label: str | None = None,
        shuffle: bool = True,
        seed: int = 0,
    ) -> Batches:
        """Batches of rows (a token of a run at a step) for training, truly shuffled, with memory for one batch.

        Args:
            site, step, runs, tokens: as in `read`.
            branch: one branch; None is the only one there is.
            size: rows of a batch.
            label: name of a label of runs or tokens, which comes with each row as its target.
            shuffle: in a random order over all rows, another for each epoch (`Batches.set_epoch`).
            seed: of the order.

        Returns:
            An iterable of `interp.store.batches.Batch`, which a torch ``DataLoader`` takes with ``batch_size=None``.

        Raises:
            StoreError: as `read`.
        """
        from interp.store.batches import Batches

        return Batches(self.path, site, step, branch, runs, tokens, label, size, shuffle, seed)

    def view(self, site: str, runs: Iterable[str] | None = None) -> SiteView:
        """One site over runs, to be read from more than once.

        Raises:
            StoreError: as `read`.
        """
        if runs is not None:
            return SiteView.of(self._files, site, self.chosen(runs))
        key = site, self.manifest.changes
        view = self._views.get(key)
        if view is None:
            if not self.runs:
                self.chosen(None)  # says so
            view = self._views[key] = SiteView.of(self._files, site, None)
        return view

    def labels(self, name: str, runs: Iterable[str] | None = None, site: str | None = None) -> np.ndarray:
        """A label over runs.

        Args:
            name: label, or one of the columns "sample", "seed", "prompt", "model", "task" of `runs_frame`.
            runs: keys, in the order wanted; None is all of `runs`.
            site: for labels of tokens: give the tokens that this site keeps.

        Returns:
            Array [run], [run, token] for labels [frame, row, col], or [run, <its axes>] for other arrays.

        Raises:
            StoreError: a run lacks the label, or the runs do not have one shape or kind.
        """
        return stacked_labels([self._files.shard(run) for run in self.chosen(runs)], name, site)

    def chosen(self, runs: Iterable[str] | None) -> list[str]:
        """Keys of runs that are asked for; None is all of `runs`.

        Raises:
            StoreError: one is not there, or there are none.
        """
        if isinstance(runs, str):
            raise StoreError(f"runs={runs!r} is one text; give a list of run keys")
        chosen = list(self.runs if runs is None else runs)
        for run in chosen if runs is not None else ():
            if run not in self.manifest.lines:
                raise StoreError(f"run {run!r} is not among the {len(self)} finished runs of {self.path}")
        if not chosen:
            raise StoreError(f"no runs to read: {self.path} holds {len(self)} finished runs")
        return chosen
