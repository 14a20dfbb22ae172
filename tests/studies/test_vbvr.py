"""Studies on a folder in VBVR layout that the project's own writer made."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from interp import tasks
from studies import study_named
from studies.runs.work import Terms
from tests.pipelines import tiny_i2v


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three mazes and a scene, all of one size."""
    mazes, scene = tasks.get("maze", size=5).sample(3, seed=4), tasks.get("grounding").sample(1, seed=4)
    return tasks.VBVRTask.write(tmp_path_factory.mktemp("vbvr") / "test", [*mazes, *scene])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "pipe"
    tiny_i2v().save_pretrained(path)
    return path


def test_a_folder_goes_through_a_study(
    folder: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, out = study_named("chain_of_steps"), tmp_path / "out"
    command = ["--out", str(out), "--model", str(model), "--folder", str(folder), "--video", "9", "160", "160"]
    command += ["--problems", "7", "--seeds", "1", "--steps", "2", "--batch-size", "4"]
    assert study.main(command) == 0
    assert "has 4 problems, and 7 were asked for" in capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text())
    assert summary["n"] == {"problems": 4, "runs": 4}
    table = pl.read_parquet(out / "table.parquet")
    keys = {sample.key for sample in tasks.get("vbvr", path=folder).sample()}
    assert set(table["sample"]) == keys
    for sample in tasks.get("vbvr", path=folder).sample():
        own = table.filter(sample=sample.key)
        assert set(own["candidates"]) == {len(tasks.VBVRTask().candidates(sample))}
    assert study.work is not None
    terms = Terms.of(study.parse(command))
    assert terms.video == (9, 160, 160)
    assert study.work(terms).row_forwards == 4 * 2


@pytest.mark.parametrize(("name", "said"), [("decodability", "the maze task"), ("self_correction", "without pairs")])
def test_a_study_that_needs_more_than_a_folder_has_says_so(
    name: str, said: str, folder: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--out", str(tmp_path / "out"), "--model", str(model), "--folder", str(folder), "--problems", "2"]
    assert study_named(name).main(command) == 2
    assert said in capsys.readouterr().err


def test_a_folder_that_is_not_there(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--out", str(tmp_path / "out"), "--model", str(model), "--folder", str(tmp_path / "none")]
    assert study_named("noise").main(command) == 2
    assert "none" in capsys.readouterr().err
