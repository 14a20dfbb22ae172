"""Graphs as values and as files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp import edits, select
from interp.errors import InterpError, SelectionError
from tests.edits.labs import lab_and_runs, results

SITES = ["blocks.0.hook_resid_post", "blocks.*.attn.hook_z", "latents.hook_in", "blocks.1.hook_resid_mid"]


KINDS: dict[str, Any] = {
    "scale": lambda site, x, axes: edits.scale(site, x, **axes),
    "zero": lambda site, x, axes: edits.zero(site, rows=1, **axes),
    "add": lambda site, x, axes: edits.add(site, x, 0.5, **axes),
    "clamp": lambda site, x, axes: edits.clamp(site, -1.5, **axes),
    "swap": lambda site, x, axes: edits.swap(site, **axes),
    "patch": lambda site, x, axes: edits.patch(site, 1, rows=[0], **axes),
    "wire": lambda site, x, axes: edits.wire(site, [[x, 0], [0.5, 1]], match="norm", **axes),
    "noise": lambda site, x, axes: edits.noise(site, scale=0.1, seed=int(10 * x), **axes),
    "interpolate": lambda site, x, axes: edits.interpolate(site, torch.full((1,), x), 0.5, **axes),
    "set": lambda site, x, axes: edits.set_to(site, torch.tensor([x]), **axes),
}
DRAWN = st.lists(
    st.tuples(
        st.sampled_from(sorted(KINDS)),
        st.sampled_from(SITES),
        st.floats(-2, 2, width=16),
        st.sampled_from([None, "0", "1:"]),
        st.sampled_from([None, "{0,3}", "11"]),
    ),
    min_size=1,
    max_size=5,
)


def built(drawn: list[tuple[str, str, float, str | None, str | None]]) -> edits.EditGraph:
    return edits.EditGraph(
        tuple(KINDS[kind](site, x, {"step": step, "tokens": tokens}) for kind, site, x, step, tokens in drawn)
    )


@given(drawn=DRAWN)
@settings(max_examples=40, deadline=None)
def test_graphs_come_back_from_files_as_they_were(tmp_path_factory: pytest.TempPathFactory, drawn: Any) -> None:
    graph = built(drawn)
    path = graph.save(tmp_path_factory.mktemp("g") / "edits.json")
    again = edits.load(path)
    assert again == graph
    assert hash(again) == hash(graph)
    assert again.key == graph.key
    assert str(again) == str(graph)
    assert {graph: 1}[again] == 1


@pytest.fixture(scope="module")
def small() -> tuple[Any, Any]:
    return lab_and_runs(steps=2, guidance=1.0)


@given(drawn=DRAWN)
@settings(max_examples=6, deadline=None)
def test_random_graphs_run_the_same_after_a_round_trip(
    small: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory, drawn: Any
) -> None:
    lab, runs = small
    both = built(drawn)
    again = edits.load(both.save(tmp_path_factory.mktemp("g") / "edits.json"))
    first, second = (lab.run(runs[:2], edits=g) for g in (both, again))
    assert torch.equal(results(first), results(second))
    assert first[0].edited == second[0].edited
    assert {one.edit for one in first[0].edited.fired} == set(range(len(both)))


def test_stored_sources_and_selections_are_saved(tmp_path: Path, small: tuple[Any, Any]) -> None:
    lab, runs = small
    kept = edits.run_with(lab, runs[0], (), select("blocks.*.hook_resid_post", frames=-1))
    graph = edits.patch("blocks.*.hook_resid_post", kept, frames=-1) | edits.knockout(
        "blocks.*.attn", select(frames=0), frames=-1
    )
    again = edits.load(graph.save(tmp_path / "graph.json"))
    assert again == graph
    assert torch.equal(results(lab.run(runs[1], edits=again)), results(lab.run(runs[1], edits=graph)))
    assert {p.name for p in tmp_path.iterdir()} == {"graph.json", "graph.safetensors"}


def test_composition_is_associative_and_ordered() -> None:
    a, b, c = edits.zero("blocks.0.hook_mlp_out"), edits.scale("latents.hook_in", 2), edits.swap("latents.hook_out")
    assert (a | b) | c == a | (b | c) == edits.EditGraph((a, b, c))
    assert a | b != b | a
    assert (a | b).key != (b | a).key
    assert str(a) == "zero() at blocks.0.hook_mlp_out"


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "no such site": (lambda: edits.zero("blocks.*.hook_resid_pots"), SelectionError, "did you mean"),
    "no such layer": (lambda: edits.zero("blocks.7.hook_resid_post"), SelectionError, "7"),
    "no such step": (lambda: edits.zero("blocks.0.hook_resid_post", step=9), SelectionError, "2 steps"),
    "no uncond": (lambda: edits.zero("blocks.0.hook_resid_post", branch="uncond"), SelectionError, "guidance"),
    "not writable": (lambda: edits.zero("head.hook_shift"), SelectionError, "cannot write"),
    "no such world": (lambda: edits.patch("blocks.0.hook_resid_post", 5), InterpError, "world 5"),
    "world asked": (lambda: edits.zero("blocks.0.hook_resid_post", rows=4), InterpError, "world 4"),
    "width": (lambda: edits.add("blocks.0.hook_resid_post", torch.ones(7)), InterpError, "does not broadcast"),
    "matrix": (lambda: edits.wire("blocks.0.hook_resid_post", [[1, 0]]), InterpError, "matrix"),
    "batch": (lambda: edits.wire("blocks.0.hook_resid_post", torch.eye(3)), InterpError, "3 worlds"),
    "not a number": (lambda: edits.scale("blocks.0.hook_resid_post", float("nan")), InterpError, "factor"),
    "infinite": (lambda: edits.set_to("blocks.0.hook_resid_post", float("inf")), InterpError, "infinity"),
    "kind": (lambda: edits.noise(kind="ad"), InterpError, "did you mean add"),
    "renoise": (lambda: edits.noise("blocks.0.hook_mlp_out", kind="renoise"), InterpError, "latents.hook_in"),
    "clamp": (lambda: edits.clamp("latents.hook_in", 2, 1), InterpError, "above"),
    "all keys": (lambda: edits.knockout("blocks.*.attn", range(12)), InterpError, "all 12 keys"),
    "keys": (lambda: edits.knockout("blocks.*.attn", [40]), InterpError, "key 40"),
    "text keys": (lambda: edits.knockout("blocks.*.cross_attn", select(frames=0)), InterpError, "text_token"),
    "match": (lambda: edits.mean_over_worlds("latents.hook_in", match="nrm"), InterpError, "norm"),
    "not an edit": (lambda: ["zero"], InterpError, "not an edit"),
    "source": (lambda: edits.patch("latents.hook_in", "that run"), InterpError, "str"),
}


@pytest.mark.parametrize("name", BAD)
def test_malformed_edits_are_refused_before_anything_runs(
    small: tuple[Any, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, runs = small
    monkeypatch.setattr("interp.edits.run.drive", lambda *a: pytest.fail("it ran"))
    make, error, message = BAD[name]
    with pytest.raises(error, match=message):
        lab.run(runs[:2], edits=make())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["edits"][0]["op"].update(name="zro"), "did you mean zero"),
        (lambda d: d["edits"][0].pop("rows"), "rows"),
        (lambda d: d["edits"][1]["op"].update(factor="two"), r"(?s)edit 1.*factor"),
        (lambda d: d["edits"][1]["op"].update(power=2), "power"),
        (lambda d: d["edits"][0].update(selection="blocks.*.hook_nothing"), "edit 0.*hook_nothing"),
        (lambda d: d["edits"][2]["sources"][0].update(kind="magic"), "magic"),
        (lambda d: d["edits"][2]["sources"][0]["values"].update(tensor="0123"), "0123"),
        (lambda d: d.update(format=9), "format"),
    ],
)
def test_malformed_files_are_refused_by_edit_and_field(tmp_path: Path, change: Any, message: str) -> None:
    graph = edits.zero("latents.hook_in") | edits.scale("latents.hook_in", 2) | edits.add("latents.hook_in", 1.0)
    path = graph.save(tmp_path / "g.json")
    said = json.loads(path.read_text())
    change(said)
    path.write_text(json.dumps(said))
    with pytest.raises(InterpError, match=message):
        edits.load(path)


def test_functions_cannot_be_saved(tmp_path: Path) -> None:
    graph = edits.function("latents.hook_in", torch.sin)
    assert "cannot be saved" in str(graph)
    with pytest.raises(InterpError, match="cannot be saved"):
        edits.save(graph, tmp_path / "g.json")


def test_an_edit_that_fires_less_than_planned_is_an_error(
    small: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, runs = small
    monkeypatch.setattr("interp.edits.editor.Editor.on_site", lambda *a: None)
    with pytest.raises(InterpError, match=r"never at .*blocks.0.hook_mlp_out.* 2 of 2 planned"):
        lab.run(runs[0], edits=edits.zero("blocks.0.hook_mlp_out"))


def test_the_receipt_says_where_how_often_and_how_much(small: tuple[Any, Any]) -> None:
    lab, runs = small
    graph = edits.scale("blocks.*.hook_mlp_out", 0.0, step=1) | edits.zero("latents.hook_velocity_cfg", rows=1, step=0)
    receipt = lab.run(runs[:2], edits=graph)[0].edited
    assert [receipt.count(0), receipt.count(1)] == [2, 1]
    assert all(one.change == one.size > 0 for one in receipt.fired)
    assert receipt.fired[0].rows == (1,)
    assert {one.step for one in receipt.fired if one.edit == 0} == {1}
    assert "fired 2 times" in str(receipt)
    again = lab.run(runs[:2], edits=graph)[0].edited
    assert again.key == receipt.key
    assert f"receipt {receipt.key}" in str(receipt)
    other = edits.zero("blocks.*.hook_mlp_out", step=1) | edits.zero("latents.hook_velocity_cfg", rows=1, step=0)
    keys = {lab.run(runs[:2], edits=one)[0].edited.key for one in (graph, other, other.edits[0])}
    assert len(keys) == 3


def test_order_and_overlaps_are_shown_before_anything_runs(
    small: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, runs = small
    site = "blocks.0.hook_resid_post"
    graph = (
        edits.scale("latents.hook_x0", 2.0, step=0)
        | edits.add(site, 1.0, frames=0)
        | edits.zero("blocks.*.hook_resid_post", tokens=[3, 5], rows=0)
        | edits.scale(site, 2.0, frames=2, rows=0)
        | edits.zero(site, rows=1, tokens=[3])
        | edits.scale("latents.hook_in", 2.0, step=1)
    )
    monkeypatch.setattr("interp.edits.run.drive", lambda *a: pytest.fail("it ran"))
    found = edits.order(lab, runs[:2], graph)
    places = [(site, step) for (site, step, _), _ in found.places]
    stream = [f"blocks.{layer}.hook_resid_post" for layer in (0, 1)]
    assert places == [
        (stream[0], 0), (stream[1], 0), ("latents.hook_x0", 0), ("latents.hook_in", 1), (stream[0], 1), (stream[1], 1)
    ]  # fmt: skip
    assert found.places[0][1] == (1, 2, 3, 4)
    pairs = {(one.first, one.second): len(one.places) for one in found.overlaps}
    assert pairs == {(1, 2): 2, (1, 4): 2}  # token 3 is in frame 0; worlds 0 and 1 do not meet
    assert "edit 2 is given what edit 1 left at blocks.0.hook_resid_post, step 0, cond and 1 more places" in str(found)
    assert found.table["edit"].to_list()[:5] == [1, 2, 3, 4, 2]
    assert edits.order(lab, runs[0], edits.patch(site, runs[1])).overlaps == ()
    plain, arrows = (edits.draw(one, tmp_path / f"{i}.png").read_bytes() for i, one in enumerate((graph, found)))
    assert plain[:4] == arrows[:4] == b"\x89PNG"
    assert plain != arrows
