"""Grids over steps, layers and regions of the video: where is the answer decodable?

A region is a named set of tokens, the same in all runs or found anew in each (the goal of every maze). For a target per
run, features are the mean over its tokens; for a target per token, its tokens are the rows. Each region is a whole
`fit_grid`. With a target per run all of them have the same rows, folds and shuffles, so that two regions can be
compared in pairs (`compare_grids`). *Cost:* a store is read once for each region; a store of region means
(``views.region_mean``) holds nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from interp.errors import suggest
from probes.errors import ProbeError
from probes.grid import fit_grid
from probes.known import is_known, labels
from probes.result import GridResult
from probes.source import site_layers

AXIS = "region"
INDEX = "regions.json"


@dataclass(frozen=True, eq=False)
class RegionGrids:
    """Grids by region.

    Attributes:
        grids: region to its grid, with all that a `GridResult` can be asked: ``found.grids["goal"].plot("goal.png")``,
            ``compare_grids(found.grids["goal"], found.grids["start"])``.
    """

    grids: Mapping[str, GridResult]

    @cached_property
    def table(self) -> pl.DataFrame:
        """One row a region, step and layer: region, and the columns of `GridResult`'s table."""
        return self._joined(lambda grid: grid.table)

    def onset(self, along: str = "step") -> pl.DataFrame:
        """`GridResult.onset` of each region, with a column region before the others."""
        return self._joined(lambda grid: grid.onset(along))

    def plot(self, path: str | Path | None = None, *, title: str | None = None) -> Any:
        """A heatmap for each region, on one scale of colours, with a dot where the interval lies above chance."""
        from probes.plot import plot_regions

        return plot_regions(self.grids, path, title=title)

    def save(self, folder: str | Path) -> Path:
        """Write each grid (`GridResult.save`) into a folder of its own, 0, 1, ..., and their names beside them."""
        out = Path(folder)
        for number, grid in enumerate(self.grids.values()):
            grid.save(out / str(number))
        (out / INDEX).write_text(json.dumps(list(self.grids), indent=2) + "\n", encoding="utf-8")
        return out

    @staticmethod
    def load(folder: str | Path) -> RegionGrids:
        """Read what `save` wrote."""
        out = Path(folder)
        if not (out / INDEX).is_file():
            raise ProbeError(f"{out} holds no grids of regions: there is no {INDEX} in it. Give the folder of save().")
        names = json.loads((out / INDEX).read_text(encoding="utf-8"))
        return RegionGrids({name: GridResult.load(out / str(number)) for number, name in enumerate(names)})

    def _joined(self, of: Callable[[GridResult], pl.DataFrame]) -> pl.DataFrame:
        parts = [of(grid).select(pl.lit(name).alias(AXIS), pl.all()) for name, grid in self.grids.items()]
        return pl.concat(parts)


def fit_regions(
    source: Any,
    target: Any,
    regions: Mapping[str, Any] | Iterable[str] | None = None,
    *,
    site: str = "blocks.{layer}.hook_resid_post",
    **options: Any,
) -> RegionGrids:
    """Fit, cross-validate and score a probe in every step, layer and region.

    Args:
        source, target, site, options: as in `probes.fit_grid`, but for ``pool``.
        regions: name to tokens: a mask [token] or, where it lies elsewhere in each run, [run, token]; or token numbers,
            counted along the tokens that the site keeps. Of a site that holds region means, names of some of its
            regions, or None for all.

    Raises:
        ProbeError: no such region, tokens that are not there, a region that is empty in some run, or what `fit_grid`
            refuses.
        LeakageError: as in `fit_grid`.
    """
    if "pool" in options:
        raise ProbeError("fit_regions takes the mean over the tokens of each region; leave pool= out.")
    if getattr(options.get("model"), "tokens", False):
        raise ProbeError(f"{type(options['model']).__name__} pools tokens itself, so regions would not be heeded.")
    held, values = _held(source, site), _target(source, target, site)
    asked: dict[str, tuple[Any, Any]]  # target and pooling by region
    if held is not None:
        asked = {name: (target, partial(_place, at=held.index(name))) for name in _chosen(held, regions, values, site)}
    elif isinstance(regions, Mapping):
        asked = {str(name): _asked(str(name), tokens, target, values) for name, tokens in regions.items()}
    else:
        raise ProbeError("regions= says which tokens each region has: {'goal': mask [token] or [run, token], ...}.")
    if not asked:
        raise ProbeError("No region was asked for.")
    grids = {}
    for name, (own, pool) in asked.items():
        grid = fit_grid(source, own, site=site, pool=pool, **options)
        about = {"region": name} | ({"target": target} if isinstance(target, str) else {})
        grids[name] = replace(grid, spec={**grid.spec, **about})
    return RegionGrids(grids)


