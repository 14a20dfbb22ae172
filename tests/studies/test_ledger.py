"""The ledger keeps what was finished, whatever happened to its last line."""

from __future__ import annotations

from pathlib import Path

import pytest

from interp.errors import OutputError
from studies.base.ledger import Ledger, key_of


def test_what_was_put_is_there_for_the_next(tmp_path: Path) -> None:
    first = Ledger(tmp_path / "l.jsonl")
    assert first.put("a", {"x": [1, 2.5, None]}) == {"x": [1, 2.5, None]}
    first.put("b", 3)
    again = Ledger(tmp_path / "l.jsonl")
    assert len(again) == 2
    assert again["a"] == {"x": [1, 2.5, None]}
    assert "c" not in again


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_line_that_was_cut_short_is_done_again(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "l.jsonl"
    ledger = Ledger(path)
    ledger.put("a", 1)
    whole = path.read_bytes()
    ledger.put("b", "long enough")
    path.write_bytes(path.read_bytes()[: len(whole) + cut])
    again = Ledger(path)
    assert "a" in again
    assert "b" not in again
    again.put("b", 2)
    assert (Ledger(path)["a"], Ledger(path)["b"]) == (1, 2)
    assert len(path.read_bytes().splitlines()) == 2


def test_a_disk_that_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        Ledger(tmp_path / "missing" / "l.jsonl").put("a", 1)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="cannot be read"):
        Ledger(tmp_path / "folder")


def test_keys_depend_on_content_alone() -> None:
    assert key_of(a=1, b=[2]) == key_of(b=[2], a=1)
    assert key_of(a=1) != key_of(a=2)
