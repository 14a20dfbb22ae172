"""The benchmark of sweeps in its quick form: both sides give the same, and the object is the one promised."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import harness, patching


def test_the_quick_benchmark_of_patching(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["patching", "--quick", "--json"])
    patching.main()
    found = json.loads(capsys.readouterr().out)
    assert list(tmp_path.iterdir()) == []  # a quick look is not kept
    assert found["benchmark"] == "patching"
    cases = {(row["case"], row["peer"]) for row in found["rows"]}
    assert ("mini: finished, 24 cells", "naive reruns") in cases
    for row in found["rows"]:
        assert {"ours", "peer_value", "unit", "ratio", "aim", "met"} <= set(row)
        assert row["flop_bound"] > 1
        assert row["max_difference"] <= patching.CLOSE
    assert {row["bit_equal_at_equal_batch"] for row in found["rows"]} == {True, None}
