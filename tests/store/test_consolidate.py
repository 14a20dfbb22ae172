"""Site-major files hold what the shards hold, are preferred where they are up to date, and never where they are not."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from interp.errors import StoreError
from interp.store import Store, consolidate, info, verify
from tests.store.faults import Faults, leftovers
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
from tests.store.test_damage import flip


def hide_shards(store: Store) -> Store:
    """Take the shards' data away, so that a read that succeeds came from the site-major file."""
    store.refresh()
    assert store.frame is not None  # the tables and layouts come from the shards
    for run in store.runs:
        shard = store.path / f"runs/{run}.h5"
        shard.rename(shard.with_suffix(".away"))
    return store


def assert_same(store: Store, wanted: dict[str, torch.Tensor]) -> None:
    for site, tensor in wanted.items():
        for i, step in enumerate(STEPS):
            for j, branch in enumerate(("cond", "uncond")[: tensor.shape[2]]):
                assert torch.equal(store.read(site, step, branch, as_="torch"), tensor[:, i, j])
    assert torch.equal(store.read(RESID, branch=["uncond", "cond"], as_="torch"), wanted[RESID][:, :, [1, 0]])
    assert torch.equal(
        store.read(RESID, [5, 2], "cond", tokens=[7, 1], as_="torch"), wanted[RESID][:, [2, 1], 0][:, :, [7, 1]]
    )
    some = store.read(HEADS, slice(2, 9), runs=[store.runs[2], store.runs[0]], as_="torch")
    assert torch.equal(some, wanted[HEADS][[2, 0], 1:3, 0])
    order = [1, 2, 0]  # two that follow one another in the file, and one that does not
    runs = [store.runs[i] for i in order]
    both = ["cond", "uncond"]
    assert torch.equal(store.read(RESID, branch=both, runs=runs, as_="torch"), wanted[RESID][order])
    assert torch.equal(
        store.read(RESID, branch=both, runs=runs, tokens=[3, 0], as_="torch"), wanted[RESID][order][:, :, :, [3, 0]]
    )


@pytest.mark.parametrize("memory", [1, 5000, 1 << 20])
def test_what_is_read_is_what_was_written(tmp_path: Path, memory: int) -> None:
    store = make_store(tmp_path / "s", seeds=5)
    wanted = {site: stacked(store, site) for site in store.sites}
    seen: list[tuple[int, int]] = []
    (name,) = consolidate(store, memory=memory, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]
    assert verify(store).ok
    assert (store.path / f"consolidated/{name}.h5").exists()
    assert consolidate(store) == ()
    assert_same(hide_shards(store), wanted)


