"""Replay against the full rerun, to the bit, and sweeps against plain reruns."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import interp
from interp import edits
from interp.errors import InterpError, OutputError, SelectionError
from interp.metrics import Margin, Probability, Score
from interp.replay import record, replay, unedited
from interp.sweep import fitting, plan_cells, pooled, sweep
from interp.sweep_result import Sweep
from tests.edits.labs import KINDS, lab_and_runs, results, state

EDITS = {
    "late step": edits.scale("blocks.1.hook_resid_post", 1.5, step=2),
    "two steps": edits.add("blocks.0.hook_mlp_out", 0.3, step=1) | edits.swap("blocks.1.hook_resid_mid", step=3),
    "latents": edits.noise(step=2, kind="renoise"),
    "velocity": edits.scale("latents.hook_velocity_cond", 1.1, step=3),
    "other run": edits.patch("blocks.1.attn.hook_z", 1, rows=0, step=1, branch="uncond"),
}


@pytest.mark.parametrize("scheduler", ["euler", "unipc"])
@pytest.mark.parametrize("kind", KINDS)
def test_replay_equals_the_full_rerun_to_the_bit(kind: str, scheduler: str) -> None:
    lab, runs = lab_and_runs(kind, scheduler, steps=4)
    recording, before = record(lab, runs[:2]), state(lab.pipe)
    assert torch.equal(results(unedited(lab, recording)), results(lab.run(runs[:2])))
    for name, graph in EDITS.items():
        whole = lab.run(runs[:2], edits=graph)
        again = replay(lab, recording, graph)
        for a, b in zip(whole, again, strict=True):
            assert torch.equal(a.trajectory.latents, b.trajectory.latents), name
            assert torch.equal(a.trajectory.x0_hat, b.trajectory.x0_hat), name
        assert whole[0].edited == again[0].edited
    assert state(lab.pipe) == before


@pytest.mark.parametrize("scheduler", ["euler", "unipc"])
def test_replay_from_a_layer_equals_the_full_rerun_to_the_bit(scheduler: str) -> None:
    lab, runs = lab_and_runs(scheduler=scheduler, steps=3, layers=3)
    recording = record(lab, runs[:2], keep=[(1, 1)])
    graph = edits.patch("blocks.1.hook_mlp_out", 1, rows=0, step=1) | edits.scale("blocks.2.hook_attn_out", 2, step=1)
    ran = []
    handle = lab.pipe.transformer.blocks[0].attn1.register_forward_hook(lambda *a: ran.append(1))
    again = replay(lab, recording, graph, stop=2)
    handle.remove()
    whole = lab.run(runs[:2], edits=graph)
    assert not ran
    for a, b in zip(whole, again, strict=True):
        assert torch.equal(a.trajectory.x0_hat[:2], b.trajectory.x0_hat)


def test_rows_of_a_recording_are_runs_of_their_own() -> None:
    lab, runs = lab_and_runs(scheduler="unipc", steps=4)
    picked = record(lab, runs).rows([2, 0, 2])
    graph = edits.scale("blocks.0.hook_resid_post", 1.2, step=2, rows=[0])
    got = replay(lab, picked, graph)
    expected = lab.run([runs[2], runs[0], runs[2]], edits=graph)
    torch.testing.assert_close(results(got), results(expected), atol=1e-5, rtol=1e-5)
    with pytest.raises(InterpError, match="row 7"):
        picked.rows([7])


def test_what_cannot_be_replayed_is_refused() -> None:
    lab, runs = lab_and_runs(steps=2, guidance=1.0)
    recording = record(lab, runs[0])
    with pytest.raises(InterpError, match="no edit"):
        replay(lab, recording, ())
    with pytest.raises(InterpError, match="not in the recording"):
        replay(lab, recording, edits.patch("blocks.0.hook_resid_post", runs[1]))
    with pytest.raises(SelectionError, match="makes steps"):
        edits.run_with(lab, runs[0], edits.zero("blocks.0.hook_mlp_out", step=1), stop=1)


def last_frame(run: Any) -> float:
    """A metric: mean of the last latent frame of the finished latents."""
    return float(run.trajectory.result[:, -1].mean())


def early_frame(run: Any) -> float:
    """The same of x0_hat."""
    return float(run.x0_hat[:, -1].mean())


def test_a_sweep_equals_plain_reruns(tmp_path: Path) -> None:
    lab, runs = lab_and_runs(scheduler="unipc", steps=3)
    template = edits.patch("blocks.*.hook_resid_post", runs[1], frames=-1)
    over = {"step": range(3), "layer": range(2)}
    found = sweep(lab, runs[0], template, over, last_frame, batch_size=4, to=tmp_path / "cells.jsonl")
    clean = last_frame(lab.run(runs[0], edits=()))
    kept = edits.run_with(lab, runs[1], (), "blocks.*.hook_resid_post")
    for row in found.table.iter_rows(named=True):
        edit = edits.patch(f"blocks.{row['layer']}.hook_resid_post", kept, step=row["step"], frames=-1)
        assert abs(row["value"] - last_frame(lab.run(runs[0], edits=edit))) < 1e-5
        assert abs(row["effect"] - (row["value"] - clean)) < 1e-5
    assert found.grid().shape == (3, 2)
    assert found.plot(tmp_path / "map.png").stat().st_size > 1000


def test_an_early_sweep_with_placebos_stops_at_the_step_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, runs = lab_and_runs(steps=3, guidance=1.0)
    template = edits.patch("blocks.*.hook_resid_post", runs[1])
    to = tmp_path / "cells.jsonl"

    def found() -> Any:
        over = {"step": [0, 1], "layer": [0, 1]}
        return sweep(lab, runs[0], template, over, early_frame, early=True, placebos=3, to=to)

    first = found()
    for row in first.table.iter_rows(named=True):
        edit = edits.patch(f"blocks.{row['layer']}.hook_resid_post", runs[1], step=row["step"])
        one = edits.run_with(lab, runs[0], edit, stop=row["step"] + 1)
        assert abs(row["value"] - early_frame(one)) < 1e-5
        assert row["placebo_low"] <= row["placebo"] <= row["placebo_high"]
        assert row["p"] in (0.25, 0.5, 0.75, 1.0)
    monkeypatch.setattr("interp.sweep.replay", lambda *a, **k: pytest.fail("it ran again"))
    assert found().table.equals(first.table)
    lines = to.read_text().splitlines(keepends=True)
    to.write_text("".join(lines[:-1]) + lines[-1][:20])  # stopped while it wrote
    monkeypatch.undo()
    np.testing.assert_allclose(found().table.to_numpy(), first.table.to_numpy(), atol=1e-5)  # a batch of one cell now
    assert to.read_text().splitlines()[:-1] == [line.rstrip() for line in lines[:-1]]
    assert len(to.read_text().splitlines()) == len(lines)
    to.write_text("{}\n")
    with pytest.raises(OutputError, match="another sweep"):
        found()


def probe(run: Any) -> float:
    """A metric of a hidden state: a fixed direction of the last block's stream in the last step that was run."""
    return float(run.captured["blocks.1.hook_resid_post"][-1, 0].mean(0) @ torch.linspace(-1, 1, 24))


