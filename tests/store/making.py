"""Small stores with known content, for the tests of `interp.store`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.grid import TokenGrid
from interp.store import RunLayout, SiteLayout, Store

RESID = "blocks.0.hook_resid_post"
HEADS = "blocks.0.attn.hook_z"
NORM = "blocks.1.hook_norm"
STEPS = (0, 2, 5, 9)
PROVENANCE = {"model": "tiny", "model_hash": "abc"}


def layout_of(
    run: str, *, seed: int = 0, rows: int = 3, tokens: tuple[int, ...] | None = None, dtype: str = "bfloat16"
) -> RunLayout:
    """A run with three sites: one of tokens, one of tokens and heads with a single branch, one of two numbers."""
    grid = TokenGrid(frames=2, rows=rows, cols=4)
    count = grid.tokens if tokens is None else len(tokens)
    n = len(STEPS)
    sites = (
        SiteLayout(RESID, ("step", "branch", "token", "feature"), (n, 2, count, 16), dtype, tokens),
        SiteLayout(
            HEADS, ("step", "branch", "token", "head", "d_head"), (n, 1, count, 2, 5), "float32", tokens, ("cond",)
        ),
        SiteLayout(NORM, ("step", "branch", "statistic"), (n, 2, 2), "float32"),
    )
    return RunLayout(
        run=run,
        sites=sites,
        steps=STEPS,
        sigmas=tuple(1 - s / 10 for s in STEPS),
        timesteps=tuple(1000 - 100.0 * s for s in STEPS),
        experts=("high", "high", "low", "low"),
        branches=("cond", "uncond"),
        grid=grid,
        provenance={
            **PROVENANCE,
            "sample": f"maze-{seed % 3}",
            "seed": seed,
            "prompt": f"prompt {seed} ❤",
            "task": "maze",
        },
    )


def tensors_of(layout: RunLayout) -> dict[str, Tensor]:
    """Known numbers for a run: site to [step, branch, <site axes>]."""
    out = {}
    for site in layout.sites:
        generator = torch.Generator().manual_seed(sum(map(ord, layout.run + site.site)))
        out[site.site] = torch.randn(site.shape, generator=generator).to(getattr(torch, site.dtype))
    return out


def labels_of(layout: RunLayout) -> dict[str, Any]:
    """Known labels for a run."""
    grid, seed = layout.grid, layout.provenance["seed"]
    on_path = np.arange(grid.tokens, dtype=np.float32).reshape(grid.frames, grid.rows, grid.cols) + seed
    on_path[0, 0, 0] = np.nan
    return {"route": seed % 2, "solved": seed % 2 == 0, "length": seed / 3, "kind": f"k{seed}", "on_path": on_path}


def write_run(store: Store, layout: RunLayout, order: int = 1) -> None:
    """Write a whole run; ``order=-1`` writes its cells backwards."""
    tensors = tensors_of(layout)
    with store.writer(layout.run, layout) as writer:
        cells = [(s, i, j) for i in range(len(layout.steps)) for s in tensors for j in range(len(tensors[s][0]))]
        for site, i, j in cells[::order]:
            writer.write(site, i, j, tensors[site][i, j])
        writer.finish(labels_of(layout))


def make_store(path: Path, seeds: int = 4, **layout: Any) -> Store:
    """A store of a few runs, ``run0`` ..."""
    store = Store.create(path, PROVENANCE)
    for seed in range(seeds):
        write_run(store, layout_of(f"run{seed}", seed=seed, **layout))
    return store


def stacked(store: Store, site: str) -> Tensor:
    """What `Store.read` should give, from the known numbers: [run, step, branch, <site axes>]."""
    return torch.stack([tensors_of(store.layout(run))[site] for run in store.runs])


def two_stores(path: Path) -> tuple[Path, Path]:
    """run0 and run1 on one machine, run1 (the same) and run2 on another."""
    first = make_store(path / "a", seeds=2)
    second = Store.create(path / "b", PROVENANCE)
    for seed in (1, 2):
        write_run(second, layout_of(f"run{seed}", seed=seed))
    return first.path, second.path
