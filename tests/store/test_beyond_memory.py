"""PCA and statistics of a store many times larger than the memory they take; the peak is measured from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA

from interp.grid import TokenGrid
from interp.store import SiteLayout, Store
from tests.allocator import HANDED_BACK
from tests.store.making import layout_of

SITE = "blocks.0.hook_resid_post"
TOKENS, WIDTH, RUNS = 4096, 64, 16
CAP = 8e6

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from interp.store import Store
from probes.geometry import pca

def held(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024

def blocks(store, **options):
    return (batch.features for batch in store.batches(sys.argv[2], 1024, branch="cond", shuffle=False, **options))

store = Store.open(sys.argv[1])
pca(blocks(store, runs=store.runs[:1], step=0), 3)  # what imports and first calls take
Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
before = held("VmRSS")
found = pca(blocks(store), 3)
low, high, total = float("inf"), -float("inf"), 0.0
for values in blocks(store):
    low, high = min(low, values.min().item()), max(high, values.max().item())
    total += values.double().sum().item()
grew = held("VmHWM") - before
everything = torch.cat(list(blocks(store)))  # what the cap is there to avoid, measured in the same way
whole = held("VmHWM") - before
about = {"grew": grew, "whole": whole, "low": low, "high": high, "sum": total}
print(json.dumps({**about, "variance": found.variance.tolist(), "axes": found.axes.tolist()}))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from /proc")
def test_components_and_statistics_with_bounded_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = np.geomspace(5, 0.1, WIDTH).astype(np.float32)
    store = Store.create(tmp_path / "s", {"model": "noise"})
    site = SiteLayout(SITE, ("step", "branch", "token", "feature"), (4, 1, TOKENS, WIDTH), "float32")
    rows = []
    for number in range(RUNS):
        base = layout_of(f"run{number:02}")
        layout = replace(base, sites=(site,), branches=("cond",), grid=TokenGrid(frames=1, rows=64, cols=64))
        with store.writer(layout.run, layout) as writer:
            for step in range(4):
                rows.append(rng.standard_normal((TOKENS, WIDTH), np.float32) * sizes + step)
                writer.write(SITE, step, 0, rows[-1])
            writer.finish()
    everything = np.concatenate(rows)
    assert everything.nbytes >= 8 * CAP
    command = [sys.executable, "-c", SCRIPT, str(store.path), SITE]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | HANDED_BACK)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["grew"] <= CAP < everything.nbytes / 2 < found["whole"]
    wanted = PCA(3, svd_solver="covariance_eigh").fit(everything.astype(np.float64))
    assert np.allclose(found["variance"], wanted.explained_variance_, rtol=1e-6)
    assert np.allclose(np.abs(np.array(found["axes"]) @ wanted.components_.T), np.eye(3), atol=1e-5)
    assert (found["low"], found["high"]) == (everything.min(), everything.max())
    assert np.isclose(found["sum"], everything.astype(np.float64).sum(), rtol=1e-9)
