"""Lenses on the bundled model, scored by the task: as the videos are, and with honest intervals."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

import interp
from interp.errors import InterpError
from interp.intervals import cluster_mean
from interp.lenses import COLUMNS, layer_lens, mean_by, x0_lens

Made = tuple[interp.Lab, interp.tasks.MazeTask, list[interp.RunSpec]]


@pytest.fixture(scope="module")
def made() -> Made:
    lab, task = interp.load("wan-maze-mini"), interp.tasks.get("maze", size=4)
    return lab, task, lab.plan(task.sample(3, seed=5), seeds=2, steps=4)


def test_accuracy_by_step_and_layer_is_that_of_the_videos(made: Made) -> None:
    lab, task, runs = made
    table = layer_lens(lab, runs, task)
    assert list(table.columns)[: len(COLUMNS)] == list(COLUMNS)
    assert len(table) == 6 * 4 * (7 + 1)
    for trajectory, run in zip(lab.run_batch(runs), runs, strict=True):
        for step in (1, 3):
            score = task.score(run.sample, lab.frames(trajectory.x0_hat[step][None])[0])
            rows = table.filter((pl.col("run") == run.key) & (pl.col("step") == step))
            for layer in (None, 5):
                row = rows.filter(pl.col("layer").eq_missing(layer)).row(0, named=True)
                assert (row["valid"], row["shortest"], row["agent_legal"]) == (
                    score.valid, score.shortest, score.agent_legal,
                )  # fmt: skip
    means = mean_by(table, "valid")
    floor, top = (means.filter((pl.col("step") == 1) & (pl.col("layer") == n))["mean"].item() for n in (-1, 5))
    assert floor == 0 < top  # the embedded patches show no path yet, the last block does


def test_passes_are_read_apart(made: Made) -> None:
    lab, task, _ = made
    runs = lab.plan(task.sample(1), steps=2, guidance_scale=3.0)
    table = x0_lens(lab, runs, task, steps=[1], branches=("cond", "uncond", "guided"))
    assert table["branch"].to_list() == ["cond", "uncond", "guided"]
    bare = x0_lens(lab, runs, steps=[1])
    assert bare.columns == list(COLUMNS)


def test_means_and_their_intervals() -> None:
    rng = np.random.default_rng(0)
    rows = {"sample": np.repeat(list("abcdefgh"), 3), "step": np.tile([0, 1, 2], 8), "hit": rng.random(24)}
    table = pl.DataFrame(rows).with_columns(hit=pl.when(pl.col("step") == 2).then(None).otherwise("hit"))
    found = mean_by(table, "hit")
    for step in (0, 1):
        part = table.filter(pl.col("step") == step)
        mean, low, high = cluster_mean(part["hit"].to_numpy()[:, None], part["sample"].to_numpy())
        assert found.row(step, named=True) == pytest.approx(
            {"step": step, "mean": mean[0], "low": low[0], "high": high[0], "n": 8, "groups": 8}
        )
    assert found["n"][2] == 0
    assert np.isnan(found["mean"][2])
    with pytest.raises(InterpError, match="did you mean hit"):
        mean_by(table, "hits")


def test_steps_layers_branches_and_runs_are_one_or_many(made: Made) -> None:
    lab, task, runs = made
    one = layer_lens(lab, runs[0], task, layers=2, steps=-1, branches="cond")
    many = layer_lens(lab, [runs[0]], task, layers=[2], steps=[3], branches=["cond"])
    assert one.equals(many)
    assert x0_lens(lab, runs[:1], steps=slice(1, 3))["step"].to_list() == [1, 2]


def test_what_cannot_be_read_is_said(made: Made) -> None:
    lab, task, runs = made
    with pytest.raises(InterpError, match="one and the same"):
        x0_lens(lab, [runs[0], runs[0]], task)
    with pytest.raises(InterpError, match="batch_size=0"):
        x0_lens(lab, runs, task, batch_size=0)
    with pytest.raises(InterpError, match=r"steps=slice\(9, None, None\): the runs have steps 0 to 3"):
        x0_lens(lab, runs, task, steps=slice(9, None))
    table = pl.DataFrame({"sample": ["a"], "step": [0], "hit": [True], "expert": ["main"]})
    with pytest.raises(InterpError, match="no column 'stp'"):
        mean_by(table, "hit", by=("stp",))
    with pytest.raises(InterpError, match="column 'expert' holds String"):
        mean_by(table, "expert")
