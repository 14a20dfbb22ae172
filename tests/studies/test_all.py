"""Several real studies through ``studies all``, killed once and resumed; and what they are said to take in all."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

import studies.__main__ as entry
from studies import NAMES, study_named
from tests.pipelines import tiny_i2v

ASKED = ("propagation", "self_correction")
SMALL = "--size 4 --problems 2 --seeds 2 --steps 3 --batch-size 4 --places 2".split()
FINISHED, KILLED = ASKED
PUTS = 1


KILLED_MIDWAY = f"""
import os, signal, sys
import studies.__main__
from studies.base.ledger import Ledger
put = Ledger.put

def dying(self, key, value):
    if self.path.parent.name == {KILLED!r} and len(self) == {PUTS}:
        os.kill(os.getpid(), signal.SIGKILL)
    return put(self, key, value)

Ledger.put = dying
studies.__main__.main(sys.argv[1:])
"""


def test_killed_and_resumed_it_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    """Reference: the study that was cut short, run on its own."""
    tiny_i2v().save_pretrained(tmp_path / "pipe")
    out = tmp_path / "out"
    command = ["all", "--out", str(out), "--model", str(tmp_path / "pipe"), *SMALL, "--only", *ASKED]
    done = subprocess.run([sys.executable, "-c", KILLED_MIDWAY, *command], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    home = out / "pipe"
    kept, finished = (home / KILLED / "measured.jsonl").read_bytes(), (home / FINISHED / "summary.json").stat()
    assert kept.count(b"\n") == PUTS
    assert f"{FINISHED}/report.html" in (out / "index.html").read_text()  # there after every study

    assert entry.main(command) == 0
    assert (home / FINISHED / "summary.json").stat().st_mtime_ns == finished.st_mtime_ns
    whole = (home / KILLED / "measured.jsonl").read_bytes()
    assert whole.startswith(kept)
    assert len(whole) > len(kept)
    alone = ["--out", str(tmp_path / "alone"), "--model", str(tmp_path / "pipe"), *SMALL]
    assert study_named(KILLED).main(alone) == 0
    tables = [pl.read_parquet(folder / "table.parquet") for folder in (home / KILLED, tmp_path / "alone")]
    assert tables[0].equals(tables[1])
    page, table = (out / "index.html").read_text(), pl.read_parquet(out / "claims.parquet")
    assert tuple(table["study"].unique(maintain_order=True)) == ASKED
    assert f"python -m studies {shlex.join(command)}" in page
    for name in ASKED:
        assert json.loads((home / name / "summary.json").read_text())["command"] in page.replace("&#x27;", "'")


@pytest.mark.parametrize(("which", "limit"), [(0, 60), (1, 10)])
def test_all_studies_are_said_to_fit(which: int, limit: float) -> None:
    assert sum(study_named(name).minutes[which] for name in NAMES) < limit
