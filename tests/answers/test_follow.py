"""Tables of answers: planted trajectories give the events that were planted; the model's are those of its videos."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

import interp
from interp.answers import COLUMNS, EVENTS, RUNS, AnswerTrajectories, follow, read_answers, read_runs
from interp.errors import InterpError
from interp.runspec import RunSpec

PLANTED = ("empty", "both", "blend", "b", "b", "a", "blend", "a", "a")
"""What the run shows: nothing, two routes, their mean, route 1 twice, route 0, doubt, route 0 to the end."""


@pytest.fixture(scope="module")
def planted() -> tuple[Any, list[RunSpec], AnswerTrajectories]:
    task = interp.tasks.get("maze", size=5)
    sample = task.sample(1, fork=True, apart=4)[0]
    runs = [RunSpec("m", "h", sample, seed) for seed in (0, 1)]
    a, b = (task.render(sample, k)[-1:] for k in (0, 1))
    first = task.render(sample, 0)[:1]
    shown = {
        "a": a, "b": b, "empty": first, "blend": ((a.astype(int) + b) // 2).astype(np.uint8),
        "both": np.where((a != first).any(-1, keepdims=True), a, b),
    }  # fmt: skip
    videos = [(step, 1 - step / 9, [shown[name], shown["b"]]) for step, name in enumerate(PLANTED)]
    return task, runs, read_answers(task, runs, videos)


def of_run(table: pl.DataFrame, run: RunSpec) -> pl.DataFrame:
    return table.filter(pl.col("run") == run.key)


def test_columns_are_the_documented_ones(planted: tuple[Any, list[RunSpec], AnswerTrajectories]) -> None:
    found = planted[2]
    assert found.steps.columns == list(COLUMNS)
    assert found.events.columns == list(EVENTS)
    assert found.runs.columns == list(RUNS)


def test_planted_steps_are_read(planted: tuple[Any, list[RunSpec], AnswerTrajectories]) -> None:
    _, runs, found = planted
    rows = of_run(found.steps, runs[0])
    assert rows["mode"].to_list() == ["empty", "several", "blend", "one", "one", "one", "blend", "one", "one"]
    assert rows["live"].to_list() == [2, 2, 2, 1, 1, 1, 2, 1, 1]
    assert rows["favourite"].to_list()[3:6] == [1, 1, 0]
    assert rows["state"].to_list() == ["none"] * 3 + ["right"] * 3 + ["none"] + ["right"] * 2
    assert rows["final"].to_list() == [False] * 5 + [True, False, True, True]
    assert rows["right_p"].null_count() == len(rows)  # both routes are right


def test_planted_events_are_found(planted: tuple[Any, list[RunSpec], AnswerTrajectories]) -> None:
    _, runs, found = planted
    run = of_run(found.runs, runs[0]).row(0, named=True)
    assert (run["committed"], run["leaned"]) == (7, 7)  # the blend at step 6 breaks both
    assert (run["prunes"], run["revivals"], run["switches"], run["lost"]) == (3, 2, 1, 1)
    assert run["solved"]
    events = of_run(found.events, runs[0])
    prunes = events.filter(pl.col("kind") == "prune")
    assert prunes.select("step", "candidate").rows() == [(3, 0), (5, 1), (7, 1)]
    assert events.filter(pl.col("kind") == "switch").select("step", "before", "after").rows() == [(5, "1", "0")]
    steady = of_run(found.runs, runs[1]).row(0, named=True)
    assert (steady["committed"], steady["leaned"], steady["prunes"], steady["switches"]) == (0, 0, 0, 0)


def test_a_wrong_answer_that_is_put_right() -> None:
    task = interp.tasks.get("grounding")
    sample = task.sample(1)[0]
    right = task.answer(sample)
    videos = [task.render(sample, k) for k in (1 - min(right, 1), right)]
    orders = ((0, 1), (1, 0))
    runs = [RunSpec("m", "h", sample, seed) for seed in range(2)]
    found = read_answers(task, runs, [(s, 1.0 - s, [videos[order[s]] for order in orders]) for s in (0, 1)])
    table = found.runs.sort("seed")
    assert table["wrong_to_right"].to_list() == [1, 0]
    assert table["right_to_wrong"].to_list() == [0, 1]
    assert table["solved"].to_list() == [True, False]
    by_step = found.by_step("right_p")
    assert by_step["mean"].to_list() == pytest.approx([0.5, 0.5], abs=0.01)
    assert found.by_step("right")["mean"].to_list() == [0.5, 0.5]


def test_seeds_agree_where_they_do(planted: tuple[Any, list[RunSpec], AnswerTrajectories]) -> None:
    agreement = planted[2].agreement()

    def at(measure: str) -> list[float]:
        return agreement.filter(pl.col("measure") == measure)["mean"].to_list()

    assert at("favourite")[3:] == pytest.approx([1, 1, 0, np.nan, 0, 0], nan_ok=True)
    assert at("answer")[3:6] == [1, 1, 0]
    assert at("chance") == [0.5] * 9
    assert at("overlap")[0] == pytest.approx(0.5, abs=0.01)
    with pytest.raises(InterpError, match="two seeds"):
        AnswerTrajectories(of_run(planted[2].steps, planted[1][0])).agreement()
    with pytest.raises(InterpError, match="no such column"):
        planted[2].by_step("entropie")


def test_the_models_answers_are_those_of_its_videos() -> None:
    lab, task = interp.load("wan-maze-mini"), interp.tasks.get("maze", size=4)
    runs = lab.plan(task.sample(2, fork=True), seeds=2, steps=4)
    found = follow(lab, runs, task, steps=[0])
    assert found.steps["step"].unique().to_list() == [0, 3]
    for trajectory, run in zip(lab.run_batch(runs), runs, strict=True):
        for step in (0, 3):
            video = lab.frames(trajectory.x0_hat[step][None])[0]
            row = of_run(found.steps, run).filter(pl.col("step") == step).row(0, named=True)
            score = task.score(run.sample, video)
            assert row["state"] == ("right" if score.solved else "wrong" if score.valid else "none")
            again = read_answers(task, [run], [(step, row["sigma"], [video])]).steps.row(0, named=True)
            assert again["posterior"] == pytest.approx(row["posterior"], abs=1e-9)
    with pytest.raises(InterpError, match="no runs"):
        follow(lab, [], task)


def test_finished_runs_are_read_with_their_edits() -> None:
    lab, task = interp.load("wan-maze-mini"), interp.tasks.get("maze", size=4)
    runs = lab.plan(task.sample(1, fork=True), seeds=2, steps=3)
    clean = read_runs(lab, lab.run(runs), task)
    assert clean.steps.drop("posterior", "drawn").equals(follow(lab, runs, task).steps.drop("posterior", "drawn"))
    noised = read_runs(lab, lab.run(runs, edits=interp.edits.noise(step=2, kind="replace")), task)
    before, after = (noised.steps.filter(pl.col("step") == step) for step in (1, 2))
    assert before["blur"].equals(clean.steps.filter(pl.col("step") == 1)["blur"])
    assert not after["blur"].equals(clean.steps.filter(pl.col("step") == 2)["blur"])
    with pytest.raises(InterpError, match="one spec"):
        read_runs(lab, [*lab.run(runs), *lab.run(runs)], task)


def test_answers_that_cannot_be_followed(planted: tuple[Any, list[RunSpec], AnswerTrajectories]) -> None:
    task, runs, found = planted
    with pytest.raises(InterpError, match="'maze' is no task"):
        read_answers("maze", runs, [])
    with pytest.raises(InterpError, match="one and the same"):
        read_answers(task, [runs[0], runs[0]], [])
    with pytest.raises(InterpError, match="step 3 has 1 videos for 2 runs"):
        read_answers(task, runs, [(3, 0.5, [np.zeros((1, 4, 4, 3), np.uint8)])])
    with pytest.raises(InterpError, match=r"state or mode \(did you mean entropy"):
        found.by_step("entrop")
    with pytest.raises(InterpError, match="holds List"):
        found.by_step("posterior")
