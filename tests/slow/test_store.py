"""The campaigns of this folder at full length; small twins are in ``tests/store``. ``make slow`` runs them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.slow import full_disk, kill_lab, kill_store

pytestmark = pytest.mark.slow


def quiet(_: str) -> None:
    """Progress that nobody watches."""


def test_two_hundred_kills(tmp_path: Path) -> None:
    tally = kill_store.campaign(tmp_path, kills=200, seed=1)
    assert sum(tally.kills.values()) == 200
    assert len(tally.kills) == 3, "both ways to write, and either process"


def test_thirty_kills_of_whole_captures(tmp_path: Path) -> None:
    seen = kill_lab.campaign(tmp_path, kills=30, seed=0)
    assert seen["killed"] == 30
    assert seen["completed"] > 1


@pytest.mark.skipif(not full_disk.can_mount(), reason="a small disk cannot be mounted here (needs root)")
def test_a_disk_that_is_full_at_every_page() -> None:
    seen = full_disk.full_at_every_write(1, quiet)
    assert min(seen[way] for way in full_disk.WAYS) > 40


def test_a_thousand_random_damages() -> None:
    assert full_disk.random_damage(1000, quiet)["place in the file named"] == 1000


def large(folder: Path, *options: str) -> dict[str, int]:
    """Run `tests.slow.large` in a process of its own, whose memory is measured; what it wrote is removed."""
    try:
        command = [sys.executable, "-m", "tests.slow.large", str(folder), *options]
        return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_forty_gigabytes_in_one_and_a_half(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    if free < 45e9:
        pytest.skip(f"needs 45 GB of disk, and {free / 1e9:.0f} are free")
    seen = large(tmp_path / "s")
    assert seen["bytes"] >= 40e9
    assert seen["with checking and reading, grown by"] + seen["writing process"] < 1.5e9


def test_eight_gigabytes_are_consolidated_in_a_quarter_of_one(tmp_path: Path) -> None:
    size = ("--gigabytes", "8", "--event", "8000000", "--memory", "1")
    seen = large(tmp_path / "s", *size, "--consolidate", str(256 << 20))
    assert seen["bytes"] >= 8e9
    assert seen["bytes when consolidated"] >= 16e9, "shards and site-major files, both verified"
    assert seen["with consolidating, grown by"] < 400e6
