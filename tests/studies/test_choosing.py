"""Rules that choose seeds, on made-up runs whose answers, chances and costs are known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from interp.edits import Edit
from interp.grid import TokenGrid
from studies.base.folder import StudyFolder
from studies.early_plan import STUDY, steered
from studies.measures.choosing import ANY, ONE, VOTE, Chosen, equal_vote, headroom, part_way, tabled, whole_runs
from studies.measures.guiding import Guide, guide, steering
from studies.runs.bench import Bench
from studies.runs.work import Terms
from tests.pipelines import tiny_i2v
from tests.studies.counted import counted

STEPS = 4
ENDS = {"p": "abb", "q": "ccc", "r": "dae"}  # the answer of each seed's run
RIGHT = {"p": "b", "q": "x", "r": "e"}


def made_up() -> Any:
    """Three problems with three seeds; before the last step every run shows its seed's number."""
    rows = [
        {
            "run": f"{problem}{seed}", "sample": problem, "seed": seed, "step": step,
            "answer": end if step == STEPS - 1 else str(seed),
            "state": "right" if step == STEPS - 1 and end == RIGHT[problem] else "wrong",
            "entropy": float(seed != 1),
        }
        for problem, ends in ENDS.items()
        for seed, end in enumerate(ends)
        for step in range(STEPS)
    ]  # fmt: skip
    steps = pl.DataFrame(rows)
    last = steps.filter(step=STEPS - 1).with_columns((pl.col("state") == "right").alias("solved"))
    return SimpleNamespace(steps=steps, runs=last)


def by_rule(chosen: list[Chosen]) -> dict[tuple[str, int], Chosen]:
    return {(of.rule, of.seeds): of for of in chosen}


def test_whole_runs() -> None:
    found = by_rule(whole_runs(made_up(), STEPS))
    assert set(found) == {(ONE, 1), (VOTE, 2), (VOTE, 3), (ANY, 2), (ANY, 3)}
    assert found[ONE, 1].right.tolist() == [0, 0, 0]
    assert found[VOTE, 2].right.tolist() == [0, 0, 0]  # a tie: the first
    assert found[VOTE, 3].right.tolist() == [1, 0, 0]
    assert found[ANY, 2].right.tolist() == [1, 0, 0]
    assert found[ANY, 3].right.tolist() == [1, 0, 1]
    assert found[VOTE, 3].cost.tolist() == [12, 12, 12]


def test_part_way() -> None:
    said = {"p": (0.1, 0.9, 0.2), "q": (0.5, 0.1, 0.1), "r": (0.1, 0.2, 0.3)}
    chances = {1: {f"{problem}{seed}": chance for problem, of in said.items() for seed, chance in enumerate(of)}}
    found = {of.rule: of for of in part_way(made_up(), chances, [1], STEPS)}
    assert found["entropy"].right.tolist() == [1, 0, 0]  # seed 1 of each
    assert found["probe"].right.tolist() == [1, 0, 1]
    assert found["probe"].cost.tolist() == [3 * 2 + 2] * 3
    assert found["redraw"].right.tolist() == [1, 0, 0]  # the median chance is 0.2: seeds 1, 0, 1
    assert found["redraw"].cost.tolist() == [2 * 2 + 2, 1 * 2 + 2, 2 * 2 + 2]
    assert found["majority"].right.tolist() == [0, 0, 0]


def test_headroom_and_equal_votes() -> None:
    chosen = whole_runs(made_up(), STEPS)
    probe = Chosen("probe", 1, 3, np.array([1.0, 0.0, 0.0]), np.full(3, 8.0))
    assert equal_vote(chosen, probe, STEPS).seeds == 2
    assert equal_vote(chosen, Chosen("x", 1, 3, probe.right, np.full(3, 8.1)), STEPS).seeds == 3
    assert equal_vote(chosen, Chosen("x", 1, 3, probe.right, np.full(3, 99.0)), STEPS).seeds == 3
    rows = {(r["rule"], r["seeds"]): r for r in tabled([*chosen, probe], [1.0, 0.8, 0.5, 0.2]).to_dicts()}
    assert rows["probe", 3]["headroom"] == pytest.approx(0.5)
    assert rows["probe", 3]["vote"] == 0
    assert (rows[ONE, 1]["headroom"], rows[ANY, 3]["headroom"]) == (0, 1)
    assert headroom(np.ones(3), np.ones(3), np.ones(3)) == (None, None, None)
    many = np.arange(200) % 2
    share, low, high = headroom(many * 0.5, np.zeros(200), many.astype(float))
    assert (share, low, high) == pytest.approx((0.5, 0.5, 0.5))


