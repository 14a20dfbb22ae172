"""What may be asked of a store, and how it answers when something else is meant than is there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp.errors import StoreError
from interp.store import Store, consolidate
from tests.store.making import (
    HEADS,
    NORM,
    PROVENANCE,
    RESID,
    layout_of,
    make_store,
    stacked,
    tensors_of,
    write_run,
)


def test_runs_of_different_sizes_share_a_store(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", seeds=2)
    write_run(store, layout_of("wide", seed=7, rows=5))
    with pytest.raises(
        StoreError, match=r"\[24, 16\] in 2 runs \(grid 2 x 3 x 4\), \[40, 16\] in 1 runs.*runs=.*tokens="
    ):
        store.read(RESID, 0, "cond")
    with pytest.raises(StoreError, match="choose runs of one size"):
        store.labels("on_path")
    assert store.read(RESID, 0, "cond", runs=["wide"]).shape == (1, 40, 16)
    small = store.runs_frame.filter(store.runs_frame["rows"] == 3)["run"]
    assert store.read(RESID, 0, "cond", runs=small).shape == (2, 24, 16)
    last = store.read(RESID, 0, "cond", tokens=lambda grid: [grid.tokens - 1], as_="torch")
    for row, run in zip(last, store.runs, strict=True):
        assert torch.equal(row[0], tensors_of(store.layout(run))[RESID][0, 0, -1])
    assert store.labels("route").tolist() == [0, 1, 1]


@pytest.mark.usefixtures("nobody_checks_types")
@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"site": "blocks.0.hook_resid_mid", "step": 0}, "did you mean blocks.0.hook_resid_post"),
        ({"site": RESID, "step": 1, "branch": "cond"}, "step 1 was not kept; there are steps 0, 2, 5, 9"),
        ({"site": RESID, "step": slice(6, 9), "branch": "cond"}, "was not kept"),
        ({"site": RESID, "step": slice(-1, None), "branch": "cond"}, "counts from the end"),
        ({"site": RESID, "step": 0}, "branches cond, uncond; say which"),
        ({"site": HEADS, "step": 0, "branch": "uncond"}, "branch 'uncond' was not kept; there are cond"),
        ({"site": RESID, "step": 0, "branch": "cond", "runs": ["nope"]}, "run 'nope' is not among"),
        ({"site": RESID, "step": 0, "branch": "cond", "runs": []}, "no runs to read"),
        ({"site": RESID, "step": 0, "branch": "cond", "tokens": [24]}, "the grid, which has tokens 0-23"),
        ({"site": NORM, "step": 0, "branch": "cond", "tokens": [2]}, "no axis 'token'"),
        ({"site": RESID, "step": 5.0, "branch": "cond"}, "step 5.0 is not a step"),
        ({"site": RESID, "step": [5, 2.5], "branch": "cond"}, "step 2.5 is not a step"),
        ({"site": RESID, "step": "25", "branch": "cond"}, "step '25' is not a step"),
        ({"site": RESID, "step": [True, False], "branch": "cond"}, "step True is not a step"),
        ({"site": RESID, "step": 0, "branch": []}, r"branch \[\] was not kept; there are cond, uncond"),
        ({"site": RESID, "step": 0, "branch": "cond", "tokens": [0.5, 3]}, r"tokens=\[0.5, 3.0\] names none"),
        ({"site": RESID, "step": 0, "branch": "cond", "tokens": []}, "names none"),
        ({"site": RESID, "step": 0, "branch": "cond", "tokens": [True, False]}, "a mask of 2, and the grid has 24"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, asked: dict[str, Any], words: str) -> None:
    store = make_store(tmp_path / "s", seeds=1)
    with pytest.raises(StoreError, match=words):
        store.read(**asked)


def test_runs_that_were_not_kept_alike_are_not_mixed(tmp_path: Path) -> None:
    """As many steps, or branches, but others: one array of them would be of nothing."""
    store = make_store(tmp_path / "s", seeds=2)
    layout = layout_of("run2", seed=2)
    write_run(store, replace(layout, steps=(0, 2, 5, 8)))
    sites = tuple(replace(site, branches=("uncond",)) if site.site == HEADS else site for site in layout.sites)
    write_run(store, replace(layout, run="run3", sites=sites))
    for consolidated in (False, True):
        if consolidated:
            consolidate(store)
        assert store.read(NORM, 5, "cond").shape == (4, 2)
        for step in (None, slice(5, None)):
            for as_ in ("numpy", "polars"):
                with pytest.raises(StoreError, match=r"not kept alike: .*9 of cond in 3 runs; .*8 of cond in 1 runs"):
                    store.read(NORM, step, "cond", as_=as_)
            with pytest.raises(StoreError, match="not kept alike"):
                store.batches(NORM, 4, step, "cond")
        with pytest.raises(StoreError, match="steps 5 of cond in 3 runs; steps 5 of uncond in 1 runs"):
            store.read(HEADS, 5)
        with pytest.raises(StoreError, match="not kept alike"):
            store.batches(HEADS, 4, 5)
        assert len(store.read(NORM, None, "cond", ["run0", "run1", "run3"])) == 3


@pytest.mark.usefixtures("nobody_checks_types")
def test_steps_and_tokens_may_be_said_in_several_ways(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", seeds=2)
    wanted = stacked(store, RESID)[:, 2, 0].float().numpy()
    for step in (5, np.int64(5), torch.tensor(5)):
        assert np.array_equal(store.read(RESID, step, "cond"), wanted)
    for steps in ([5], (5,), range(5, 6), np.array([5]), torch.tensor([5]), slice(3, 6)):
        assert np.array_equal(store.read(RESID, steps, "cond"), wanted[:, None])
    mask = np.zeros((2, 3, 4), bool)
    mask[1, :2, 3] = True
    for tokens in ([15, 19], np.array([15, 19]), torch.tensor([15, 19]), mask, mask.reshape(-1), lambda grid: mask):
        assert np.array_equal(store.read(RESID, 5, "cond", tokens=tokens), wanted[:, [15, 19]])


def test_labels_of_two_kinds_are_not_made_one(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s", PROVENANCE)
    for run, labels in {"a": {"x": 1, "y": True, "z": 1}, "b": {"x": "one", "y": 1, "z": 1.5}}.items():
        layout = layout_of(run)
        with store.writer(run, layout) as writer:
            for site, tensor in tensors_of(layout).items():
                for i, j in np.ndindex(tensor.shape[:2]):
                    writer.write(site, i, j, tensor[i, j])
            writer.finish(labels)
    for name, words in {"x": "number, text", "y": "bool, number"}.items():
        with pytest.raises(StoreError, match=f"label '{name}' is of different kinds in these runs .{words}"):
            store.labels(name)
    assert store.labels("z").tolist() == [1, 1.5]
    assert store.labels("model").tolist() == ["tiny", "tiny"]
