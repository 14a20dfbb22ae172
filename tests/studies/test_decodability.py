"""The study from its command line to its page, on a tiny model that solves nothing: the ground truth is still there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from interp.lab import Lab
from interp.store import Store
from studies.__main__ import main as list_main
from studies.base.folder import StudyFolder
from studies.base.ledger import Ledger
from studies.decodability import STUDY, plan
from studies.measures.cells import COLUMNS
from studies.measures.sets import Settings
from studies.runs.bench import Bench
from tests.pipelines import tiny_i2v

OPTIONS = ["--size", "4", "--problems", "6", "--seeds", "2", "--steps", "3", "--shuffles", "4", "--batch-size", "6"]
TARGETS = ["--target", "wall_right", "distance"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "pipe"
    tiny_i2v().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def out(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished study."""
    folder = tmp_path_factory.mktemp("study") / "out"
    assert STUDY.main(["--model", str(model), "--out", str(folder), *OPTIONS, *TARGETS]) == 0
    return folder


def only(folder: Path) -> Path:
    """The one thing in a folder."""
    (found,) = folder.iterdir()
    return found


def test_it_leaves_what_it_says(out: Path) -> None:
    names = {p.name for p in out.iterdir()}
    assert {"table.parquet", "x0_hat.parquet", "summary.json", "report.html", "cache", "study.json"} <= names
    assert {"heat_wall_right.png", "curves_distance.png", "strips_ordinary.png", "x0_hat.png"} <= names
    assert not [name for name in names if name.startswith(".tmp")]


def test_the_table_has_every_cell(out: Path) -> None:
    table = pl.read_parquet(out / "table.parquet")
    assert table.columns == list(COLUMNS)
    hooked = table.filter(source="hook")
    assert len(hooked) == 2 * 2 * 2 * 3  # targets, labels, layers, steps
    assert hooked.select("score", "low", "high", "chance", "chance_high", "sigma").null_count().row(0) == (0,) * 6
    assert len(table.filter(pl.col("source") != "hook")) == 2 * 3 * 3  # targets, baselines, steps
    assert set(table.filter(target="distance")["metric"]) == {"r2"}
    assert set(table["groups"]) == {6}
    assert table.filter(target="wall_right")["n"].unique().to_list() == [12 * 12]  # the right border has no label


def test_the_summary_keeps_the_contract(out: Path) -> None:
    summary = json.loads((out / "summary.json").read_text())
    assert {"study", "command", "model", "model_hash", "n", "seeds", "versions", "claims", "targets"} <= set(summary)
    assert summary["n"] == {"ordinary mazes": 6, "ordinary runs": 12}
    assert len(set(summary["seeds"])) == 12
    assert len(summary["x0_hat"]) >= 3
    assert summary["findings"] in (out / "report.html").read_text().replace("&#x27;", "'")
    for of in summary["targets"].values():
        assert {"accuracy", "chance", "low", "high", "onset"} <= set(of)


def test_a_second_call_samples_nothing_and_gives_the_same(
    out: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = pl.read_parquet(out / "table.parquet")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a finished run was repeated")

    monkeypatch.setattr(Lab, "run_batch", never)
    assert STUDY.main(["--model", str(model), "--out", str(out), *OPTIONS, *TARGETS]) == 0
    assert pl.read_parquet(out / "table.parquet").equals(before)


def test_an_interrupted_study_keeps_its_runs_and_goes_on(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--model", str(model), "--out", str(tmp_path / "out"), *OPTIONS, "--target", "wall_right"]
    whole, calls = Lab.run_batch, []

    def interrupted(self: Lab, *args: Any, **kwargs: Any) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(Lab, "run_batch", interrupted)
    assert STUDY.main(command) == 130
    assert "interrupted" in capsys.readouterr().err
    assert len(Store.open(only(tmp_path / "out" / "cache"))) == 6
    assert STUDY.main(command) == 0
    assert len(calls) == 3  # the batch that was interrupted, and no other
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_damaged_shard_is_named_and_nothing_is_lost(
    out: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = shutil.copytree(out / "cache", tmp_path / "cache")
    runs = only(cache) / "runs"
    shards = sorted(runs.glob("*.h5"))
    assert len(shards) == 12
    content = shards[0].read_bytes()
    shards[0].write_bytes(content[: len(content) // 2])
    command = ["--model", str(model), "--out", str(tmp_path / "out"), "--cache", str(cache), *OPTIONS, *TARGETS]
    assert STUDY.main(command) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ")
    assert shards[0].stem in said
    assert len(list(runs.glob("*.h5"))) == len(shards)


def test_a_model_that_solves_nothing_has_no_answers_to_probe(
    out: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--model", str(model), "--out", str(tmp_path / "out"), "--cache", str(out / "cache"), *OPTIONS]
    assert STUDY.main([*command, "--target", "on_path"]) == 2
    assert "no run ended with a valid path" in capsys.readouterr().err


def test_every_run_has_noise_of_its_own_and_mazes_do_not_depend_on_how_many(tmp_path: Path) -> None:
    lab = Lab(tiny_i2v(), "tiny")
    from interp import tasks

    task = tasks.get("maze", size=4)
    sets = []
    for n in (2, 3):
        given = STUDY.parse(["--out", "x", "--problems", str(n), "--seeds", "3", "--steps", "2", "--size", "4"])
        folder = StudyFolder(tmp_path, "decodability")
        bench = Bench(folder, given, lab, task, tmp_path / "cache", Ledger(tmp_path / "measured.jsonl"))
        sets.append(plan(bench, Settings.of(bench)))
    few, many = sets
    assert set(many) == {"fork", "ordinary"}
    for name, one in many.items():
        seeds = [spec.seed for spec in one.specs]
        assert len(set(seeds)) == 9
        assert one.mazes == 3
        assert one.keys[:6] == few[name].keys
    assert all(sample.problem.is_fork and sample.problem.apart >= 4 for sample in many["fork"].samples)


def test_wrong_options_exit_with_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        STUDY.parse(["--out", "x", "--problems", "0"])
    assert stopped.value.code == 2
    assert "--problems" in capsys.readouterr().err


def test_the_list_of_studies(capsys: pytest.CaptureFixture[str]) -> None:
    assert list_main(["list"]) == 0
    assert "decodability" in capsys.readouterr().out
    assert list_main(["decodabilty"]) == 2
    assert "did you mean decodability" in capsys.readouterr().err
    assert list_main(["--help"]) == 0