@pytest.mark.parametrize("early", [False, True])
def test_a_sweep_is_read_by_a_probe_of_a_hidden_state(early: bool) -> None:
    lab, runs = lab_and_runs(steps=3, guidance=1.0)
    seen, over = "blocks.1.hook_resid_post", {"step": [0, 1], "layer": [0, 1]}
    template = edits.patch("blocks.*.hook_mlp_out", runs[1])
    found = sweep(lab, runs[0], template, over, probe, early=early, capture=seen)
    for row in found.table.iter_rows(named=True):
        stop = row["step"] + 1 if early else None
        edit = edits.patch(f"blocks.{row['layer']}.hook_mlp_out", runs[1], step=row["step"])
        assert abs(row["value"] - probe(edits.run_with(lab, runs[0], edit, seen, stop=stop))) < 1e-5
        assert abs(row["clean"] - probe(edits.run_with(lab, runs[0], (), seen, stop=stop))) < 1e-5
    assert found.table["effect"].abs().min() > 1e-4  # type: ignore[operator]  # numbers


def test_functions_are_swept_too_but_not_into_a_file(tmp_path: Path) -> None:
    lab, runs = lab_and_runs(steps=2, guidance=1.0)
    template, over = edits.function("blocks.*.hook_mlp_out", torch.zeros_like), {"layer": [0, 1]}
    found = sweep(lab, runs[0], template, over, last_frame)
    zeros = sweep(lab, runs[0], edits.zero("blocks.*.hook_mlp_out"), over, last_frame)
    assert found.table.equals(zeros.table)
    with pytest.raises(InterpError, match="cannot be saved"):
        sweep(lab, runs[0], template, over, last_frame, to=tmp_path / "cells.jsonl")


def table(effects: list[float], draws: list[list[float]]) -> Sweep:
    """A sweep over two layers, made up."""
    frame = pl.DataFrame({"layer": [0, 1], "value": [e + 1 for e in effects], "clean": [1.0, 1.0], "effect": effects})
    rows = [{"layer": i, "draw": k, "effect": e} for i, many in enumerate(draws) for k, e in enumerate(many)]
    return Sweep(frame, 1.0, ("layer",), pl.DataFrame(rows))