def test_large_and_small_cells(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", seeds=3, rows=1000)
    wanted = {site: stacked(store, site) for site in store.sites}
    consolidate(store, memory=1 << 20)
    hide_shards(store)
    for site in store.sites:
        branch = "cond"
        assert torch.equal(store.read(site, 5, branch, as_="torch"), wanted[site][:, 2, 0])
    assert torch.equal(store.read(RESID, 5, "cond", tokens=[7999, 3], as_="torch"), wanted[RESID][:, 2, 0, [7999, 3]])


def test_runs_that_came_later_are_read_from_their_shards(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", seeds=3)
    consolidate(store)
    write_run(store, layout_of("another", seed=9))
    store.refresh()
    assert store.runs[0] == "another"
    assert_same(store, {site: stacked(store, site) for site in store.sites})
    (name,) = consolidate(store)
    assert [path.name for path in sorted((store.path / "consolidated").iterdir())] == [f"{name}.h5", "manifest.jsonl"]
    assert_same(hide_shards(store), known(store))


def known(store: Store) -> dict[str, torch.Tensor]:
    """The known numbers, without asking the store for layouts."""
    seeds = {"another": 9, **{f"run{i}": i for i in range(9)}}
    tensors = [tensors_of(layout_of(run, seed=seeds[run])) for run in store.runs]
    return {site: torch.stack([each[site] for each in tensors]) for site in (RESID, HEADS, NORM)}


def test_a_run_that_was_repeated_is_not_read_from_the_old_file(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", seeds=3)
    consolidate(store)
    store.drop(["run1"])
    layout = layout_of("run1", seed=8)  # another seed in its provenance, so another index
    write_run(store, layout)
    store.refresh()
    (store.path / "runs/run1.h5").unlink()
    with pytest.raises(StoreError, match=r"run run1: .*runs/run1.h5 is missing"):
        store.read(RESID, 0, "cond")
    assert store.read(RESID, 0, "cond", runs=["run0", "run2"]).shape == (2, 24, 16)


def test_runs_of_each_layout_have_their_own_file(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", seeds=2)
    write_run(store, layout_of("wide", seed=7, rows=5))
    assert len(consolidate(store)) == 2
    wide = store.read(RESID, 0, "cond", runs=["wide"])
    last = store.read(RESID, 0, "cond", tokens=lambda grid: [grid.tokens - 1])
    assert np.array_equal(last[2], wide[0, -1:])
    with pytest.raises(StoreError, match=r"\[24, 16\] in 2 runs"):
        store.read(RESID, 0, "cond")


def test_plain_h5py_finds_everything(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", seeds=3)
    (name,) = consolidate(store)
    with h5py.File(store.path / f"consolidated/{name}.h5") as file:
        site = file["sites"][RESID]
        assert site.attrs["axes"].tolist() == [b"step", b"branch", b"run", b"token", b"feature"]
        assert np.array_equal(site[1, 0], stacked(store, RESID)[:, 1, 0].float().numpy())
        assert file["runs"][()].tolist() == [b"run0", b"run1", b"run2"]
        assert file["labels/kind"][()].tolist() == [b"k0", b"k1", b"k2"]
        wanted = np.stack([labels_of(store.layout(run))["on_path"] for run in store.runs])
        assert np.array_equal(file["labels/on_path"][()], wanted, equal_nan=True)
        assert b'"seed":2' in file["provenance"][2]
        assert file.attrs["model"] == b"tiny"


def test_damage_names_the_block_and_the_run(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", seeds=3)
    (name,) = consolidate(store)
    path = store.path / f"consolidated/{name}.h5"
    with h5py.File(path) as file:
        at = file["sites"][RESID].id.get_offset() + 5
    flip(path, at, 2)
    store.refresh()
    with pytest.raises(
        StoreError, match=rf"site-major file {name}: .*damaged: block 0 of site {RESID}, .*run run0.*remove"
    ):
        store.read(RESID, 0, "cond")
    assert list(verify(store).damaged) == [name]
    path.unlink()
    store.refresh()
    with pytest.raises(StoreError, match="is missing"):
        store.read(RESID, 0, "cond")
    (store.path / "consolidated/manifest.jsonl").unlink()
    store.refresh()
    assert store.read(RESID, 0, "cond").shape == (3, 24, 16)


def test_a_damaged_shard_is_not_consolidated(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", seeds=3)
    with h5py.File(store.path / "runs/run1.h5") as file:
        at = file["sites"][NORM].id.get_offset() + 3
    flip(store.path / "runs/run1.h5", at, 1)
    with pytest.raises(StoreError, match=r"run run1: .*damaged"):
        consolidate(store)
    assert leftovers(store.path) == []
    assert not list((store.path / "consolidated").glob("*.h5"))


def test_a_disk_that_fails_at_any_call(tmp_path: Path) -> None:
    path = make_store(tmp_path / "s", seeds=3).path
    at = 0
    while True:
        at += 1
        store = Store.open(path)
        faults, said = Faults(at, errno.ENOSPC, short=at % 2 == 0), ""
        with pytest.MonkeyPatch.context() as patch:
            faults.install(patch)
            try:
                consolidate(store, memory=2000)
            except StoreError as caught:
                said = str(caught)
        if faults.count < at:
            break
        assert os.strerror(errno.ENOSPC) in said
        assert leftovers(path) == []
        store = Store.create(path, PROVENANCE)
        if at % 5 == 0:
            assert torch.equal(store.read(RESID, 5, "cond", as_="torch"), stacked(store, RESID)[:, 2, 0])
    assert at > 12
    assert verify(Store.open(path)).ok


def test_what_a_killed_consolidation_left_is_removed(tmp_path: Path) -> None:
    """Its space was taken when it began, and on a full disk the next would find none."""
    store = make_store(tmp_path / "s", seeds=2)
    folder = store.path / "consolidated"
    folder.mkdir()
    (folder / "x.h5.tmp.1").write_bytes(b"left")
    (folder / "0123456789abcdef.h5").write_bytes(b"off the list, but the kill came before it was removed")
    (folder / "notes.h5").write_bytes(b"of somebody else")
    with (folder / "y.h5.tmp.1").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert len(info(store).unlisted) == 4
        (name,) = consolidate(store)
        assert sorted(p.name for p in folder.iterdir()) == sorted(
            [f"{name}.h5", "manifest.jsonl", "notes.h5", "y.h5.tmp.1"]
        )


@pytest.mark.parametrize("keep", [None, 0, 1000])
def test_a_file_that_was_lost_is_made_anew(tmp_path: Path, keep: int | None) -> None:
    store = make_store(tmp_path / "s", seeds=2)
    (name,) = consolidate(store)
    path = store.path / "consolidated" / f"{name}.h5"
    good = path.read_bytes()
    if keep is None:
        path.unlink()
    else:
        path.write_bytes(good[:keep])
    with pytest.raises(StoreError, match=r"site-major file .*open the store anew; else remove .*consolidated"):
        Store.open(store.path).read(RESID, 0, "cond")
    assert consolidate(store) == (name,)
    assert path.read_bytes() == good
    assert consolidate(store) == ()
