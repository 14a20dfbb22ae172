"""What a store holds, in a few numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.store.verify import unlisted

if TYPE_CHECKING:
    from interp.store.store import Store


@dataclass(frozen=True)
class SiteInfo:
    """One site over all runs.

    Attributes:
        site: hook point.
        axes: of a run.
        shapes: how many runs have which shape.
        dtype: number format.
        codecs: how many runs store it with which codec, None without.
        runs: runs that keep it.
        nbytes: bytes of data, before compression.
    """

    site: str
    axes: tuple[str, ...]
    shapes: dict[tuple[int, ...], int]
    dtype: str
    codecs: dict[str | None, int]
    runs: int
    nbytes: int


@dataclass(frozen=True)
class StoreInfo:
    """A store.

    Attributes:
        path: its folder.
        provenance: what its runs have in common.
        runs: finished runs.
        nbytes: bytes of their files.
        grids: how many runs have which (frames, rows, cols) of tokens.
        sites: each site.
        labels: how many runs have which label.
        consolidated: runs that site-major files hold as they are now.
        unlisted: files that are no finished run.
    """

    path: Path
    provenance: dict[str, Any]
    runs: int
    nbytes: int
    grids: dict[tuple[int, int, int], int]
    sites: tuple[SiteInfo, ...]
    labels: dict[str, int]
    consolidated: int
    unlisted: tuple[str, ...]


def info(store: Store) -> StoreInfo:
    """Sum up a store; only indexes are read.

    Raises:
        StoreError: a shard's index cannot be read.
    """
    indexes = [store.index(run) for run in store.runs]
    grids = Counter((index.run.grid.frames, index.run.grid.rows, index.run.grid.cols) for index in indexes)
    sites = []
    for name in store.sites:
        layouts = [index.sites[name].layout for index in indexes if name in index.sites]
        shapes = Counter(layout.shape for layout in layouts)
        nbytes = sum(layout.nbytes for layout in layouts)
        codecs = Counter(layout.codec for layout in layouts)
        first = layouts[0]
        sites.append(SiteInfo(name, first.axes, dict(shapes), first.dtype, dict(codecs), len(layouts), nbytes))
    return StoreInfo(
        path=store.path,
        provenance=store.provenance,
        runs=len(store),
        nbytes=sum(store.line(run).size for run in store.runs),
        grids=dict(grids),
        sites=tuple(sites),
        labels=dict(Counter(name for index in indexes for name in index.labels)),
        consolidated=len(store.consolidated),
        unlisted=unlisted(store),
    )
