"""What a user may get wrong is said in the user's words, with what exists near it; nothing is taken in silence.

Arguments of a wrong type are left out: here run-time checks of types refuse them first.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from interp.store import Store
from probes import (
    ProbeError,
    calibration,
    compare_grids,
    figures,
    fit_grid,
    fit_transfer,
    online_code,
    transfer_between,
)
from probes.geometry import Components, Eraser, compare, energy, leace, pca_paths, umap_paths

STORE = Path(__file__).parents[2] / "examples/ci/store"
SITE = "blocks.{layer}.hook_resid_post@random_projection-32"
FAST = {"shuffles": 0, "bootstrap": 5, "path": 0.1}
N = 40
Y, GROUP = np.arange(N) // 2 % 2, np.arange(N) % 20
CELLS = {(s, n): np.random.default_rng(10 * s + n).normal(size=(N, 4)) for s in (0, 2, 5) for n in range(2)}


@pytest.fixture(scope="module")
def store() -> Store:
    return Store.open(STORE)


@pytest.mark.parametrize(
    ("asked", "found"),
    [({"steps": 2}, {2}), ({"steps": slice(0, 3)}, {0, 2}), ({"steps": [5, 0, 5]}, {0, 5}), ({"layers": 1}, {0, 2, 5})],
)
def test_steps_and_layers_are_one_a_slice_or_a_list(asked, found):
    table = fit_grid(CELLS, Y, groups=GROUP, **asked, **FAST).table
    assert set(table["step"]) == found
    assert set(table["layer"]) == ({1} if "layers" in asked else {0, 1})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": [0, 9]}, "no step 9; there are 0, 2, 5"),
        ({"layers": [0, 77]}, "no layer 77"),
        ({"steps": []}, "none of the steps asked for"),
        ({"steps": slice(3, 5)}, "none of the steps asked for"),
        ({"groups": None}, "groups=None: say what must not be on both sides"),
        ({"max_rows": 0}, "max_rows=0"),
        ({"device": "gpu"}, "device='gpu' cannot be used"),
        ({"baselines": {"noise": None}}, "features must be numbers"),
    ],
)
def test_arguments_of_a_grid(change, says):
    with pytest.raises(ProbeError, match=says):
        fit_grid(CELLS, Y, **{"groups": GROUP, **FAST, **change})


def test_sources_that_are_none(store):
    with pytest.raises(ProbeError, match=r"Open the folder first: interp\.Store\.open"):
        fit_grid(str(STORE), "on_path", **FAST)
    with pytest.raises(ProbeError, match=r"One array is a grid of one cell: \{\(0, 0\): array\}"):
        fit_grid(CELLS[0, 0], Y, groups=GROUP, **FAST)
    with pytest.raises(ProbeError, match="features must be numbers"):
        fit_grid({(0, 0): np.full((N, 2), "a")}, Y, groups=GROUP, **FAST)
    with pytest.raises(ProbeError, match=r"of no layer 77; there are 0, 1"):
        fit_grid(store, "on_path", site=SITE, layers=[0, 77], **FAST)
    with pytest.raises(ProbeError, match="The target has 7 rows, and the store 16 runs"):
        fit_grid(store, np.zeros(7), site=SITE, **FAST)


def test_baselines_are_looked_at_before_the_grid_is_fitted():
    read: list[int] = []
    with pytest.raises(ProbeError, match="baseline 'noise'"):
        fit_grid(
            {(0, 0): lambda: read.append(0)}, Y, groups=GROUP, baselines={"noise": np.zeros((3, 2))}, **FAST
        )  # fmt: skip
    assert not read


def test_transfer():
    with pytest.raises(ProbeError, match=r"no option 'layer' \(did you mean layers"):
        fit_transfer(CELLS, Y, groups=GROUP, layer=0)
    with pytest.raises(ProbeError, match="no option 'baselines'"):
        transfer_between(CELLS, Y, groups=GROUP, between=GROUP % 2, baselines={})
    with pytest.raises(ProbeError, match="3 features cannot be tested on 4"):
        fit_transfer({(0, 0): CELLS[0, 0], (1, 0): CELLS[2, 0][:, :3]}, Y, groups=GROUP, path=0.1)
    with pytest.raises(ProbeError, match="between='seed' names a label of a store"):
        transfer_between(CELLS, Y, groups=GROUP, between="seed")
    with pytest.raises(ProbeError, match="level=95"):
        fit_transfer(CELLS, Y, groups=GROUP, level=95)
    with pytest.raises(ProbeError, match="resamples=0"):
        transfer_between(CELLS, Y, groups=GROUP, between=GROUP % 2, resamples=0)
    result = fit_transfer(CELLS, Y, groups=GROUP, path=0.1, layers=0, resamples=5)
    with pytest.raises(ProbeError, match="no column 'lst'"):
        result.matrix(layer=0, column="lst")


def test_grids_and_codes():
    grid = fit_grid(CELLS, Y, groups=GROUP, directions=True, **FAST)
    with pytest.raises(ProbeError, match="output=4: these probes have 1"):
        grid.direction(0, 0, output=4)
    with pytest.raises(ProbeError, match="level=95"):
        compare_grids(grid, grid, level=95)
    x = CELLS[0, 0]
    with pytest.raises(ProbeError, match="one block"):
        online_code(x, Y, groups=np.zeros(N))
    with pytest.raises(ProbeError, match="must be positive"):
        online_code(x, Y, groups=GROUP, path=-1)
    with pytest.raises(ProbeError, match="Class numbers go from 0 to 1"):
        calibration(np.full(N, 0.5), Y + 1, groups=GROUP)
    with pytest.raises(ProbeError, match="bins=0"):
        calibration(np.full(N, 0.5), Y, groups=GROUP, bins=0)
    with pytest.raises(ProbeError, match="40 true classes and 4 predicted"):
        figures.confusion(Y, Y[:4])


def test_geometry():
    x = CELLS[0, 0]
    for paths in (pca_paths, umap_paths):
        with pytest.raises(ProbeError, match="No step was given"):
            paths({})
    with pytest.raises(ProbeError, match="the same rows in each"):
        pca_paths({0: x, 1: x[:7]})
    with pytest.raises(ProbeError, match="rsa has no option 'kernel'"):
        compare({"a": x, "b": x}, "rsa", kernel="rbf")
    with pytest.raises(ProbeError, match="two sites or more"):
        compare({"a": x})
    with pytest.raises(ProbeError, match="NaN or infinity"):
        energy(np.full((2, 3, 4), np.nan))
    with pytest.raises(ProbeError, match="tokens and features were given before"):
        energy([np.ones((2, 3, 4)), np.ones((2, 5, 4))])
    with pytest.raises(ProbeError, match="nothing to erase"):
        leace(x, np.zeros(N))
    with pytest.raises(ProbeError, match="eraser is of 4 features"):
        leace(x, Y)(np.zeros((3, 9)))
    for held in (Eraser, Components):
        with pytest.raises(ProbeError, match="does not exist"):
            held.load("nowhere.safetensors")


def test_lists_and_series_are_arrays():
    plain = fit_grid(CELLS, Y, groups=GROUP, **FAST).table
    series = fit_grid({k: v.tolist() for k, v in CELLS.items()}, pl.Series(Y), groups=pl.Series(GROUP), **FAST).table
    assert plain.equals(series)
    tensors = fit_grid({k: torch.tensor(v) for k, v in CELLS.items()}, torch.tensor(Y).bfloat16(), groups=GROUP, **FAST)
    assert plain.equals(tensors.table)