def test_sweeps_of_several_runs_are_pooled() -> None:
    many = [table([1.0 + k, 0.1], [[0.5, -0.5, 0.2], [0.3 + k, -0.3, 0.0]]) for k in range(3)]
    found = pooled(many).table
    assert found["effect"].to_list() == pytest.approx([2.0, 0.1])
    assert found["n"].to_list() == [3, 3]
    assert 1.0 <= found["low"][0] < 2.0 < found["high"][0] <= 3.0
    assert found["low"][1] == pytest.approx(found["high"][1]) == pytest.approx(0.1)
    # by chance the means over runs are 0.5, -0.5, 0.2 in layer 0 and 1.3, -0.3, 0.0 in layer 1
    assert found["p"].to_list() == [0.25, 0.75]
    with pytest.raises(InterpError, match="two sweeps"):
        pooled(many[:1])
    other = Sweep(many[0].table.with_columns(layer=pl.Series([0, 2])), 1.0, ("layer",))
    with pytest.raises(InterpError, match="different cells"):
        pooled([many[0], other])


def test_a_recording_is_swept_as_its_run_is() -> None:
    lab, runs = lab_and_runs(steps=2, guidance=1.0)
    template, over = edits.scale("blocks.*.hook_mlp_out", 2.0), {"step": [0, 1], "layer": [0, 1]}
    recording = record(lab, runs[0])  # keeps no residual streams, so that rows are computed in common
    first = sweep(lab, runs[0], template, over, last_frame).table
    again = sweep(lab, recording, template, over, last_frame, batch_size=3).table
    np.testing.assert_allclose(first["value"], again["value"], atol=1e-5)
    one = sweep(lab, runs[0], template, over, last_frame, batch_size=1).table
    for row in one.iter_rows(named=True):
        edit = edits.scale(f"blocks.{row['layer']}.hook_mlp_out", 2.0, step=row["step"])
        assert row["value"] == last_frame(lab.run(runs[0], edits=edit))  # to the bit
    with pytest.raises(InterpError, match="of one run"):
        sweep(lab, record(lab, runs[:2]), template, over, last_frame)


def test_batches_fit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    lab, runs = lab_and_runs(steps=1)
    space = lab.space(runs[0])
    row = 4 * 12 * (16 * 24 + 3 * 32)
    for free, rows in ((2 * row * 5.5, 5), (0, 1), (1e15, 16)):
        monkeypatch.setattr("interp.sweep._free_memory", lambda free=free: free)
        assert fitting(lab.pipe, space) == rows


def test_tasks_give_metrics() -> None:
    task = interp.tasks.get("maze", size=4)
    clean, corrupt = task.pair(seed=0)
    routes = (task.answer(clean), task.answer(corrupt))
    shown = SimpleNamespace(frames=task.render(clean), early_frames=task.render(corrupt))
    run: Any = shown
    early = {"candidates": routes, "early": True}
    assert Margin(task, clean, routes)(run) == pytest.approx(task.margin(clean, shown.frames, routes))
    assert Margin(task, clean, routes)(run) > 0.9 > -0.9 > Margin(task, clean, **early)(run)
    assert Probability(task, clean, routes)(run) > 0.9
    assert Probability(task, clean, **early)(run) < 0.1
    assert (Score(task, clean)(run), Score(task, clean, early=True, what="shortest")(run)) == (1.0, 0.0)
    assert len({m.key for m in (Margin(task, clean), Margin(task, corrupt), Margin(task, clean, routes))}) == 3
    with pytest.raises(InterpError, match="no 'sloved'"):
        Score(task, clean, what="sloved")(run)
    with pytest.raises(InterpError, match="candidates="):
        Margin(task, clean)(run)


def test_sweeps_refuse_what_they_cannot_do() -> None:
    lab, runs = lab_and_runs(steps=2, guidance=1.0)
    with pytest.raises(SelectionError, match="5"):
        plan_cells(lab, runs[0], edits.zero("blocks.*.hook_mlp_out"), {"layer": [0, 5]})
    with pytest.raises(InterpError, match="worlds"):
        plan_cells(lab, runs[0], edits.mean_over_worlds("blocks.*.hook_mlp_out"), {"layer": [0]})
    with pytest.raises(InterpError, match="no source"):
        plan_cells(lab, runs[0], edits.zero("blocks.*.hook_mlp_out"), {"layer": [0]}, placebos=2)
    with pytest.raises(InterpError, match="over"):
        plan_cells(lab, runs[0], edits.zero("blocks.*.hook_mlp_out"), {"layer": []})


def test_random_changes_are_as_large_as_the_patch() -> None:
    lab, runs = lab_and_runs(steps=1, guidance=1.0)
    site = "blocks.0.hook_resid_post"
    real = lab.run(runs[:2], edits=edits.patch(site, 1, rows=0))[0].edited.fired[0]
    random = [lab.run(runs[:2], edits=edits.random_change(site, 1, rows=0, seed=s))[0].edited.fired[0] for s in (0, 1)]
    np.testing.assert_allclose([one.change for one in random], real.change, rtol=1e-4)
