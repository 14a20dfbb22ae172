"""Batches for training: every row once an epoch, the right numbers beside the right labels, whoever reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from interp.errors import StoreError
from interp.store import Store, consolidate
from interp.store.batches import Batch
from interp.store.shuffle import Shuffle
from tests.store.making import HEADS, NORM, RESID, STEPS, labels_of, layout_of, make_store, tensors_of, write_run


@pytest.mark.parametrize("n", [1, 2, 3, 5, 64, 1000, 4097])
def test_a_shuffle_is_a_permutation(n: int) -> None:
    order = Shuffle(n, (3, 1))(np.arange(n))
    assert np.array_equal(np.sort(order), np.arange(n))
    pieces = [Shuffle(n, (3, 1))(np.arange(a, min(a + 7, n))) for a in range(0, n, 7)]
    assert np.array_equal(np.concatenate(pieces), order)
    if n > 5:
        assert not np.array_equal(order, Shuffle(n, (3, 2))(np.arange(n)))


def test_a_shuffle_prefers_no_place() -> None:
    """Over many seeds each thing stands at each place equally often (chi-square, 99.99 %)."""
    n, seeds = 9, 1500
    counts = np.zeros((n, n))
    for seed in range(seeds):
        counts[np.arange(n), Shuffle(n, (seed, 0))(np.arange(n))] += 1
    expected = seeds / n
    assert ((counts - expected) ** 2 / expected).sum() < 115  # 64 degrees of freedom


def all_rows(batches: list[Batch]) -> dict[tuple[int, int, int], tuple[torch.Tensor, float]]:
    out = {}
    for batch in batches:
        targets = batch.target if batch.target is not None else torch.zeros(len(batch))
        for row in range(len(batch)):
            key = (int(batch.step[row]), int(batch.run[row]), int(batch.token[row]))
            assert key not in out
            out[key] = (batch.features[row], float(targets[row]))
    return out


def assert_right(store: Store, batches: list[Batch], steps: tuple[int, ...], tokens: tuple[int, ...]) -> None:
    """Every row of the residual stream once, with its number and its label."""
    rows = all_rows(batches)
    assert len(rows) == len(steps) * len(store) * len(tokens)
    for (step, run, token), (features, target) in rows.items():
        layout = store.layout(store.runs[run])
        kept = layout.site_named(RESID).tokens or range(24)
        wanted = tensors_of(layout)[RESID][STEPS.index(step), 1, list(kept).index(token)]
        assert features.dtype == torch.bfloat16
        assert torch.equal(features, wanted)
        assert np.array_equal(target, labels_of(layout)["on_path"].reshape(-1)[token], equal_nan=True)


@pytest.mark.parametrize("kept", [None, (5, 2, 17)])
@pytest.mark.parametrize("state", ["shards", "consolidated", "both"])
def test_every_row_once(tmp_path: Path, kept: tuple[int, ...] | None, state: str) -> None:
    store = make_store(tmp_path / "s", seeds=3, tokens=kept)
    if state != "shards":
        consolidate(store)
    if state == "both":
        write_run(store, layout_of("run7", seed=7, tokens=kept))
    batches = store.batches(RESID, 10, branch="uncond", label="on_path")
    assert_right(store, list(batches), STEPS, kept or tuple(range(24)))
    chosen = (17, 5)
    some = store.batches(RESID, 4, step=[2, 9], branch="uncond", tokens=chosen, label="on_path")
    assert len(some) == len(list(some)) == -(-some.rows // 4)
    assert_right(store, list(some), (2, 9), chosen)
    backwards = (kept or tuple(range(24)))[::-1]
    assert_right(
        store, list(store.batches(RESID, 50, branch="uncond", tokens=backwards, label="on_path")), STEPS, backwards
    )


def test_orders(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", seeds=2)

    def order(epoch: int, **more: Any) -> list[tuple[int, int, int]]:
        batches = store.batches(RESID, 10, branch="cond", **more)
        batches.set_epoch(epoch)
        return list(all_rows(list(batches)))

    assert order(0) == order(0)
    assert order(0) != order(1) != order(1, seed=1)
    plain = order(0, shuffle=False)
    assert plain == sorted(plain)
    mixed = order(0)
    assert len({run for _, run, _ in mixed[:20]}) == 2
    assert len({step for step, *_ in mixed[:20]}) > 2


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more readers than cores: slow, but the same
def test_reader_processes_share_an_epoch(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", seeds=2)
    batches = store.batches(RESID, 16, branch="uncond", label="on_path")
    for stay in (False, True):  # workers that stay are told of the next epoch
        loader = DataLoader(
            batches, batch_size=None, num_workers=2, multiprocessing_context="fork", persistent_workers=stay
        )
        for epoch in range(2):
            batches.set_epoch(epoch)
            alone, shared = list(batches), list(loader)
            assert len(shared) == len(alone)
            for got, wanted in zip(shared, alone, strict=True):
                assert torch.equal(got.features, wanted.features)
                assert torch.equal(got.token, wanted.token)


def test_sites_without_tokens_and_labels_of_runs(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", seeds=3)
    for site in (NORM, HEADS):
        for batch in store.batches(site, 5, branch="cond", label="route"):
            for row in range(len(batch)):
                layout = store.layout(store.runs[int(batch.run[row])])
                cell = tensors_of(layout)[site][STEPS.index(int(batch.step[row])), 0]
                assert torch.equal(batch.features[row], cell if site == NORM else cell[int(batch.token[row])])
                assert batch.target is not None
                assert batch.target[row] == labels_of(layout)["route"]


def test_damage_is_told_in_training_too(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", seeds=2)
    batches = store.batches(RESID, 8, branch="cond")
    (store.path / "runs/run1.h5").unlink()
    with pytest.raises(StoreError, match=r"run run1: .* is missing"):
        list(batches)
    with pytest.raises(StoreError, match="size=1 or more"):
        store.batches(RESID, 0)
    with pytest.raises(StoreError, match="did you mean"):
        store.batches("blocks.0.hook_resid_pots", 4)
