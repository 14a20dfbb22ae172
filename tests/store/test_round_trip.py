"""What is written is what is read, in every dtype, order, subset and view."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pytest
import torch

from interp.errors import StoreError
from interp.store import RunLayout, SiteLayout, Store
from tests.store.making import (
    HEADS,
    NORM,
    PROVENANCE,
    RESID,
    STEPS,
    labels_of,
    layout_of,
    make_store,
    stacked,
    tensors_of,
    write_run,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    make_store(tmp_path_factory.mktemp("store") / "s")
    return Store.open(tmp_path_factory.getbasetemp() / "store0" / "s")


def test_every_cell_comes_back(store: Store) -> None:
    for site in (RESID, HEADS, NORM):
        wanted = stacked(store, site)
        for i, step in enumerate(STEPS):
            for j, branch in enumerate(("cond", "uncond")[: wanted.shape[2]]):
                got = store.read(site, step, branch, as_="torch")
                assert got.dtype == wanted.dtype
                assert torch.equal(got, wanted[:, i, j])
                assert np.array_equal(store.read(site, step, branch), wanted[:, i, j].float().numpy())


def test_axes_are_kept_where_several_are_asked(store: Store) -> None:
    wanted = stacked(store, RESID)
    assert torch.equal(store.read(RESID, branch=["uncond", "cond"], as_="torch"), wanted[:, :, [1, 0]])
    assert torch.equal(store.read(RESID, [5, 0], "cond", as_="torch"), wanted[:, [2, 0], 0])
    assert torch.equal(store.read(RESID, slice(1, 9), "cond", as_="torch"), wanted[:, 1:3, 0])
    assert torch.equal(store.read(HEADS, as_="torch"), stacked(store, HEADS)[:, :, 0])
    assert torch.equal(store.read(HEADS, 9, runs=["run3", "run1"], as_="torch"), stacked(store, HEADS)[[3, 1], 3, 0])


def test_tokens_are_chosen_on_the_full_grid(store: Store, tmp_path: Path) -> None:
    wanted = stacked(store, RESID)
    assert torch.equal(store.read(RESID, 2, "cond", tokens=[7, 3, 3], as_="torch"), wanted[:, 1, 0, [7, 3, 3]])
    last = store.read(RESID, 2, "cond", tokens=lambda grid: range(grid.tokens - 2, grid.tokens), as_="torch")
    assert torch.equal(last, wanted[:, 1, 0, -2:])
    some = make_store(tmp_path / "some", tokens=(20, 4, 9))
    assert some.layout("run0").site_named(RESID).tokens == (20, 4, 9)
    assert torch.equal(some.read(RESID, 0, "cond", tokens=[9, 20], as_="torch"), stacked(some, RESID)[:, 0, 0, [2, 0]])
    with pytest.raises(StoreError, match="token 5 was not kept; there are tokens 20, 4, 9"):
        some.read(RESID, 0, "cond", tokens=[4, 5])


def test_tokens_that_are_not_the_first_axis(tmp_path: Path) -> None:
    layout = layout_of("a")
    count = layout.grid.tokens
    rows = SiteLayout("rows", ("step", "branch", "head", "token"), (4, 2, 3, count), "float32")
    layout = RunLayout(**{**vars(layout), "sites": (rows,)})
    store = Store.create(tmp_path / "s", PROVENANCE)
    write_run(store, layout)
    wanted = tensors_of(layout)["rows"]
    assert torch.equal(store.read("rows", 2, "uncond", tokens=[5, 1], as_="torch")[0], wanted[1, 1][:, [5, 1]])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64", "int8", "uint8", "int16", "int64"])
def test_every_dtype(tmp_path: Path, dtype: str) -> None:
    store = make_store(tmp_path / "s", seeds=1, dtype=dtype)
    wanted = tensors_of(layout_of("run0", dtype=dtype))[RESID]
    assert torch.equal(store.read(RESID, branch=["cond", "uncond"], as_="torch")[0], wanted)
    with h5py.File(tmp_path / "s" / "runs" / "run0.h5") as file:
        assert np.array_equal(
            file["sites"][RESID][()], wanted.to(torch.float32 if dtype == "bfloat16" else wanted.dtype)
        )


def test_special_floats_keep_their_bits(tmp_path: Path) -> None:
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    values = bits.view(torch.bfloat16).reshape(1, 1, 256, 256)
    site = SiteLayout("all", ("step", "branch", "a", "b"), (1, 1, 256, 256), "bfloat16")
    base = layout_of("r")
    layout = RunLayout("r", (site,), (0,), (1.0,), (1000.0,), ("main",), ("cond",), base.grid, base.provenance)
    store = Store.create(tmp_path / "s", {})
    with store.writer("r", layout) as writer:
        writer.write("all", 0, 0, values[0, 0])
        writer.finish()
    got = store.read("all", 0, as_="torch")[0]
    assert torch.equal(got.view(torch.int16), values[0, 0].view(torch.int16))
    assert np.array_equal(store.read("all", 0)[0], values[0, 0].float().numpy(), equal_nan=True)


def test_the_order_of_writing_does_not_matter_to_the_bit(tmp_path: Path) -> None:
    for name, order in (("a", 1), ("b", -1)):
        write_run(Store.create(tmp_path / name, PROVENANCE), layout_of("r"), order)
    assert (tmp_path / "a/runs/r.h5").read_bytes() == (tmp_path / "b/runs/r.h5").read_bytes()


def test_large_cells_are_cut_and_small_ones_gathered(tmp_path: Path) -> None:
    base = layout_of("r")
    sites = (
        SiteLayout("large", ("step", "branch", "token", "feature"), (2, 1, 24, 60_001), "float32"),
        SiteLayout("middle", ("step", "branch", "token", "feature"), (2, 1, 24, 7_001), "bfloat16"),
        SiteLayout("small", ("step", "branch", "number"), (2, 1, 3), "bfloat16"),
    )
    layout = RunLayout("r", sites, (0, 1), (1.0, 0.5), (1000.0, 500.0), ("main",) * 2, ("cond",), base.grid, {})
    store = Store.create(tmp_path / "s", {})
    tensors = tensors_of(layout)
    with store.writer("r", layout) as writer:
        for step in range(2):
            for name, tensor in tensors.items():
                writer.write(
                    name, step, 0, tensor[step, 0].t().contiguous().t() if tensor.ndim == 4 else tensor[step, 0]
                )
        writer.finish()
    store = Store.open(tmp_path / "s")
    for name, tensor in tensors.items():
        if name != "small":
            got = store.read(name, 1, tokens=[23, 2, 3, 11], as_="torch")
            assert torch.equal(got[0], tensor[1, 0, [23, 2, 3, 11]])
        assert torch.equal(store.read(name, as_="torch")[0], tensor[:, 0])


def test_labels(store: Store) -> None:
    known = [labels_of(store.layout(run)) for run in store.runs]
    for name in ("route", "solved", "length", "kind"):
        assert store.labels(name).tolist() == [label[name] for label in known]
    wanted = np.stack([label["on_path"].reshape(-1) for label in known])
    assert np.array_equal(store.labels("on_path"), wanted, equal_nan=True)
    assert store.labels("sample").tolist() == ["maze-0", "maze-1", "maze-2", "maze-0"]
    assert store.labels("seed", runs=["run2", "run0"]).tolist() == [2, 0]
    with pytest.raises(StoreError, match=r"no label 'rote' \(did you mean route"):
        store.labels("rote")


def test_labels_of_the_tokens_that_are_kept(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", tokens=(20, 4, 9))
    wanted = np.stack([labels_of(store.layout(run))["on_path"].reshape(-1)[[20, 4, 9]] for run in store.runs])
    assert np.array_equal(store.labels("on_path", site=RESID), wanted)


def test_tables(store: Store) -> None:
    assert store.sites == (RESID, HEADS, NORM)
    runs = store.runs_frame
    assert runs["run"].to_list() == ["run0", "run1", "run2", "run3"] == list(store.runs)
    assert runs["sample"].to_list() == ["maze-0", "maze-1", "maze-2", "maze-0"]
    assert runs["length"].to_list() == [0, 1 / 3, 2 / 3, 1]
    assert runs["solved"].dtype == pl.Boolean
    frame = store.frame
    assert len(frame) == 12
    row = frame.row(0, named=True)
    assert (row["axes"], row["shape"]) == (["step", "branch", "token", "feature"], [4, 2, 24, 16])
    assert (row["dtype"], row["bytes"], row["tokens"], row["steps"]) == (
        "bfloat16",
        4 * 2 * 24 * 16 * 2,
        24,
        list(STEPS),
    )
    assert row["branches"] == ["cond", "uncond"]
    assert store.schedule()["sigma"].to_list() == list(store.layout("run0").sigmas)


def test_the_layout_comes_back(store: Store, tmp_path: Path) -> None:
    assert store.layout("run1") == layout_of("run1", seed=1)
    some = make_store(tmp_path / "s", seeds=1, tokens=(1, 2))
    assert some.layout("run0") == layout_of("run0", tokens=(1, 2))
    assert some.provenance == PROVENANCE


def test_plain_h5py_finds_everything(store: Store) -> None:
    """Someone who has never seen this project opens a shard."""
    layout = layout_of("run1", seed=1)
    with h5py.File(store.path / "runs" / "run1.h5", "r") as file:
        assert file.attrs["format"] == b"wan-interp-shard"
        assert (file.attrs["run"], file.attrs["seed"], file.attrs["model"]) == (b"run1", 1, b"tiny")
        assert file["prompt"].asstr()[()] == "prompt 1 ❤"
        assert file["sigmas"][()].tolist() == list(layout.sigmas)
        assert file["experts"][()].tolist() == [b"high", b"high", b"low", b"low"]
        assert dict(file["grid"].attrs)["rows"] == 3
        site = file["sites"][RESID]
        assert site.attrs["axes"].tolist() == [b"step", b"branch", b"token", b"feature"]
        assert (site.attrs["dtype"], site.shape) == (b"bfloat16", (4, 2, 24, 16))
        assert np.array_equal(site[2, 1], tensors_of(layout)[RESID][2, 1].float().numpy())
        assert file["labels/kind"].asstr()[()] == "k1"
        assert file["labels/solved"][()] == np.False_
        assert np.array_equal(file["labels/on_path"][()], labels_of(layout)["on_path"], equal_nan=True)
        assert file["labels/on_path"].attrs["axes"].tolist() == [b"frame", b"row", b"col"]


def test_numpy_arrays_can_be_written(tmp_path: Path) -> None:
    layout = layout_of("r", dtype="float32")
    store = Store.create(tmp_path / "s", PROVENANCE)
    tensors = tensors_of(layout)
    with store.writer("r", layout) as writer:
        for name, tensor in tensors.items():
            for i, j in np.ndindex(*tensor.shape[:2]):
                writer.write(name, i, j, tensor[i, j].numpy())
        writer.finish()
    assert torch.equal(store.read(RESID, 0, "cond", as_="torch")[0], tensors[RESID][0, 0])
