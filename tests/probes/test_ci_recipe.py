"""The recipe for CI: its store is small, its script finds what it found, its workflow runs that script."""

from __future__ import annotations

import runpy
from pathlib import Path

import polars as pl
import pytest

from interp.store import Store

EXAMPLE = Path(__file__).parents[2] / "examples" / "ci"


def test_the_store_is_small_and_what_the_script_makes():
    assert Store.open(EXAMPLE / "store").runs_frame.height == runpy.run_path(str(EXAMPLE / "make_store.py"))["MAZES"]
    assert sum(file.stat().st_size for file in (EXAMPLE / "store").rglob("*")) < 2_000_000


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


def test_the_workflow_runs_the_script():
    text = (EXAMPLE / "probes.yml").read_text()
    assert "examples/ci/fit.py examples/ci/store report" in text
