"""Where rows and features come from: arrays, stores, tokens pooled or thinned, groups of several keys."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from probes import ProbeError, fit_grid
from tests.probes.data import RUNS, planted, rows


class Memory:
    """The part of a store's interface that a grid needs."""

    def __init__(self, cells, labels, steps, sigmas):
        self.cells, self._labels, self._steps, self._sigmas, self.reads = cells, labels, steps, sigmas, []
        self.sites = (
            *(f"blocks.{layer}.hook_resid_post" for layer in sorted({k[1] for k in cells})),
            "latents.hook_x0",
        )

    def schedule(self):
        return pl.DataFrame({"step": self._steps, "sigma": self._sigmas})

    def read(self, site, step, branch=None, **_):
        self.reads.append((site, step, branch))
        layer = 0 if site.startswith("latents") else int(site.split(".")[1])
        return self.cells[step, layer]

    def labels(self, name, site=None):
        return self._labels[name]


def test_a_store_gives_the_same_grid_as_its_arrays():
    cells, y, groups = planted()
    store = Memory(
        {k: torch.from_numpy(v) for k, v in cells.items()},
        {"on_path": y, "sample": np.array([f"maze-{g}" for g in groups])},
        list(range(6)),
        [1 - s / 6 for s in range(6)],
    )
    a = fit_grid(
        store,
        "on_path",
        groups="sample",
        branch="cond",
        steps=(2, 3),
        layers=(0, 2),
        baselines={"x0": "latents.hook_x0"},
    )
    b = fit_grid(
        {k: v for k, v in cells.items() if k[0] in (2, 3) and k[1] in (0, 2)},
        y, groups=groups, sigmas={2: 1 - 2 / 6, 3: 0.5}, baselines={"x0": {s: cells[s, 0] for s in (2, 3)}},
    )  # fmt: skip
    assert a.table.equals(b.table)
    assert ("blocks.2.hook_resid_post", 3, "cond") in store.reads
    with pytest.raises(ProbeError, match="did you mean"):
        fit_grid(store, "on_path", site="blocks.{layer}.hook_resid_pos")
    with pytest.raises(ProbeError, match="no step 9"):
        fit_grid(store, "on_path", steps=(9,))


def test_cells_are_read_one_at_a_time():
    cells, y, groups = planted(steps=2, layers=2)
    calls = []

    def lazily(key):
        def read():
            calls.append(key)
            return cells[key]

        return read

    lazy = fit_grid({k: lazily(k) for k in cells}, y, groups=groups, shuffles=3)
    assert sorted(calls) == sorted(cells)
    assert lazy.table.equals(fit_grid(cells, y, groups=groups, shuffles=3).table)


def test_pooling_for_targets_per_run():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, size=60)
    x = rng.normal(size=(60, 5, 4)) + 1.5 * y[:, None, None]
    options = {"groups": np.arange(60), "shuffles": 0, "bootstrap": 50}
    mean = fit_grid({(0, 0): x}, y, pool="mean", **options)
    own = fit_grid({(0, 0): x}, y, pool=lambda t: t.float().mean(dim=1), **options)
    assert mean.table.equals(own.table)
    assert mean.table.equals(fit_grid({(0, 0): x.mean(axis=1)}, y, **options).table)
    assert fit_grid({(0, 0): x}, y, pool="flatten", **options).table["score"][0] > 0.8
    with pytest.raises(ProbeError, match="must give"):
        fit_grid({(0, 0): x}, y, pool=lambda t: t[:, 0, 0], **options)


def test_thinned_rows_come_evenly_from_the_groups():
    cells, y, groups = planted(steps=1, layers=1)
    grid = fit_grid(cells, y, groups=groups, max_rows=60, shuffles=0, bootstrap=10)
    assert grid.table["n"][0] == 60
    assert (grid.sums[0, :, 2:].sum(axis=1) == 4).all()


def test_text_labels_are_classes():
    x, y, group = rows(100, 4, groups=20, signal=4)
    names = np.array(["left", "right"])[y]
    grid = fit_grid({(0, 0): x}, names, groups=group, shuffles=2, bootstrap=10)
    assert grid.spec["classes"] == ["left", "right"]
    assert grid.table["score"][0] == fit_grid({(0, 0): x}, y, groups=group, shuffles=2, bootstrap=10).table["score"][0]


def test_seeds_shared_by_mazes_stay_on_one_side():
    cells, y, _ = planted(steps=1, layers=1)
    maze, seed = np.arange(RUNS) // 3, np.arange(RUNS) % 3
    with pytest.raises(ProbeError, match="5 folds were asked of 1 group"):
        fit_grid(cells, y, groups=(maze, seed))  # every maze shares seeds with every other: nothing can be held out
    grid = fit_grid(cells, y, groups=(maze, maze * 10 + seed), shuffles=0, bootstrap=10)
    assert grid.table["groups"][0] == 10
