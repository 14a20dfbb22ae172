"""A grid is fitted from a store many times larger than the memory it is given; the peak is measured from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from interp.grid import TokenGrid
from interp.store import RunLayout, SiteLayout, Store
from probes import ProbeError, fit_grid
from tests.allocator import HANDED_BACK

METER = """
import json, sys
from pathlib import Path

def held(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024

"""

FIT = """
from interp.store import Store
from probes import fit_grid

store = Store.open(sys.argv[1])
options = {"groups": "sample", "branch": "cond", "shuffles": 2, "path": 0.01, "bootstrap": 20}
fit_grid(store, "mark", steps=(0,), layers=(0,), max_rows=100, **options)  # what imports and first calls take
Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
before = held("VmRSS")
grid = fit_grid(store, "mark", memory=float(sys.argv[2]), **options)
grew = held("VmHWM") - before
everything = [file.read_bytes() for file in store.path.rglob("*") if file.is_file()]  # the meter sees what is held
whole = held("VmHWM") - before
print(json.dumps({"grew": grew, "whole": whole, "cells": grid.table.height, "rows": grid.table["n"][0]}))
"""

NEED = """
import numpy as np, torch
from probes.batch import needed_bytes
from probes.cell import fit_cell
from probes.plan import make_plan

def fitted(model, rows, features, classes, shuffles, options):
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(rows, features)).astype(np.float32))
    if options.pop("outlier", False):
        x[5, ::3] *= 60  # variances differ between training sets, so that they share no preconditioner
    y = rng.integers(0, classes, size=rows) if classes else rng.normal(size=rows)
    weights = rng.uniform(0.5, 2, size=rows) if options.pop("weights", False) else None
    plan = make_plan(np.asarray(y), np.arange(rows) % 50, model=model, shuffles=shuffles, weights=weights, **options)
    plan.tensors
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = held("VmRSS")
    fit_cell(x, plan)
    return {"used": held("VmHWM") - before + x.nbytes, "needed": needed_bytes(plan, features)}

for model in ("logistic", "ridge", "lda", "means"):  # what first calls take
    for features in (20, 200):
        fitted(model, 100, features, 2, 2, {})
for case in json.loads(sys.argv[1]):
    print(json.dumps({"case": case} | fitted(*case)))
"""

CASES = (
    ("ridge", 5000, 512, 2, 20, {}),  # features are held in the order of shares too
    ("ridge", 5000, 512, 0, 0, {"weights": True}),
    ("ridge", 1000, 2048, 0, 0, {}),
    ("lda", 2000, 512, 4, 60, {}),
    ("lda", 400, 2048, 2, 20, {}),
    ("means", 400, 4096, 4, 20, {}),
    ("logistic", 5000, 16, 2, 60, {}),
    ("logistic", 2000, 512, 4, 20, {"selection": "nested"}),
    ("logistic", 600, 2048, 2, 20, {}),  # corrections of preconditioners for the rows that sets leave out
    ("logistic", 600, 2048, 2, 20, {"outlier": True}),
    ("logistic", 600, 2048, 2, 0, {"folds": 10}),
    ("logistic", 600, 2048, 4, 5, {}),
    ("logistic", 1000, 1100, 2, 5, {}),  # the kernel form, by the largest training set and not by all rows
)
"""Model, rows, features, classes, shuffles, options."""


def big_store(path: Path, *, runs: int, tokens: int, width: int, steps: int, layers: int) -> Store:
    """Noise, with a token label to fit."""
    store = Store.create(path, {"model": "noise"})
    rng = np.random.default_rng(0)
    for number in range(runs):
        shape = (steps, 1, tokens, width)
        sites = tuple(
            SiteLayout(f"blocks.{layer}.hook_resid_post", ("step", "branch", "token", "feature"), shape, "float32")
            for layer in range(layers)
        )
        layout = RunLayout(
            run=f"run{number}",
            sites=sites,
            steps=tuple(range(steps)),
            sigmas=tuple(1 - s / steps for s in range(steps)),
            timesteps=tuple(1000.0 * (1 - s / steps) for s in range(steps)),
            experts=("main",) * steps,
            branches=("cond",),
            grid=TokenGrid(frames=1, rows=1, cols=tokens),
            provenance={"model": "noise", "sample": f"s{number}", "seed": number, "prompt": "", "task": "none"},
        )
        with store.writer(layout.run, layout) as writer:
            for s in range(steps):
                for site in sites:
                    writer.write(site.site, s, 0, rng.normal(size=(tokens, width)).astype(np.float32))
            writer.finish({"mark": (np.arange(tokens) % 2).astype(np.float32).reshape(1, 1, tokens)})
    return store


def measured(script: str, *arguments: str) -> list[dict]:
    """What a script says in a process of its own, a line each."""
    command = [sys.executable, "-c", METER + script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | HANDED_BACK)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def check(path: Path, cap: float) -> dict[str, int]:
    assert size_of(path) >= 10 * cap
    found = measured(FIT, str(path), str(cap))[-1]
    print(f"store {size_of(path) / 1e6:.0f} MB, cap {cap / 1e6:.0f} MB, grew by {found['grew'] / 1e6:.1f} MB")
    assert found["grew"] <= cap < size_of(path) / 2 < found["whole"]
    return found


linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from /proc")


@linux
def test_a_store_ten_times_larger_than_the_memory_it_is_given(tmp_path):
    big_store(tmp_path / "s", runs=20, tokens=64, width=128, steps=20, layers=20)
    found = check(tmp_path / "s", 25e6)
    assert (found["cells"], found["rows"]) == (400, 1280)


@linux
@pytest.mark.slow
def test_a_gigabyte_in_a_hundred_megabytes(tmp_path):
    big_store(tmp_path / "s", runs=16, tokens=256, width=256, steps=16, layers=16)
    assert check(tmp_path / "s", 100e6)["cells"] == 256


@linux
@pytest.mark.slow
def test_what_a_cell_is_said_to_need_is_what_it_uses():
    found = measured(NEED, json.dumps(CASES))
    for line in found:
        print(f"{line['case']}: used {line['used'] / 1e6:.0f} MB, needed {line['needed'] / 1e6:.0f} MB")
    assert len(found) == len(CASES)
    for line in found:
        assert line["used"] <= line["needed"] <= 3 * line["used"], line


def test_a_cell_that_does_not_fit_is_refused(tmp_path):
    x = np.random.default_rng(0).normal(size=(200, 50))
    with pytest.raises(ProbeError, match=r"200 rows and 50 features needs about \d+ MB, more than memory=0"):
        fit_grid({(0, 0): x}, np.arange(200) % 2, groups=np.arange(200), memory=1e5)
    with pytest.raises(ProbeError, match=r"baseline 'wide', step 0: One cell of 200 rows and 9000 features"):
        fit_grid(
            {(0, 0): x}, np.arange(200) % 2, groups=np.arange(200), memory=1e7, baselines={"wide": np.ones((200, 9000))}
        )
    grid = fit_grid({(0, 0): x, (1, 0): x}, np.arange(200) % 2, groups=np.arange(200), memory=5e8, shuffles=2)
    assert grid.table.height == 2
