"""Small twins of the campaigns in ``tests/slow``: kills, full disks and damage at random."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.slow.full_disk import WAYS, can_mount, full_at_every_write, random_damage
from tests.slow.kill_store import campaign
from tests.slow.test_store import large, quiet


def test_killed_captures_lose_nothing(tmp_path: Path) -> None:
    tally = campaign(tmp_path, kills=6, seed=0)
    assert sum(tally.kills.values()) == 6
    assert tally.completed >= 1


@pytest.mark.skipif(not can_mount(), reason="a small disk cannot be mounted here (needs root)")
def test_a_full_disk_costs_only_its_run() -> None:
    assert min(full_at_every_write(200, quiet)[way] for way in WAYS) >= 1


def test_random_damage_is_found_and_located() -> None:
    assert random_damage(40, quiet)["place in the file named"] == 40


def test_a_store_larger_than_its_memory(tmp_path: Path) -> None:
    """160 MB, of which each process holds some 16 MB of slots and a few tensors of 4 MB."""
    size = ("--gigabytes", "0.16", "--event", "4000000", "--steps", "5")
    seen = large(tmp_path / "s", *size, "--memory", "1", "--consolidate", str(16 << 20))
    assert seen["bytes"] >= 160e6
    assert seen["bytes when consolidated"] >= 320e6, "shards and site-major file, both verified"
    assert seen["with checking and reading, grown by"] < 64e6
    assert seen["with consolidating, grown by"] < 64e6
