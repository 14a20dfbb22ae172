"""Every study on every shape of model, with random weights: it runs, its files keep the contract, its page is whole.

Nothing is learnt from such a model; what is tested is that no study depends on one pipeline's shapes, experts or masks.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from interp.store import Store
from interp.store.info import info
from studies import NAMES, study_named
from studies.base.claim import VERDICTS
from studies.runs.bench import lab_of
from studies.runs.work import Terms
from tests import pipelines
from tests.studies.counted import counted

SHAPES: dict[str, Callable[[], Any]] = {
    "A14B": lambda: pipelines.tiny_i2v(two_experts=True),
    "TI2V": pipelines.tiny_ti2v,
    "T2V": pipelines.tiny_t2v,
}
SMALL = ["--size", "4", "--problems", "2", "--seeds", "1", "--steps", "3", "--batch-size", "2"]
OWN = {
    "chain_of_steps": ["--ordinary"],
    "propagation": ["--places", "1", "--kinds", "renoise", "--seeds", "2"],
    "frames": ["--counts", "1", "5"],
    "distilled": ["--counts", "1", "2", "--few", "1"],
    "self_correction": ["--places", "2", "--sizes", "1"],
    "early_plan": ["--places", "2", "--seeds", "2"],
    "noise": ["--places", "1", "--kinds", "renoise"],
    "memory": ["--problems", "3", "--knocked", "1", "--spans", "1", "--windows", "1", "--places", "1"],
    "perception_before_action": ["--size", "6", "--problems", "3", "--places", "1", "--shuffles", "2"],
    "blog_claims": ["--seeds", "2", "--sizes", "1", "--at", "0.5", "--watch", "2"],
    "layers": ["--problems", "5", "--places", "1", "--tuned", "1", "--shuffles", "1", "--steps", "2"],
    "swap": ["--problems", "1", "--places", "1", "--ops", "resid", "--every", "2", "--steps", "2"],
    "ensemble": ["--seeds", "2", "--at", "0", "--width", "1"],
}
NEVER_RIGHT = {"early_plan": ["--strengths"]}
"""What is not run where no answer is right: there is no direction to steer along (see test_choosing)."""
AT_MOST = {"swap"}
"""Studies whose forwards depend on how sweeps put cells into batches; what they count is a bound."""
NEEDS_ANSWERS = {"decodability"}  # tested with targets that a model without answers has, in test_decodability


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    for name, make in SHAPES.items():
        make().save_pretrained(folder / name)
    return {name: folder / name for name in SHAPES}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NEEDS_ANSWERS])
@pytest.mark.parametrize("shape", SHAPES)  # changes last, as a model stays loaded
def test_it_runs(name: str, shape: str, models: dict[str, Path], tmp_path: Path) -> None:
    study = study_named(name)
    command = ["--out", str(tmp_path / "out"), "--model", str(models[shape]), *SMALL, *OWN.get(name, [])]
    lab = lab_of(str(models[shape]), None, None)
    with counted(lab.pipe) as calls:
        assert study.main(command) == 0
    out = tmp_path / "out"
    assert study.work is not None
    asked = study.work(Terms.of(study.parse([*command, *NEVER_RIGHT.get(name, [])])))
    if name in AT_MOST:
        assert asked.row_forwards >= sum(one.rows * count for one, count in calls.items())
    else:
        assert asked.forwards == calls
    assert asked.nbytes == bytes_in(out / "cache")
    table, summary = pl.read_parquet(out / "table.parquet"), json.loads((out / "summary.json").read_text())
    assert len(table) > 0
    assert summary["study"] == name
    assert {"command", "model", "model_hash", "n", "seeds", "versions"} <= set(summary)
    assert summary["claims"]
    for claim in summary["claims"]:
        assert {"claim", "paper", "value", "low", "high", "chance", "placebo", "verdict", "rule"} <= set(claim)
        assert claim["verdict"] in VERDICTS
    page = (out / "report.html").read_text()
    assert study.question in page
    assert "data:image/png" in page


def bytes_in(cache: Path) -> int:
    """What stores hold of activations."""
    stores = [Store.open(marker.parent) for marker in cache.glob("*/store.json")]
    return sum(site.nbytes for store in stores for site in info(store).sites)
