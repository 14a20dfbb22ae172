"""Trajectories of runs over steps in a few dimensions: principal components, and UMAP aligned from step to step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from probes.errors import ProbeError
from probes.geometry.given import array, blocks
from probes.geometry.pca import Components, pca

EMPTY = "No step was given, so there is no trajectory."


@dataclass(frozen=True)
class Paths:
    """Where each row is at each step.

    Attributes:
        table: row, step, and one column a dimension: pc0, pc1, ... or umap0, umap1; further columns as given.
        components: the axes, of principal components; None for UMAP.
    """

    table: pl.DataFrame
    components: Components | None = None

    @property
    def axes(self) -> list[str]:
        """Names of the dimensions."""
        return [name for name in self.table.columns if name.rstrip("0123456789") in ("pc", "umap")]


def pca_paths(steps: Mapping[int, Any], components: int = 3, about: Mapping[str, Sequence[Any]] | None = None) -> Paths:
    """Project every step onto the principal components of all steps together.

    Steps are read twice, one at a time: once for the covariance, once to project.

    Args:
        steps: step to rows [row, feature], the same rows in each, or to a function that gives them, or gives them as an
            iterable of blocks (see `rows_of`).
        components: how many.
        about: further columns, [row] each: the run, its answer.
    """
    if not steps:
        raise ProbeError(EMPTY)
    for step, value in steps.items():
        if isinstance(value, Iterator):
            raise ProbeError(
                f"Step {step} is given by a generator, which can be read once, and steps are read twice. Give a "
                "function that makes it: lambda: rows_of(store, site, step)."
            )
    axes = pca((block for value in steps.values() for block in blocks(value)), components)
    made = {step: np.concatenate([axes.project(block) for block in blocks(steps[step])]) for step in steps}
    _same_rows(made)
    return Paths(_table(made, "pc", about), axes)


def umap_paths(
    steps: Mapping[int, Any],
    about: Mapping[str, Sequence[Any]] | None = None,
    *,
    neighbours: int = 15,
    min_dist: float = 0.1,
    seed: int = 0,
    alignment: float = 0.01,
    components: int | None = None,
) -> Paths:
    """Embed every step in two dimensions by UMAP, each tied to the next through the rows that they share.

    Distances between far-away groups and sizes of groups mean nothing in a UMAP picture; see principal components for
    those. The same seed gives the same picture on the same machine.

    Args:
        steps: as in `pca_paths`.
        about: further columns, [row] each.
        components: embed the coordinates of rows on so many principal components of all steps. Steps are then read
            block by block, and only coordinates are held; without, all steps are held whole.
        neighbours, min_dist: of `umap.UMAP`.
        seed: of the layout.
        alignment: how strongly steps are tied (``alignment_regularisation`` of `umap.AlignedUMAP`).

    Raises:
        ProbeError: umap-learn is not installed, rows differ between steps, or are too few.
    """
    if not steps:
        raise ProbeError(EMPTY)
    try:
        import umap
    except ImportError:
        raise ProbeError("UMAP needs umap-learn: pip install 'wan-interp[viz]'.") from None
    if components is None:
        arrays = {step: np.concatenate([array(block) for block in blocks(value)]) for step, value in steps.items()}
    else:
        found = pca_paths(steps, components)
        parts = found.table.partition_by("step", as_dict=True, maintain_order=True)
        arrays = {step: part.select(found.axes).to_numpy() for (step,), part in parts.items()}
    count = _same_rows(arrays)
    if count <= neighbours:
        raise ProbeError(f"{count} rows are too few for {neighbours} neighbours; give more rows or neighbours=.")
    common = {"n_neighbors": neighbours, "min_dist": min_dist, "random_state": seed}
    if len(arrays) == 1:
        only = umap.UMAP(**common, n_jobs=1).fit_transform(next(iter(arrays.values())))
        return Paths(_table(dict.fromkeys(arrays, only), "umap", about))
    same = [{i: i for i in range(count)}] * (len(arrays) - 1)
    mapper = umap.AlignedUMAP(**common, alignment_regularisation=alignment)
    placed = mapper.fit(list(arrays.values()), relations=same).embeddings_
    return Paths(_table(dict(zip(arrays, map(np.asarray, placed), strict=True)), "umap", about))


BYTES_A_VALUE = 40
"""What a value of a block takes at the height of a streamed sum: as read (4), and up to four copies in float64."""


def blocks_of(
    store: Any,
    site: str,
    step: int,
    *,
    branch: str | None = None,
    runs_at_once: int = 64,
    memory: float | None = None,
) -> Iterator[np.ndarray]:
    """One cell of a store in blocks of bounded size: [run, token, feature], as `energy` takes them.

    Args:
        store, site, step, branch: the cell.
        runs_at_once: in a block; with ``memory``, at most.
        memory: bytes that a streamed sum of the blocks may take (`Covariance`, `StreamedCKA`, `Leace`, `energy`), its
            feature x feature sums, in float64, included.

    Raises:
        ProbeError: a single run needs more memory than that.
    """
    runs = list(store.runs)
    if memory is not None:
        one = np.asarray(store.read(site, step=step, branch=branch, runs=runs[:1]))
        sums = 4 * 8 * one.shape[-1] ** 2
        fit = int((memory - sums) // (BYTES_A_VALUE * one.size))
        if fit < 1:
            need = (sums + BYTES_A_VALUE * one.size) / 1e6
            raise ProbeError(
                f"One run of {site} and the sums over it need about {need:.0f} MB, more than memory={memory / 1e6:.0f} "
                "MB. Raise memory=, or keep a smaller view (frame_mean, random_projection-64)."
            )
        runs_at_once = min(runs_at_once, fit)
    for first in range(0, len(runs), runs_at_once):
        part = store.read(site, step=step, branch=branch, runs=runs[first : first + runs_at_once])
        values = np.asarray(part, dtype=np.float32)
        yield values.reshape(len(values), -1, values.shape[-1])


def rows_of(store: Any, site: str, step: int, *, pool: bool = False, **options: Any) -> Iterator[np.ndarray]:
    """Rows of one cell of a store in blocks of bounded size: [run x token, feature], or run means with ``pool``.

    Args:
        store, site, step, options: as in `blocks_of`; options are branch, runs_at_once, memory.
        pool: mean over tokens.

    Raises:
        ProbeError: as `blocks_of`.
    """
    for values in blocks_of(store, site, step, **options):
        yield values.mean(axis=1) if pool else values.reshape(-1, values.shape[-1])


def _same_rows(arrays: Mapping[int, np.ndarray]) -> int:
    """How many rows every step has."""
    counts = {len(array) for array in arrays.values()}
    if len(counts) != 1:
        raise ProbeError(f"Steps have {sorted(counts)} rows; a trajectory needs the same rows in each.")
    return counts.pop()


def _table(made: Mapping[int, np.ndarray], name: str, about: Mapping[str, Sequence[Any]] | None) -> pl.DataFrame:
    parts = []
    for step, values in made.items():
        columns: dict[str, Any] = {"row": np.arange(len(values)), "step": np.full(len(values), step)}
        for key, column in (about or {}).items():
            if len(column) != len(values):
                raise ProbeError(f"{key}: {len(column)} values for {len(values)} rows.")
            columns[key] = list(column)
        for k in range(values.shape[1]):
            columns[f"{name}{k}"] = values[:, k].astype(np.float64)
        parts.append(pl.DataFrame(columns))
    return pl.concat(parts)
