"""Merging stores."""

from __future__ import annotations

from pathlib import Path

import h5py
import pytest
import torch

from interp.errors import StoreError
from interp.store import Store, merge, verify
from tests.store.faults import failing_at_each_call, leftovers
from tests.store.making import HEADS, NORM, PROVENANCE, RESID, layout_of, stacked, two_stores, write_run
from tests.store.test_damage import flip


def test_merge(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    merged = merge(tmp_path / "m", two_stores(tmp_path), progress=lambda *a: seen.append(a))
    assert merged.runs == ("run0", "run1", "run2")
    assert seen == [("run0", 1, 3), ("run1", 2, 3), ("run2", 3, 3)]
    assert verify(merged).ok
    for site in (RESID, HEADS, NORM):
        assert torch.equal(merged.read(site, 5, "cond", as_="torch"), stacked(merged, site)[:, 2, 0])
    assert merge(tmp_path / "m", [tmp_path / "b"]).runs == merged.runs


def test_merging_what_does_not_belong_together_is_refused_before_anything_is_copied(tmp_path: Path) -> None:
    first, second = two_stores(tmp_path)
    other = Store.create(tmp_path / "c", {**PROVENANCE, "model_hash": "other"})
    write_run(other, layout_of("run3", seed=3))
    with pytest.raises(StoreError, match=r"a and .*c do not .*: model_hash is 'abc' in the first and 'other' in"):
        merge(tmp_path / "m", [first, other.path])
    store = Store.open(second)
    store.drop(["run1"])
    write_run(store, layout_of("run1", seed=7))
    with pytest.raises(StoreError, match=r"run run1 of .* differs"):
        merge(tmp_path / "n", [first, second])
    assert Store.open(tmp_path / "n").runs == ()


def test_a_damaged_run_is_not_merged(tmp_path: Path) -> None:
    first, second = two_stores(tmp_path)
    with h5py.File(second / "runs/run2.h5") as file:
        at = file["sites"][RESID].id.get_offset()
    flip(second / "runs/run2.h5", at, 0)
    with pytest.raises(StoreError, match=r"nothing more is merged: run run2: .*damaged"):
        merge(tmp_path / "m", [first, second])
    assert Store.open(tmp_path / "m").runs == ("run0", "run1")


def test_merging_onto_a_disk_that_fails_at_any_call(tmp_path: Path) -> None:
    """What was merged is whole, and merging again goes on."""
    sources = two_stores(tmp_path)

    def after(said: str) -> None:
        if (tmp_path / "m/store.json").exists():
            assert verify(Store.open(tmp_path / "m")).ok
            Store.create(tmp_path / "m", PROVENANCE)
        assert leftovers(tmp_path) == []

    assert failing_at_each_call(lambda: merge(tmp_path / "m", sources), after) > 12
    merged = Store.open(tmp_path / "m")
    assert merged.runs == ("run0", "run1", "run2")
    assert verify(merged).ok
