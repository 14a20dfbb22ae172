"""Output folders: whose they are, and that files are whole or absent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from interp.errors import OutputError
from studies.base.folder import MARKER, StudyFolder


def test_new_empty_and_own_folders_are_taken(tmp_path: Path) -> None:
    new = StudyFolder(tmp_path / "a" / "b", "decodability")
    new.write_text("report.html", "x")
    assert (StudyFolder(new.path, "decodability") / "report.html").read_text() == "x"
    (tmp_path / "empty").mkdir()
    StudyFolder(tmp_path / "empty", "decodability")


@pytest.mark.parametrize("marker", [None, "{}", "not json", "[]", json.dumps({"study": "another"})])
def test_folders_that_hold_something_else_are_refused_and_left_alone(tmp_path: Path, marker: str | None) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    if marker is not None:
        (tmp_path / MARKER).write_text(marker)
    before = {p.name: p.read_text() for p in tmp_path.iterdir()}
    with pytest.raises(OutputError, match="not empty"):
        StudyFolder(tmp_path, "decodability")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == before


def test_a_file_and_an_unwritable_place_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        StudyFolder(tmp_path / "file", "decodability")
    with pytest.raises(OutputError, match="cannot be used"):
        StudyFolder(tmp_path / "file" / "below", "decodability")
    with pytest.raises(OutputError, match="cannot be used"):
        StudyFolder("/proc/nothing-can-be-made-here", "decodability")


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "decodability")
    folder.write_text("table.parquet", "old")

    def broken(place: Path) -> None:
        place.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        folder.write_with("table.parquet", broken)
    assert (tmp_path / "table.parquet").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == [MARKER, "table.parquet"]


def test_json_has_no_nan(tmp_path: Path) -> None:
    path = StudyFolder(tmp_path, "decodability").write_json(
        "s.json", {"a": float("nan"), "b": [1.5, float("inf")], 3: "x"}
    )
    assert json.loads(path.read_text()) == {"a": None, "b": [1.5, None], "3": "x"}
