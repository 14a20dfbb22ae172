"""Captures of edited runs: what a run of the lab keeps, under keys that no clean run has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from interp import edits
from interp.edits.graph import graph_of
from interp.errors import InterpError
from interp.lab import Lab, load
from interp.store import Store
from tests import pipelines
from tests.tracer.runs import specs_of

SITE = "blocks.1.hook_resid_post"
EDIT = edits.scale("blocks.0.hook_mlp_out", 2.0, step=1)


@pytest.fixture(scope="module")
def lab() -> Lab:
    return load(pipelines.tiny_i2v(two_experts=True, scheduler="unipc"))


def runs_of(lab: Lab, seeds: list[int]) -> Any:
    return specs_of(lab, pipelines.call_arguments(lab.pipe, guidance=5.0) | {"max_sequence_length": 16}, seeds)


def captured(lab: Lab, runs: Any, folder: Path, **options: Any) -> Store:
    return lab.capture(runs, SITE, to=folder, dtype="float32", progress=False, **options)


def test_what_is_kept_is_what_a_run_with_the_edits_keeps(lab: Lab, tmp_path: Path) -> None:
    """A source in another run joins each batch, and takes no shard."""
    runs = runs_of(lab, [1, 2])
    graph = EDIT | edits.patch("blocks.0.hook_resid_post", runs_of(lab, [5])[0], step=0, frames=0)
    store = captured(lab, runs, tmp_path / "store", edits=graph)
    expected = lab.run(runs, SITE, edits=graph)
    clean = lab.run(runs, SITE)
    for key in store.runs:  # in the order of their keys
        (row,) = (i for i, run in enumerate(runs) if run.seed == store.layout(key).provenance["seed"])
        kept = store.read(SITE, runs=[key], branch=["cond", "uncond"], as_="torch")[0]
        assert torch.equal(kept, expected[row].captured[SITE])
        assert not torch.equal(kept, clean[row].captured[SITE])
    assert len(store.runs) == 2


def test_clean_and_edited_runs_share_a_store_and_no_key(lab: Lab, tmp_path: Path) -> None:
    runs = runs_of(lab, [1])
    captured(lab, runs, tmp_path / "store")
    other = edits.scale("blocks.0.hook_mlp_out", 3.0, step=1)
    for edit in (EDIT, other, EDIT):  # the last is there already
        store = captured(lab, runs, tmp_path / "store", edits=edit)
    assert len(store.runs) == 3
    assert runs[0].key in store.runs
    said = [store.layout(key).provenance.get("edits") for key in store.runs if key != runs[0].key]
    assert {one["key"] for one in said} == {graph_of(EDIT).key, graph_of(other).key}
    assert all(one["graph"]["edits"][0]["op"]["name"] == "scale" for one in said)
    assert "edits" not in store.layout(runs[0].key).provenance


def test_the_expert_that_an_edit_chose_is_the_one_in_the_store(lab: Lab, tmp_path: Path) -> None:
    runs = runs_of(lab, [1])
    low = edits.use_expert("low", step=0)
    store = captured(lab, runs, tmp_path / "store", edits=low)
    assert lab.schedule(runs[0].settings).experts[0] == "high"
    assert store.layout(store.runs[0]).experts[0] == "low"
    kept = store.read(SITE, branch=["cond", "uncond"], as_="torch")[0]
    assert torch.equal(kept, lab.run(runs[0], SITE, edits=low).captured[SITE])


def test_edits_between_worlds_keep_their_batch(lab: Lab, tmp_path: Path) -> None:
    runs = runs_of(lab, [1, 2, 3])
    ensemble = edits.mean_over_worlds("blocks.0.hook_resid_post", step=0)
    with pytest.raises(InterpError, match=r"depends on which runs share a batch.*one of 2"):
        captured(lab, runs, tmp_path / "no", edits=ensemble, batch_size=2)
    three = captured(lab, runs, tmp_path / "store", edits=ensemble)
    two = captured(lab, runs[:2], tmp_path / "store", edits=ensemble)
    assert len(two.runs) == 5
    assert set(three.runs) <= set(two.runs)


def test_edits_that_cannot_be_described_are_refused(lab: Lab, tmp_path: Path) -> None:
    runs = runs_of(lab, [1])
    with pytest.raises(InterpError, match="cannot be saved"):
        captured(lab, runs, tmp_path / "a", edits=edits.function(SITE, lambda x: x))
    with pytest.raises(InterpError, match="holds no edit"):
        captured(lab, runs, tmp_path / "b", edits=())
    with pytest.raises(InterpError, match="share_text=True is for clean runs"):
        captured(lab, runs, tmp_path / "c", edits=EDIT, share_text=True)
    assert not list(tmp_path.iterdir())


def test_the_description_of_an_edited_run_is_not_run_as_a_clean_one(lab: Lab) -> None:
    from interp.edits.captured import Edited

    (spec,) = Edited.of(EDIT).specs(runs_of(lab, [1]), 1)
    with pytest.raises(InterpError, match="description of an edited run"):
        lab.run(spec)