def _asked(name: str, tokens: Any, target: Any, values: NDArray[Any]) -> tuple[Any, Any]:
    """Target and pooling of a region of tokens: a target per token is known inside it only."""
    if values.ndim != 2:
        return target, partial(_mean, name=name, tokens=tokens, needed=is_known(values))
    mask = _mask(name, tokens, *values.shape)
    none: Any = np.nan if values.dtype.kind in "biuf" else None
    return np.where(mask, values, none), None


def _chosen(held: list[str], regions: Any, values: NDArray[Any], site: str) -> list[str]:
    """Names of regions along a site's axis."""
    if isinstance(regions, Mapping):
        raise ProbeError(f"{site!r} holds region means and no tokens; name some of its regions: {', '.join(held)}.")
    if values.ndim > 1:
        raise ProbeError(f"{site!r} holds region means, so one target a run is needed; got shape {values.shape}.")
    chosen = held if regions is None else [regions] if isinstance(regions, str) else list(regions)
    for name in chosen:
        if name not in held:
            raise ProbeError(f"{site!r} holds no region {name!r}{suggest(name, held)}; it has {', '.join(held)}.")
    return chosen


def _held(source: Any, site: str) -> list[str] | None:
    """Names along the region axis of a store's site; None if it has none."""
    if isinstance(source, Mapping) or not hasattr(source, "layout"):
        return None
    first = next(iter(site_layers(source, site).values()))
    layout = source.layout(source.runs[0])
    axes = next(one.axes for one in layout.sites if one.site == first)
    if AXIS not in axes:
        return None
    named = layout.provenance.get("views", {}).get("coords", {}).get(first, {}).get(AXIS)
    size = next(one.shape for one in layout.sites if one.site == first)[axes.index(AXIS)]
    return [str(name) for name in named] if named else [str(number) for number in range(size)]


def _target(source: Any, target: Any, site: str) -> NDArray[Any]:
    if not isinstance(target, str) or not hasattr(source, "labels"):
        return labels(target)
    return np.asarray(source.labels(target, site=next(iter(site_layers(source, site).values()))))


def _place(value: torch.Tensor, at: int) -> torch.Tensor:
    """Features [run, feature] of one place along the region axis of [run, region, feature]."""
    return value[:, at].flatten(1)


def _mean(value: torch.Tensor, name: str, tokens: Any, needed: NDArray[np.bool_]) -> torch.Tensor:
    """Mean over the tokens of a region: [run, feature] of [run, token, feature]. It may be empty in runs [run] whose
    target is not known, and is 0 there."""
    mask = _mask(name, tokens, *value.shape[:2])
    empty = np.flatnonzero(needed & ~mask.any(axis=1))
    if len(empty):
        raise ProbeError(f"Region {name!r} holds no token of run {empty[0]}; leave such runs out (NaN in the target).")
    weights = torch.from_numpy(mask / mask.sum(axis=1, keepdims=True).clip(1)).to(
        device=value.device, dtype=torch.float32
    )
    return torch.einsum("rt,rt...->r...", weights, value.to(torch.float32)).flatten(1)


def _mask(name: str, tokens: Any, runs: int, count: int) -> NDArray[np.bool_]:
    """Bool [run, token] of what was said of a region."""
    given = np.asarray(tokens)
    if given.dtype == bool and given.shape in ((count,), (runs, count)):
        mask = np.broadcast_to(given, (runs, count))
    elif given.dtype.kind in "iu" and given.ndim == 1 and len(given):
        there = np.arange(count)
        wrong = given[~np.isin(given, there)]
        if len(wrong):
            raise ProbeError(f"Region {name!r} has token {wrong[0]}; the site keeps {count}, numbered from 0.")
        mask = np.broadcast_to(np.isin(there, given), (runs, count))
    else:
        raise ProbeError(
            f"Region {name!r}: give a mask of bools, [{count}] or [{runs}, {count}], or token numbers; got "
            f"{given.dtype} of shape {given.shape}."
        )
    if not mask.any():
        raise ProbeError(f"Region {name!r} is empty.")
    return mask
