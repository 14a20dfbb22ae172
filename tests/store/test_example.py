"""The example of the design page reads a shard with h5py alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.store.making import RESID, labels_of, make_store, tensors_of

PAGE = Path(__file__).parents[2] / "docs/design/store.md"
SHARD, COMPONENTS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize("tokens", [None, (7, 2)])
def test_the_example_with_h5py_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens: tuple[int, ...] | None
) -> None:
    store = make_store(tmp_path / "maze-cache", seeds=1, tokens=tokens)
    assert "interp" not in SHARD
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(compile(SHARD, str(PAGE), "exec"), found)
    layout = store.layout("run0")
    assert found["values"].dtype == np.float32
    assert np.array_equal(found["values"], tensors_of(layout)[RESID][2, 1].float().numpy())
    assert found["sigma"] == layout.sigmas[2]
    assert list(found["tokens"]) == list(tokens or range(24))
    assert (found["prompt"], found["seed"]) == (layout.provenance["prompt"], 0)
    wanted = labels_of(layout)
    assert found["labels"].keys() == wanted.keys()
    assert np.array_equal(found["labels"]["on_path"], wanted["on_path"], equal_nan=True)


def test_the_example_of_components_is_that_of_the_whole_site_in_memory(tmp_path: Path) -> None:
    store = make_store(tmp_path, seeds=3)
    found: dict[str, Any] = {"store": store}
    exec(compile(COMPONENTS, str(PAGE), "exec"), found)
    layouts = [store.layout(run) for run in store.runs]
    rows = np.concatenate([tensors_of(layout)[RESID][:, 0].float().numpy().reshape(-1, 16) for layout in layouts])
    variance = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2 / (len(rows) - 1)
    np.testing.assert_allclose(found["components"].variance, variance[: len(found["components"].variance)], rtol=1e-4)