def test_probes_speak_of_other_problems_as_scikit_learn_does() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(10), 3)
    labels = rng.integers(0, 2, 30)
    features = rng.normal(size=(30, 2, 3)) + labels[:, None, None]
    runs = [f"run{k}" for k in range(30)]
    found = guide(features, labels, groups, runs, seed=0)
    flat = features.reshape(30, 6)
    names = np.random.default_rng(0).permutation(np.arange(10))
    for part in np.array_split(names, 5):
        test = np.isin(groups, part)
        theirs = make_pipeline(StandardScaler(), LogisticRegression(C=0.01)).fit(flat[~test], labels[~test])
        for k in np.flatnonzero(test):
            assert found.chances[runs[k]] == pytest.approx(theirs.predict_proba(flat[k : k + 1])[0, 1], abs=1e-3)
            weights = theirs[1].coef_[0] / theirs[0].scale_
            towards = found.directions[runs[k]]
            assert towards is not None
            assert towards.ravel() @ weights / np.linalg.norm(weights) == pytest.approx(1, abs=1e-3)
    assert found.size == pytest.approx(np.linalg.norm(flat, axis=1).mean())
    alike = guide(features, np.ones(30, dtype=int), groups, runs, seed=0)
    assert set(alike.chances.values()) == {1.0}
    assert set(alike.directions.values()) == {None}


def test_a_push_is_of_the_size_asked_and_a_placebo_of_the_same() -> None:
    towards = np.array([[0.6, 0.0, 0.0], [0.0, 0.8, 0.0]], dtype=np.float32)
    of = Guide({}, {"a": towards, "b": None}, size=10.0)
    grid = TokenGrid(2, 2, 1)
    batch: Any = [SimpleNamespace(key="a", seed=3), SimpleNamespace(key="b", seed=4)]

    def pushes(placebo: int | None) -> list[np.ndarray]:
        graph = steering(of, "blocks.1.hook_resid_post", 1, 0.5, grid, placebo=placebo)(batch)
        assert [edit.rows for edit in graph] == [(0,), (1,)]
        return [_values(edit) for edit in graph]

    first, second = pushes(None)
    assert np.allclose(first, 5 * towards[[0, 0, 1, 1]])
    assert not second.any()
    drawn, none = pushes(7)
    frames = drawn.reshape(2, 2, 3)[:, 0]
    assert np.linalg.norm(frames) == pytest.approx(5.0, rel=1e-5)
    assert abs((frames * towards).sum() / 5) < 0.99
    assert not none.any()


def test_steering_runs_the_first_seeds_and_no_push_changes_nothing(tmp_path: Path) -> None:
    tiny_i2v().save_pretrained(tmp_path / "pipe")
    options = ["--problems", "2", "--seeds", "2", "--steps", "3", "--size", "4", "--places", "2", "--steered", "1"]
    command = ["--out", str(tmp_path / "out"), "--model", str(tmp_path / "pipe"), *options, "--strengths", "0", "5"]
    given = STUDY.parse(command)
    bench = Bench.open(StudyFolder(given.out, "early_plan"), given)
    clean = bench.clean(bench.specs(bench.samples()))
    grid = bench.lab.grid(clean.specs[0].sample)
    towards = np.ones((grid.frames, 24), dtype=np.float32)
    of = Guide({}, {spec.key: towards for spec in clean.specs}, size=1.0)
    with counted(bench.lab.pipe) as calls:
        found = steered(bench, clean, {0: of, 2: of})
    assert [(of.rule, of.step) for of in found.values()] == [("steer", 0), ("random", 0)] * 2
    assert STUDY.work is not None
    without = STUDY.parse([*command[: command.index("--strengths") + 1]])
    assert calls == STUDY.work(Terms.of(given)).forwards - STUDY.work(Terms.of(without)).forwards
    kept = steering(of, "blocks.1.hook_resid_post", 0, 0.0, grid)(clean.specs[::2])
    pushed = steering(of, "blocks.1.hook_resid_post", 0, 5.0, grid)(clean.specs[::2])
    own = bench.lab.run(clean.specs[::2], edits=())
    for graph, same in ((kept, True), (pushed, False)):
        for one, other in zip(bench.lab.run(clean.specs[::2], edits=graph), own, strict=True):
            assert np.array_equal(one.trajectory.result, other.trajectory.result) is same


def _values(edit: Edit) -> np.ndarray:
    source: Any = edit.sources[0]
    return np.asarray(source.values.tensor)
