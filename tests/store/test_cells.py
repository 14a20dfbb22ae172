"""Reading by selections and as tables gives the numbers that `Store.read` and plain indexing give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from interp.errors import StoreError
from interp.store import SiteLayout, Store, consolidate
from tests.store.making import HEADS, NORM, PROVENANCE, RESID, STEPS, layout_of, make_store, stacked, write_run


@pytest.fixture(scope="module", params=[False, True], ids=["shards", "consolidated"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three runs."""
    store = make_store(tmp_path_factory.mktemp("cells") / "s", seeds=3)
    if request.param:
        consolidate(store)
    return store


def test_a_selection_is_read_cell_by_cell(store: Store) -> None:
    values, last = stacked(store, RESID), torch.tensor([12, 15, 20, 23])  # of 2 frames x 3 rows x 4 cols
    cells = list(store.cells("blocks.*.hook_resid_post[step=2:, frames=1, rows={0,2}, cols={0,3}]", as_="torch"))
    assert [(cell.site, cell.step, cell.branch) for cell in cells] == [
        (RESID, step, branch) for step in STEPS[1:] for branch in ("cond", "uncond")
    ]
    for cell in cells:
        step, branch = STEPS.index(cell.step), ("cond", "uncond").index(cell.branch)
        assert cell.sigma == 1 - cell.step / 10
        assert cell.runs == store.runs
        assert torch.equal(cell.values, values[:, step, branch][:, last])


def test_several_sites_and_conditions_on_sigma_and_expert(store: Store) -> None:
    found = [(c.site, c.step, c.branch) for c in store.cells("blocks.0.**[sigma=0.4<..1, expert=high, branch=cond]")]
    assert found == [(site, step, "cond") for site in (RESID, HEADS) for step in (0, 2) if 0.4 < 1 - step / 10 <= 1]


def test_values_are_read_only_when_asked_for(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", seeds=2)
    cells = store.cells(RESID)
    next(cells)
    (store.path / "runs/run1.h5").unlink()
    with pytest.raises(StoreError, match=r"run run1.* is missing"):
        next(cells)


def test_grids_of_several_sizes_by_function_of_each(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", seeds=1)
    write_run(store, layout_of("run9", seed=9, rows=5))
    (cell, *_) = store.cells(RESID + "[step=0, branch=cond, frames=1, rows=2, cols=1:3]")
    rows = [[1 * 12 + 2 * 4 + 1, 1 * 12 + 2 * 4 + 2], [1 * 20 + 2 * 4 + 1, 1 * 20 + 2 * 4 + 2]]
    for i, run in enumerate(store.runs):
        assert np.array_equal(cell.values[i], store.read(RESID, 0, "cond", [run])[0][rows[i]])


def test_a_view_is_named_by_its_hook_point(tmp_path: Path) -> None:
    base = layout_of("r")
    mean = SiteLayout(f"{RESID}@frame_mean", ("step", "branch", "frame", "d_model"), (4, 2, 2, 16), "float32")
    store = Store.create(tmp_path / "s", PROVENANCE)
    write_run(store, type(base)(**{**vars(base), "sites": (mean,)}))
    assert len(list(store.cells(RESID))) == 8
    with pytest.raises(StoreError, match="without tokens"):
        store.cells(f"{RESID}[frames=1]")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("blocks.7.hook_resid_post", "layer 7 is out of range"),
        (f"{RESID}[step=1]", "keeps steps 0, 2, 5, 9"),
        (f"{RESID}[step=30]", "30"),
        (f"{HEADS}[head=0]", "not read by heads"),
        (f"{RESID}[frames=7]", "7"),
    ],
)
def test_what_is_not_there_is_refused_at_once(store: Store, asked: str, words: str) -> None:
    with pytest.raises(StoreError, match=words):
        store.cells(asked)


def test_a_table_has_a_row_a_place(store: Store) -> None:
    values = stacked(store, RESID).float().numpy()
    table = store.read(RESID, step=[5, 0], branch=["cond", "uncond"], tokens=[20, 3], as_="polars")
    assert table.columns == ["run", "step", "branch", "token", "values"]
    assert len(table) == 3 * 2 * 2 * 2
    for run, step, branch, token, row in table.iter_rows():
        at = store.runs.index(run), STEPS.index(step), ("cond", "uncond").index(branch), token
        assert np.array_equal(row, values[at])
    one = store.read(NORM, step=2, branch="cond", runs=["run2"], as_="polars")
    assert one["values"].to_list() == [pytest.approx(stacked(store, NORM)[2, 1, 0].tolist())]
    assert table.join(store.runs_frame.select("run", "route"), on="run")["route"].dtype == pl.Int64


def test_a_table_of_some_kept_tokens(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", seeds=2, tokens=(22, 1, 7))
    table = store.read(HEADS, step=0, runs=["run1"], tokens=[7, 22], as_="polars")
    assert table.columns == ["run", "step", "branch", "token", "head", "values"]
    assert table["token"].to_list() == [7, 7, 22, 22]
    assert table["head"].to_list() == [0, 1, 0, 1]
    wanted = stacked(store, HEADS)[1, 0, 0][[2, 0]].reshape(-1, 5)
    assert np.array_equal(np.stack(table["values"].to_list()), wanted.numpy())
