"""Benchmarks in their quick form: all sides give the same, and the object is the one promised. No time is judged."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from benchmarks import capture, harness, patching


@pytest.mark.parametrize("count", [1, 2, 5, 6, 9, 12, 25, 40])
def test_the_interval_of_a_ratio_is_that_of_order_statistics(count: int) -> None:
    """The k-th from either end, for the largest k with which the median lies outside in 5 % of cases at most."""
    ours = harness.Times(tuple(np.random.default_rng(count).permutation(count) + 1.0))
    halves = harness.Times((0.5,) * count)
    ks = [k for k in range(1, count // 2 + 1) if 2 * binom.cdf(k - 1, count, 0.5) <= 0.05] or [1]
    assert ours.ratio_interval(halves) == (2 * max(ks), 2 * (count + 1 - max(ks)))


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


def test_the_quick_benchmark_of_capture(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It begins by comparing what all ways keep, tensor for tensor."""
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["capture", "--quick", "--json"])
    capture.main()
    found = json.loads(capsys.readouterr().out)
    assert list(tmp_path.iterdir()) == []
    rows = {(row["case"], row["peer"]): row for row in found["rows"]}
    idle = rows["mini: our loop, idle hooks", "bare pipeline"]
    assert (idle["aim"], idle["bytes"]) == ("<= 1.01x", 0)
    in_memory = rows["mini: ours, to memory, fp32", "nnsight, to memory, fp32"]
    assert in_memory["bytes"] == 6 * 2 * 5 * 4 * 4 * 128 * 4  # layers, steps, tokens, features, bytes
    assert rows["mini: ours, to HDF5, bf16", "bare pipeline"]["bytes"] == in_memory["bytes"] / 2
    for row in found["rows"]:
        low, high = row["paired_ratio_interval"]
        assert 0 < low <= row["paired_ratio"] <= high
        low, high = row["paired_ratio_quartiles"]
        assert 0 < low <= row["paired_ratio"] <= high or row["rounds"] < 3
        low, high = row.get("direct_ratio_interval", row["paired_ratio_interval"])
        aim = float(row["aim"].strip("<= x") or "inf")
        wanted = "" if not row["aim"] else "met" if high <= aim else "missed" if low > aim else "not resolved"
        assert (row["verdict"], row["met"]) == (wanted, None if not row["aim"] else wanted == "met")
        if "surplus_s" in row:
            spent = row["beside_blocks_s"], row["peer_beside_blocks_s"]
            assert min(spent) > 0
            assert row["surplus_s"] == pytest.approx(spent[0] - spent[1], abs=1e-9)  # of the one round
            assert row["direct_ratio"] == pytest.approx(1 + row["surplus_s"] / row["peer_value"])
