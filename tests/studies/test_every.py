"""All studies at once: one cache, resumed, failures told, and an index whose claims are those of the summaries."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

import polars as pl
import pytest

import studies.__main__ as entry
import studies.frame.every
import studies.frame.index
from interp.errors import TaskError
from studies.base.claim import Estimate, above
from studies.drawing.report import Section
from studies.frame.outcome import Outcome
from studies.frame.study import Study
from studies.runs.bench import Bench
from tests.pipelines import tiny_i2v

calls: list[str] = []
failing: set[str] = set()


def answer(bench: Bench) -> Outcome:
    """Looks at one clean run."""
    calls.append(bench.folder.study)
    if bench.folder.study in failing:
        raise TaskError("there is nothing to see")
    clean = bench.clean(bench.specs(bench.samples(2), seeds=1))
    rows = [{"step": step, "sigma": sigma} for step, sigma in enumerate(clean.sigmas)]
    claim = above("it is so", Estimate(0.5, 0.25, 0.75, 2), 0.1, matters=0.1, paper="1 %")
    return Outcome(
        pl.DataFrame(rows),
        {"step": "step", "sigma": "its noise level"},
        [claim],
        "It is < so.",
        [Section("Part", ["text"])],
        {"problems": 2},
        [spec.seed for spec in clean.specs],
    )


FAKE = {name: Study(name, f"What of {name}?", "anything", answer) for name in ("first", "second")}
OPTIONS = ["--size", "4", "--steps", "2", "--problems", "2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "pipe"
    tiny_i2v().save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (entry, studies.frame.every, studies.frame.index):
        monkeypatch.setattr(module, "NAMES", tuple(FAKE))
    for module in (entry, studies.frame.every):
        monkeypatch.setattr(module, "study_named", FAKE.__getitem__)
    calls.clear()
    failing.clear()


def test_all_studies_share_a_cache_resume_and_make_an_index(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["all", "--out", str(out), "--model", str(model), *OPTIONS]
    failing.add("second")
    assert entry.main(command) == 2
    assert "second: there is nothing to see" in capsys.readouterr().err
    assert "there is nothing to see" in (out / "index.html").read_text()
    failing.clear()
    assert entry.main(command) == 0
    assert calls == ["first", "second", "second"]  # what was finished is not done again
    (cache,) = (out / "cache").iterdir()
    assert len(list((cache / "runs").glob("*.h5"))) == 2
    table = pl.read_parquet(out / "claims.parquet")
    assert table["study"].to_list() == ["first", "second"]
    for row in table.to_dicts():
        summary = json.loads((out / model.name / row["study"] / "summary.json").read_text())
        (claim,) = summary["claims"]
        assert {k: row[k] for k in claim} == claim
        assert (row["command"], row["seeds"]) == (summary["command"], 2)
    page = (out / "index.html").read_text()
    assert f'href="{model.name}/first/report.html"' in page
    assert "2 claims: 2 show, 0 do not show, 0 cannot be told" in page
    assert page.count("0.25\u00a0to\u00a00.75") == 2
    assert summary["command"] in page
    assert "It is &lt; so." in page


def test_models_share_a_cache_and_an_index(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    second = tmp_path / "second"
    tiny_i2v(seed=5).save_pretrained(second)
    out = tmp_path / "out"
    command = ["all", "--out", str(out), "--model", str(model), str(second), *OPTIONS, "--only", "first"]
    assert entry.main(command) == 0
    assert calls == ["first", "first"]
    assert len(list((out / "cache").iterdir())) == 2
    table = pl.read_parquet(out / "claims.parquet")
    assert table["model"].to_list() == [str(model), str(second)]
    page = (out / "index.html").read_text()
    for name in (model.name, second.name):
        assert (out / name / "first" / "summary.json").is_file()
        assert f'href="{name}/first/report.html"' in page
    assert entry.main([*command[:4], str(model), *command[4:]]) == 2
    assert "one folder" in capsys.readouterr().err


def test_a_part_that_is_run_again_leaves_the_others_in_the_index(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["all", "--out", str(out), "--model", str(model), *OPTIONS]
    assert entry.main(command) == 0
    assert entry.main([*command, "--seed", "1", "--only", "second"]) == 0
    table, page = pl.read_parquet(out / "claims.parquet"), (out / "index.html").read_text()
    assert table["study"].to_list() == ["first", "second"]
    assert ["--seed 1" in text for text in table["command"]] == [False, True]
    assert f"python -m studies {shlex.join([*command, '--seed', '1', '--only', 'second'])}</pre>" in page


def test_another_command_is_run_again(model: Path, tmp_path: Path) -> None:
    command = ["all", "--out", str(tmp_path / "out"), "--model", str(model), *OPTIONS, "--only", "first"]
    assert entry.main(command) == 0
    assert entry.main([*command, "--seed", "1"]) == 0
    assert calls == ["first", "first"]


def test_wrong_calls_are_found_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["all", "--out", str(tmp_path / "out"), "--only", "frist"]) == 2
    assert "did you mean first" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        entry.main(["all", "--out", str(tmp_path / "out"), "--stepz", "3"])
    assert calls == []


def test_quick_gives_way_to_what_is_said() -> None:
    study = Study("x", "?", "-", answer, defaults={"problems": 9, "steps": 8}, quick={"problems": 3})
    assert study.parse(["--out", "o"]).problems == 9
    assert study.parse(["--out", "o", "--quick"]).problems == 3
    assert study.parse(["--out", "o", "--quick", "--problems", "7"]).problems == 7
    given = study.parse(["--out", "o o", "--quick"])
    assert isinstance(given, argparse.Namespace)
    assert given.steps == 8
    assert given.command == "python -m studies.x --out 'o o' --quick"


def test_the_list_says_what_each_asks_needs_and_costs(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["list"]) == 0
    said = capsys.readouterr().out
    for study in FAKE.values():
        assert study.question in said
        assert f"needs {study.needs}; about {study.minutes[0]:g} min" in said
