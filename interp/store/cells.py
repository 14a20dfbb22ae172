"""What a selection names of a store, cell by cell: the same selections as in captures and edits, read lazily."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.errors import SelectionError, StoreError
from interp.store.layout import RunLayout, SiteLayout, few

if TYPE_CHECKING:
    from interp.grid import TokenGrid
    from interp.selection import Resolution, Selection
    from interp.store.store import Store


@dataclass(frozen=True)
class Cell:
    """One site at one step in one branch, over runs.

    Attributes:
        site: as the store calls it, with "@<view>" if a view was kept.
        step: in the sampler's schedule.
        sigma: its noise level.
        branch: "cond", "uncond" or "guided".
        runs: keys of the runs.
        values: [run, <site axes>], of the selected tokens.
    """

    site: str
    step: int
    sigma: float
    branch: str
    runs: tuple[str, ...]
    values: Any


def cells_of(store: Store, selection: Selection, runs: Sequence[str], as_: Any) -> Iterator[Cell]:
    """See `interp.store.Store.cells`; what is not there is refused now, values are read as they are asked for."""
    first = store.index(runs[0]).run
    chosen = _resolved(first, selection)
    found = [(site, *place) for site in first.sites for place in _places(first, site, chosen)]
    if not found:
        kept = f"steps {few(first.steps)}; branches {', '.join(first.branches)}"
        raise StoreError(f"{selection} names nothing that {store.path} keeps; it keeps {kept}")
    for site, *_ in found:
        _check_kept_whole(site, chosen)
    sigmas = dict(zip(first.steps, first.sigmas, strict=True))

    def read() -> Iterator[Cell]:
        for site, step, branch in found:
            tokens = _tokens(first, site, chosen, selection, step, branch)
            values = store.read(site.site, step, branch, runs, tokens, as_)
            yield Cell(site.site, step, sigmas[step], branch, tuple(runs), values)

    return read()


def _resolved(run: RunLayout, selection: Selection, grid: TokenGrid | None = None) -> Resolution:
    """The addresses that are meant, among all that a run with what is kept may have had."""
    from interp.address.names import template_of
    from interp.selection import AddressSpace

    grid = grid or run.grid
    sites = {hook_point(site): site for site in run.sites if template_of(hook_point(site))}
    steps = max(run.steps) + 1
    sigmas, experts = [math.nan] * steps, [""] * steps  # of steps that were not kept: no condition holds for them
    for step, sigma, expert in zip(run.steps, run.sigmas, run.experts, strict=True):
        sigmas[step], experts[step] = sigma, expert
    space = AddressSpace(
        sites=tuple(sites),
        steps=steps,
        sigmas=tuple(sigmas),
        experts=tuple(experts),
        branches=tuple(branch for branch in run.branches if branch != "guided"),
        grid=grid,
        widths={name: _width(name, site, grid) for name, site in sites.items()},
    )
    try:
        return selection.resolve(space)
    except SelectionError as error:
        raise StoreError(f"of what the store keeps, {error}") from error


def hook_point(site: SiteLayout) -> str:
    """The hook point whose tensor, or a view of it, was kept."""
    return site.site.partition("@")[0]


def _width(name: str, site: SiteLayout, grid: TokenGrid) -> tuple[int, ...]:
    """Shape of the hook point's own tensor, as far as the store knows it; sizes that it does not know are 1."""
    from interp.address.names import site_named
    from interp.address.shapes import axes_of

    kept = dict(zip(site.axes, site.shape, strict=True))
    axes = axes_of(site_named(name), per_token_time="token" in kept and "token" not in site_named(name).axes)
    return tuple(grid.tokens if axis == "token" else kept.get(axis, 1) for axis in axes)


def _places(run: RunLayout, site: SiteLayout, chosen: Resolution) -> Iterator[tuple[int, str]]:
    """Steps and branches of a site that are selected and kept."""
    for step in run.steps:
        for branch in run.branches_of(site):
            if chosen.contains(hook_point(site), step, branch):
                yield step, branch


def _check_kept_whole(site: SiteLayout, chosen: Resolution) -> None:
    name = hook_point(site)
    if chosen.heads_of(name) is not None:
        raise StoreError(f"a store is not read by heads: read {site.site} and take them, or select them in the capture")
    if chosen.tokens_of(name) is not None and "token" not in site.axes:
        raise StoreError(f"site {site.site} was kept as a view without tokens, {site.axes[2:]}; select no tokens of it")


def _tokens(run: RunLayout, site: SiteLayout, chosen: Resolution, selection: Selection, step: int, branch: str) -> Any:
    """Selected tokens of a cell: None for all that are kept, or a function of a run's grid."""
    name = hook_point(site)
    if any(part.tokens is None for part in chosen.parts(name, step, branch)):
        return None

    def on(grid: TokenGrid) -> np.ndarray:
        here = chosen if grid == run.grid else _resolved(run, selection, grid)
        parts = here.parts(name, step, branch)
        return np.array(sorted({token for part in parts for token in part.tokens or ()}), np.int64)

    return on
