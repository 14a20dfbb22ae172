"""The benchmark runs, and its cases read the same numbers; its figures are not looked at."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("zarr", reason="zarr is an extra")

from benchmarks.store import rows_of
from benchmarks.stores.common import QUICK
from benchmarks.stores.reading import Reading

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:zarr")


def test_every_case_runs(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, QUICK, rounds=2)
    cases = {row["case"].split(",")[0].split(":")[0] for row in rows}
    assert len(cases) == 10
    assert {row["stored"] < 1 for row in rows if row["case"].startswith("codec")} == {True}
    assert all(row["ours"] > 0 and row["peer_value"] > 0 for row in rows)
    assert {row["aim"] for row in rows} == {"", ">= 0.9x", ">= 0.7x", "> 1x", "<= 1.1x", ">= 0.9x speed", "> 1x speed"}


@pytest.mark.parametrize("grid", [False, True])
def test_all_read_the_same(tmp_path: Path, grid: bool) -> None:
    reading = Reading(tmp_path, QUICK)
    ours = reading.ours(grid)
    by_run_first = [sites if grid else sites[:, None] for sites in ours]
    raw = reading.raw(grid)
    for got, flat in zip(by_run_first, raw, strict=True):
        assert torch.equal(got.movedim(0, 1).reshape(-1), flat)
    for name, peer in reading.peers().items():
        for got, wanted in zip(peer(grid), ours, strict=True):
            bits = got.view(torch.uint16) if isinstance(got, torch.Tensor) else torch.from_numpy(got)
            assert torch.equal(bits, wanted.contiguous().view(torch.uint16)), name
