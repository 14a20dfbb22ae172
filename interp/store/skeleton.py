"""What all files of one layout share of their HDF5 side: made once by HDF5, copied for each run.

A run takes a fraction of a second on a small model, and making dozens of HDF5 objects takes milliseconds; so a file
begins as a copy of bytes that lack only what differs from run to run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np
from h5py import h5t
from xxhash import xxh3_64_hexdigest

from interp.store.blocks import BlockPlan
from interp.store.h5 import new_dataset, new_file, put_array, put_attribute, texts
from interp.store.index import MANY, SHARD, Piece, grid_fields, version_of
from interp.store.layout import RunLayout, SiteLayout
from interp.store.sparse import SparseFile


@dataclass(frozen=True)
class Skeleton:
    """A file without run, provenance, checksums and labels.

    Attributes:
        content: its bytes; to be copied.
        offsets: where each site's data begin; 0 for coded sites, whose chunks come later.
        checksums: where each site's checksums go, uint64 [block].
        token_sets: number of each set of tokens.
        pieces: where the sets lie.
    """

    content: SparseFile
    offsets: Mapping[str, int]
    checksums: Mapping[str, int]
    token_sets: Mapping[tuple[int, ...], int]
    pieces: tuple[Piece, ...]


def skeleton_of(layout: RunLayout, runs: int | None) -> Skeleton:
    """The skeleton of a shard, or of a site-major file of that many runs."""
    same = {name: value for name, value in vars(layout).items() if name in _SHARED}
    return _made(tuple(same.items()), runs)


_SHARED = ("sites", "steps", "sigmas", "timesteps", "experts", "branches", "grid")


@lru_cache(maxsize=4)
def _made(shared: tuple[tuple[str, Any], ...], runs: int | None) -> Skeleton:
    layout = RunLayout(run="none", provenance={}, **dict(shared))
    content = SparseFile()
    with new_file(content) as h5:
        put_attribute(h5, "format", SHARD if runs is None else MANY)
        put_attribute(h5, "version", version_of(layout))
        put_array(h5, "steps", np.array(layout.steps, "<i8"))
        put_array(h5, "sigmas", np.array(layout.sigmas, "<f8"))
        put_array(h5, "timesteps", np.array(layout.timesteps, "<f8"))
        put_array(h5, "experts", texts(layout.experts))
        put_array(h5, "branches", texts(layout.branches))
        grid = h5.create_group("grid")
        for name, value in grid_fields(layout.grid).items():
            put_attribute(grid, name, value)
        tokens, sites, sums = (h5.create_group(name) for name in ("tokens", "sites", "checksums"))
        numbers = {chosen: number for number, chosen in enumerate(_token_sets(layout))}
        pieces = tuple(put_piece(tokens, str(number), np.array(chosen, "<i8")) for chosen, number in numbers.items())
        h5.create_group("labels")
        offsets, places = {}, {}
        for site in layout.sites:
            offsets[site.site] = _put_site(sites, site, layout, runs, numbers)
            room = new_dataset(sums, site.site, h5t.STD_U64LE, (plan_of(site, runs).count,))
            places[site.site] = room.id.get_offset()
    return Skeleton(content, MappingProxyType(offsets), MappingProxyType(places), MappingProxyType(numbers), pieces)


def plan_of(site: SiteLayout, runs: int | None) -> BlockPlan:
    """How a site's bytes are cut into blocks."""
    if site.chunk is not None:
        return BlockPlan.coded(site.cells, site.cell_nbytes, int(np.prod(site.chunk)) * site.kind.itemsize)
    if runs is None:
        return BlockPlan.of(site.cells, site.cell_nbytes)
    return BlockPlan.of(site.cells * runs, site.cell_nbytes, least=1 << 16)


def put_piece(group: h5py.Group, name: str, array: np.ndarray) -> Piece:
    """A dataset with these numbers, and what the index says of it."""
    dataset = put_array(group, name, array)
    kind = array.dtype.newbyteorder("=").name
    return Piece(dataset.id.get_offset() or 0, array.shape, kind, xxh3_64_hexdigest(np.ascontiguousarray(array).data))


def _token_sets(layout: RunLayout) -> Iterator[tuple[int, ...]]:
    yield from dict.fromkeys(site.tokens for site in layout.sites if site.tokens is not None)


def _put_site(
    group: h5py.Group, site: SiteLayout, layout: RunLayout, runs: int | None, numbers: Mapping[tuple[int, ...], int]
) -> int:
    axes, shape, plan = site.axes, site.shape, plan_of(site, runs)
    if runs is not None:
        axes, shape = (*axes[:2], "run", *axes[2:]), (*shape[:2], runs, *shape[2:])
    dataset = new_dataset(group, site.site, site.kind.h5(), shape, site.chunk)
    put_attribute(dataset, "axes", axes)
    put_attribute(dataset, "branches", layout.branches_of(site))
    put_attribute(dataset, "dtype", site.dtype)
    if site.tokens is not None:
        put_attribute(dataset, "tokens", f"/tokens/{numbers[site.tokens]}")
    put_attribute(dataset, "cells_per_group", plan.together)
    put_attribute(dataset, "block_bytes", plan.block_nbytes)
    if site.codec:
        put_attribute(dataset, "codec", site.codec)
    return dataset.id.get_offset() if site.chunk is None else 0
