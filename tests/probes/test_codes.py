"""Description lengths of a grid: each cell's is that of its own rows."""

from __future__ import annotations

import numpy as np
import pytest

from interp.store import Store
from probes import ProbeError, code_grid, control_target, online_code
from tests.probes.test_wrong_use import SITE, STORE

RUNS, TOKENS = 30, 6


def test_each_cell_is_the_code_of_its_rows():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, size=(RUNS, TOKENS)).astype(float)
    cells = {(s, 1): rng.normal(size=(RUNS, TOKENS, 4)) + 2 * s * y[..., None] for s in (0, 3)}
    y[:, 0] = np.nan
    table = code_grid(
        cells, y, groups=np.arange(RUNS), orders=2, path=0.5, sigmas={0: 1.0, 3: 0.5}, dtype="float64", seed=5
    )
    keep = np.isfinite(y).reshape(-1)
    labels, group = y.reshape(-1)[keep].astype(int), np.repeat(np.arange(RUNS), TOKENS)[keep]
    place = np.tile(np.arange(TOKENS), RUNS)[keep]
    for row in table.iter_rows(named=True):
        x = cells[row["step"], 1].reshape(-1, 4)[keep]
        bits = [online_code(x, labels, groups=group, path=0.5, seed=s).bits for s in (5, 6)]
        heart = control_target(labels, kinds=place, seed=8)
        control = [online_code(x, heart, groups=group, path=0.5, seed=s).bits for s in (5, 6)]
        assert row["bits"] == pytest.approx(np.mean(bits), rel=1e-6)
        assert row["spread"] == pytest.approx(np.std(bits, ddof=1), rel=1e-6)
        assert row["control"] == pytest.approx(np.mean(control), rel=1e-6)
        assert row["compression"] == pytest.approx(len(labels) / np.mean(bits), rel=1e-6)
        assert (row["n"], row["groups"], row["uniform"]) == (len(labels), RUNS, len(labels))
    assert table["compression"][1] > 2 > 1.1 > table["compression"][0]


def test_codes_of_a_store_and_what_has_none():
    table = code_grid(Store.open(STORE), "on_path", site=SITE, steps=[0, 7], layers=0, orders=1)
    assert table["bits"][1] < table["bits"][0]
    assert table["spread"].null_count() == 2
    x = {(0, 0): np.random.default_rng(0).normal(size=(40, 2))}
    with pytest.raises(ProbeError, match="look like measurements"):
        code_grid(x, np.random.default_rng(1).normal(size=40), groups=np.arange(40))
    for nothing in ({"model": "lda"}, {"weights": np.ones(40)}, {"folds": 3}):  # which a code would not heed
        with pytest.raises(ProbeError, match=f"no option {next(iter(nothing))!r}"):
            code_grid(x, np.arange(40) % 2, groups=np.arange(40), **nothing)
    with pytest.raises(ProbeError, match="orders=0"):
        code_grid(x, np.arange(40) % 2, groups=np.arange(40), orders=0)
