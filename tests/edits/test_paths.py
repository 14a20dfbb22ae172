"""Path patching and circuit search, against plain hooks and brute force on a two-layer model."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from interp import edits, select
from interp.circuits import search
from interp.errors import InterpError, SelectionError
from interp.paths import path_patch
from tests.edits.labs import lab_and_runs, results, state

HELD = ["blocks.0.attn.hook_z", "blocks.1.attn.hook_z", "blocks.0.cross_attn.hook_z", "blocks.1.cross_attn.hook_z"]
HELD += ["blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"]


@pytest.mark.parametrize(
    ("sender", "receiver"),
    [
        (select("blocks.0.attn.hook_z", head=1, frames=0), "blocks.1.attn.hook_q"),
        (select("blocks.0.hook_mlp_out"), "blocks.1.mlp.hook_in"),
        (select("blocks.0.hook_cross_attn_out"), "head.hook_in"),
    ],
)
def test_path_patching_is_what_it_says_in_three_runs(sender: Any, receiver: str) -> None:
    """Reference: one run after the other, each with captures of the one before."""
    lab, (clean, source, _) = lab_and_runs(steps=2, guidance=4.0)
    before = state(lab.pipe) if results(lab.run(clean)) is not None else ""
    got = path_patch(lab, clean, source, sender, receiver, step=1)
    assert state(lab.pipe) == before
    kept_clean = edits.run_with(lab, clean, (), HELD)
    kept_source = edits.run_with(lab, source, (), sender)
    helper = edits.patch(select(HELD), kept_clean, step=1) | edits.patch(sender, kept_source, step=1)
    received = edits.run_with(lab, clean, helper, receiver)
    expected = lab.run(clean, edits=edits.patch(receiver, received, step=1))
    torch.testing.assert_close(results(got), results(expected), atol=1e-5, rtol=1e-5)
    assert float((results(got) - results(lab.run(clean))).abs().max()) > 1e-5


def test_a_path_to_all_that_follows_is_a_plain_patch() -> None:
    """With one layer between them there is only one way to go: the direct path to the head is the whole effect."""
    lab, (clean, source, _) = lab_and_runs(steps=1, guidance=1.0)
    sender = "blocks.1.hook_mlp_out"
    got = path_patch(lab, clean, source, sender, "head.hook_in", step=0)
    plain = lab.run(clean, edits=edits.patch(sender, source))
    torch.testing.assert_close(results(got), results(plain), atol=1e-5, rtol=1e-5)


def test_paths_that_cannot_be_are_refused() -> None:
    lab, (clean, source, _) = lab_and_runs(steps=1, guidance=1.0)
    with pytest.raises(SelectionError, match="no output of attention"):
        path_patch(lab, clean, source, "blocks.0.hook_resid_post", "head.hook_in", step=0)
    with pytest.raises(SelectionError, match="none comes after"):
        path_patch(lab, clean, source, "blocks.1.hook_mlp_out", "blocks.0.attn.hook_q", step=0)
    with pytest.raises(InterpError, match="not a world"):
        path_patch(lab, clean, 1, "blocks.0.hook_mlp_out", "head.hook_in", step=0)


PARTS = [f"blocks.{layer}.hook_{op}" for layer in (0, 1) for op in ("attn_out", "mlp_out")]
CANDIDATES = [select(site, step=0) for site in PARTS]


def mean(run: Any) -> float:
    """A metric."""
    return float(run.x0_hat[:, -1].mean())


@pytest.fixture(scope="module")
def brute() -> tuple[Any, Any, Any, dict[frozenset[int], float]]:
    """Every subset of the candidates, each patched in a run of its own."""
    lab, (clean, source, _) = lab_and_runs(steps=1, guidance=1.0)
    kept = edits.run_with(lab, source, (), PARTS)
    values = {}
    for size in range(len(PARTS) + 1):
        for chosen in itertools.combinations(range(len(PARTS)), size):
            graph = edits.EditGraph(tuple(edits.patch(CANDIDATES[i], kept) for i in chosen))
            values[frozenset(chosen)] = mean(edits.run_with(lab, clean, graph))
    return lab, clean, source, values


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("goal", ["keep", "destroy"])
def test_greedy_search_against_every_subset(brute: Any, goal: str, early: bool, tmp_path: Path) -> None:
    lab, clean, source, values = brute
    found = search(lab, clean, source, CANDIDATES, mean, goal=goal, early=early, batch_size=3)
    everything = frozenset(range(len(PARTS)))
    span = values[frozenset()] - values[everything]
    chosen: list[int] = []
    target = values[frozenset()] if goal == "keep" else values[everything]
    while len(chosen) < len(PARTS):

        def after(one: int) -> float:
            now = frozenset((*chosen, one))
            return abs(values[everything - now if goal == "keep" else now] - target)

        chosen.append(min(sorted(everything - set(chosen)), key=after))
    assert list(found.order) == [CANDIDATES[i] for i in chosen]
    for k in range(len(PARTS) + 1):
        now = frozenset(chosen[:k])
        assert abs(found.faithfulness[k] - (values[everything - now] - values[everything]) / span) < 1e-3
        assert abs(found.completeness[k] - (values[now] - values[everything]) / span) < 1e-3
    assert found.faithfulness[-1] == found.completeness[0] == 1
    assert found.faithfulness[0] == found.completeness[-1] == 0
    assert found.runs <= 15
    assert found.table["size"].to_list() == [0, 1, 2, 3, 4]
    assert found.plot(tmp_path / "circuit.png").is_file()
    best = min(
        (len(s) for s in values if (values[everything - s] - values[everything]) / span >= 0.9), default=len(PARTS)
    )
    if goal == "keep":
        assert len(found.smallest(0.9)) >= best


def test_a_search_by_a_given_order_runs_nested_sets_only(brute: Any) -> None:
    lab, clean, source, _ = brute
    found = search(lab, clean, source, CANDIDATES, mean, order=[0.1, -3.0, 0.5, 2.0])
    assert list(found.order) == [CANDIDATES[i] for i in (1, 3, 2, 0)]
    assert found.runs <= 2 * len(PARTS)
    with pytest.raises(InterpError, match="order has 1"):
        search(lab, clean, source, CANDIDATES, mean, order=[1.0])
    with pytest.raises(InterpError, match="goal"):
        search(lab, clean, source, CANDIDATES, mean, goal="find")
