"""Grids by region: each is the grid of its own tokens, made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from interp.grid import TokenGrid
from interp.store import RunLayout, SiteLayout, Store
from probes import AttentionProbe, ProbeError, RegionGrids, compare_grids, fit_grid, fit_regions
from tests.probes.test_wrong_use import SITE, STORE

RUNS, TOKENS, WIDTH = 40, 6, 4
FAST = {"bootstrap": 20, "path": 0.1, "shuffles": 3, "groups": np.arange(RUNS)}


def made() -> tuple[dict[tuple[int, int], np.ndarray], np.ndarray, np.ndarray]:
    """Cells whose goal, token 1 or 4 of each run, knows the answer from step 1 on; the answer; where the goal is."""
    rng = np.random.default_rng(0)
    y, at = rng.integers(0, 2, size=RUNS), rng.choice([1, 4], size=RUNS)
    goal = np.arange(TOKENS) == at[:, None]
    cells = {(s, n): rng.normal(size=(RUNS, TOKENS, WIDTH)) for s in (0, 1) for n in (0, 1)}
    for step, layer in cells:
        cells[step, layer][goal, 0] += step * 4 * (2 * y - 1)
    return cells, y, goal


def test_each_region_is_the_grid_of_its_mean(tmp_path: Path) -> None:
    cells, y, goal = made()
    first = [0, 2]
    found = fit_regions(cells, y, {"goal": goal, "first": first, "all": np.ones(TOKENS, dtype=bool)}, **FAST)
    means = {
        "goal": {key: x[goal] for key, x in cells.items()},
        "first": {key: x[:, first].mean(axis=1) for key, x in cells.items()},
        "all": {key: x.mean(axis=1) for key, x in cells.items()},
    }
    for name, of in means.items():
        own = fit_grid(of, y, **FAST).table
        part = found.table.filter(region=name).drop("region")
        assert part.drop("auc").equals(own.drop("auc"))  # means of float32 and of float64 rank a pair or two unlike
    assert found.table.columns[0] == "region"
    late = found.table.filter(step=1)
    assert late.filter(region="goal")["score"].min() > 0.95 > 0.7 > late.filter(region="first")["score"].max()
    onset = found.onset().filter(layer=0)
    assert dict(onset.select("region", "onset").iter_rows()) == {"goal": 1, "first": None, "all": 1}
    apart = compare_grids(found.grids["goal"], found.grids["first"], resamples=100)
    assert apart["paired"].all()
    assert (apart.filter(step=1)["low"] > 0).all()
    again = RegionGrids.load(found.save(tmp_path / "regions"))
    assert again.table.equals(found.table)
    assert list(again.grids) == ["goal", "first", "all"]
    assert again.grids["goal"].spec["region"] == "goal"


def test_a_target_per_token_has_the_tokens_of_the_region_as_rows() -> None:
    cells, _, goal = made()
    y = (np.random.default_rng(1).random((RUNS, TOKENS)) < 0.5).astype(float)
    around = ~goal
    for target in (y, np.array(["off", "on"])[y.astype(int)]):
        found = fit_regions(cells, target, {"around": around}, **FAST)
        assert found.table.drop("region").equals(fit_grid(cells, np.where(around, y, np.nan), **FAST).table)


def test_regions_of_a_store_that_holds_their_means(tmp_path: Path) -> None:
    cells, y, goal = made()
    pooled = {key: np.stack([x[goal], x.mean(axis=1)], axis=1).astype(np.float32) for key, x in cells.items()}
    sites = {layer: f"blocks.{layer}.hook_resid_post@region_mean-goal-all" for layer in (0, 1)}
    store = Store.create(tmp_path / "s", {"model": "noise"})
    axes = ("step", "branch", "region", "d_model")
    for run in range(RUNS):
        layout = RunLayout(
            run=f"run{run:02}",
            sites=tuple(SiteLayout(name, axes, (2, 1, 2, WIDTH), "float32") for name in sites.values()),
            steps=(0, 1), sigmas=(1.0, 0.5), timesteps=(1000.0, 500.0), experts=("main",) * 2, branches=("cond",),
            grid=TokenGrid(frames=1, rows=1, cols=TOKENS),
            provenance={
                "model": "noise", "sample": f"s{run}", "seed": 0, "prompt": "", "task": "none",
                "views": {"declared": [], "coords": {name: {"region": ["goal", "all"]} for name in sites.values()}},
            },
        )  # fmt: skip
        with store.writer(layout.run, layout) as writer:
            for step, layer in pooled:
                writer.write(sites[layer], step, 0, pooled[step, layer][run])
            writer.finish({"answer": int(y[run])})
    site = "blocks.{layer}.hook_resid_post@region_mean-goal-all"
    options = {**FAST, "groups": "sample", "site": site}
    found = fit_regions(store, "answer", **options)
    assert list(found.grids) == ["goal", "all"]
    by_hand = fit_regions(cells, y, {"goal": goal}, **FAST, sigmas={0: 1.0, 1: 0.5}).table
    assert found.table.filter(region="goal").drop("auc").equals(by_hand.drop("auc"))
    assert fit_regions(store, "answer", "all", **options).table.equals(found.table.filter(region="all"))
    assert found.grids["all"].spec["target"] == "answer"
    with pytest.raises(ProbeError, match=r"no region 'gaol' \(did you mean goal"):
        fit_regions(store, "answer", ["gaol"], **options)
    with pytest.raises(ProbeError, match="holds region means and no tokens"):
        fit_regions(store, "answer", {"goal": [0]}, **options)


def test_the_figure_has_one_scale_for_all_regions(tmp_path: Path) -> None:
    cells, y, goal = made()
    found = fit_regions(cells, y, {"goal": goal, "rest": ~goal, "first": [0], "last": [5]}, **FAST)
    figure = found.plot(tmp_path / "regions.png", title="answer")
    images = [axes.images[0] for axes in figure.axes if axes.images and axes.get_title(loc="left")]
    assert len({image.get_clim() for image in images}) == 1
    for image, grid in zip(images, found.grids.values(), strict=True):
        expected = grid.table.pivot("step", index="layer", values="score").drop("layer")
        np.testing.assert_allclose(image.get_array(), expected)
    assert (tmp_path / "regions.png").stat().st_size > 10_000


def test_regions_that_are_none() -> None:
    cells, y, goal = made()
    for regions, says in (
        (None, "regions= says which tokens"),
        ({}, "No region was asked for"),
        ({"goal": [9]}, "has token 9; the site keeps 6"),
        ({"goal": [-1]}, "has token -1"),
        ({"goal": goal[:, :5]}, r"give a mask of bools, \[6\] or \[40, 6\]"),
        ({"goal": goal.astype(float)}, "got float64"),
        ({"goal": np.zeros(TOKENS, dtype=bool)}, "is empty"),
        ({"goal": goal & (np.arange(RUNS) != 7)[:, None]}, "holds no token of run 7"),
    ):
        with pytest.raises(ProbeError, match=says):
            fit_regions(cells, y, regions, **FAST)
    target = np.where(np.arange(RUNS) == 7, np.nan, y)  # a run whose target is not known needs no region
    found = fit_regions(cells, target, {"goal": goal & (np.arange(RUNS) != 7)[:, None]}, **FAST)
    assert (found.table["n"] == RUNS - 1).all()
    with pytest.raises(ProbeError, match="leave pool= out"):
        fit_regions(cells, y, {"goal": goal}, pool="mean", **FAST)
    with pytest.raises(ProbeError, match="AttentionProbe pools tokens itself"):
        fit_regions(cells, y, {"goal": goal}, groups=np.arange(RUNS), model=AttentionProbe())
    with pytest.raises(ProbeError, match="Open the folder first"):
        fit_regions(str(STORE), "on_path", {"goal": [0]}, site=SITE)
    with pytest.raises(ProbeError, match="holds no grids of regions"):
        RegionGrids.load(STORE)
