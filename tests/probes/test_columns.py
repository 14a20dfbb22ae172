"""Tables have the columns that the documentation lists, whatever they are made from."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from docs.make_tables import render
from interp import intervals
from probes import (
    GridResult,
    calibration,
    code_grid,
    columns,
    compare_grids,
    fit_grid,
    fit_transfer,
    online_code,
    simultaneous_bands,
    transfer_between,
)
from probes.geometry import compare, energy, energy_table, pca, pca_paths

N = 40
Y, GROUP = np.arange(N) // 2 % 2, np.arange(N) % 20
CELLS = {(s, 0): np.random.default_rng(s).normal(size=(N, 4)) for s in (0, 2)}
FAST = {"bootstrap": 5, "path": 0.1, "groups": GROUP}


def assert_columns(table: pl.DataFrame, *held: str) -> None:
    assert table.columns == list(held)
    assert pl.Null not in table.dtypes  # a column has its type, though nothing may be in it
    assert pl.Object not in table.dtypes


@pytest.mark.parametrize(
    ("target", "options"),
    [
        (Y, {"shuffles": 2}),
        (Y, {"shuffles": 0, "sigmas": {0: 1.0, 2: 0.5}, "kinds": np.arange(N) % 4}),
        (Y + 0.5 * np.arange(N), {"model": "ridge", "shuffles": 2}),
    ],
)
def test_of_grids(target: np.ndarray, options: dict) -> None:
    grid = fit_grid(CELLS, target, predictions=True, baselines={"x0": CELLS[0, 0]}, **FAST, **options)
    assert_columns(grid.table, *columns.GRID, "baseline_x0")
    assert_columns(grid.baselines, *columns.BASELINES)
    assert fit_grid(CELLS, target, **FAST, **options).baselines.schema == grid.baselines.schema
    assert_columns(grid.predictions(2, 0), *columns.PREDICTIONS)
    assert_columns(simultaneous_bands(grid), *columns.BANDS)
    assert_columns(compare_grids(grid, grid, resamples=40), *columns.DIFFERENCES)
    if options["shuffles"]:
        assert_columns(grid.onset(), *columns.ONSET)
        across, *rest, _ = columns.ONSET
        assert_columns(grid.onset("layer"), "step" if across == "layer" else "layer", *rest)


def test_of_transfer_and_codes() -> None:
    assert_columns(fit_transfer(CELLS, Y, resamples=5, path=0.1, groups=GROUP).table, *columns.TRANSFER)
    assert_columns(
        transfer_between(CELLS, Y, between=GROUP % 2, resamples=5, path=0.1, groups=GROUP, folds=3), *columns.BETWEEN
    )
    for options in ({}, {"orders": 1, "kinds": np.arange(N) % 4}):
        assert_columns(code_grid(CELLS, Y, groups=GROUP, **options), *columns.CODES)
    assert_columns(online_code(CELLS[0, 0], Y, groups=GROUP).table, *columns.CODE_BLOCKS)
    assert_columns(calibration(np.linspace(0, 1, N), Y, groups=GROUP, resamples=5).table, *columns.CALIBRATION)


def test_of_geometry() -> None:
    sites = {"a": CELLS[0, 0], "b": CELLS[2, 0]}
    assert_columns(compare(sites, shuffles=2), *columns.LIKENESS)
    parts = {name: pca(x) for name, x in sites.items()}
    assert_columns(compare(parts, "subspace"), *columns.LIKENESS)
    found = energy(np.random.default_rng(0).normal(size=(3, 6, 5)))
    assert_columns(energy_table({(0, 1): found}, SimpleNamespace(frames=1, rows=2, cols=3)), *columns.ENERGY)
    paths = pca_paths({s: CELLS[s, 0] for s in (0, 2)}, 2, about={"answer": list(Y)})
    assert_columns(paths.table, *columns.PATHS, "answer", "pc0", "pc1")


def test_of_means() -> None:
    table = pl.DataFrame({"sample": ["a", "a", "b"], "step": [0, 0, 0], "sigma": [1.0, 1.0, 1.0], "hit": [1, 0, 1]})
    assert_columns(intervals.mean_by(table, "hit"), "step", *intervals.COLUMNS)
    alone = table.with_columns(layer=pl.lit(None, dtype=pl.Int64))  # of a lens without layers
    assert_columns(intervals.mean_by(alone, "hit"), "step", "layer", *intervals.COLUMNS)


def test_the_page_of_tables_is_made_from_them() -> None:
    page = Path(__file__).parents[2] / "docs" / "tables.md"
    assert page.read_text(encoding="utf-8") == render(), "run `python -m docs.make_tables`"


def test_a_grid_says_its_columns_itself() -> None:
    said = (GridResult.__doc__ or "").replace(",", " ").split()
    assert [name for name in columns.GRID if name not in said] == []
