"""The recipe for CI: its store is small, its script finds what it found, its workflow runs that script."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

import polars as pl
import pytest
import yaml  # a dependency of huggingface_hub

from interp.store import Store

EXAMPLE = Path(__file__).parents[2] / "examples" / "ci"


def test_the_store_is_small_and_what_the_script_makes():
    assert Store.open(EXAMPLE / "store").runs_frame.height == runpy.run_path(str(EXAMPLE / "make_store.py"))["MAZES"]
    files = [file for file in (EXAMPLE / "store").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 2_000_000
    assert not [file.name for file in files if ".tmp" in file.name]  # what a capture that was stopped left behind


def test_the_script_finds_the_path(tmp_path, capsys):
    main = runpy.run_path(str(EXAMPLE / "fit.py"))["main"]
    main(str(EXAMPLE / "store"), str(tmp_path))
    assert "onset" in capsys.readouterr().out
    assert (tmp_path / "when.png").is_file()
    table = pl.read_parquet(tmp_path / "grid" / "table.parquet")
    assert table.height == 8 * 6
    assert table.filter(step=7)["low"].min() > table.filter(step=7)["chance_high"].max()


def test_the_script_fails_where_nothing_is_found(tmp_path, monkeypatch):
    main = runpy.run_path(str(EXAMPLE / "fit.py"))["main"]
    from probes import GridResult

    monkeypatch.setattr(GridResult, "onset", lambda self: pl.DataFrame({"layer": [None], "onset": [None]}))
    with pytest.raises(SystemExit, match="decodable from step None"):
        main(str(EXAMPLE / "store"), str(tmp_path))


def test_the_workflow_runs_what_the_page_says():
    workflow = yaml.safe_load((EXAMPLE / "probes.yml").read_text())
    page = (EXAMPLE.parents[1] / "docs" / "probes_in_ci.md").read_text()
    _, fit = re.findall(r"```sh\n\s*(.*?)\n", page)
    assert set(workflow[True]) == {"push", "pull_request"}  # YAML takes "on" for a truth value
    (job,) = workflow["jobs"].values()
    install, command = (step["run"].split() for step in job["steps"] if "run" in step)
    assert [word for word in command if not word.startswith(("-W", "error"))] == fit.split()
    for name in (command[-3], command[-2], install[-1]):
        assert (EXAMPLE.parents[1] / name).exists()
    versions = [step["with"]["python-version"] for step in job["steps"] if "python-version" in step.get("with", {})]
    wanted = tomllib.loads((EXAMPLE.parents[1] / "pyproject.toml").read_text())["project"]["requires-python"]
    assert [f">={version}" for version in versions] == [wanted]
    assert job["steps"][-1]["with"]["path"] == fit.split()[-1]
