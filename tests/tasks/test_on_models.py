"""Every task on random-weight models of every shape: what is planned, run, scored, labelled and selected fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp import tasks
from interp.edits import patch
from interp.lab import Lab
from tests.pipelines import tiny_i2v, tiny_t2v, tiny_ti2v

MODELS: dict[str, Callable[[], Any]] = {
    "A14B": lambda: tiny_i2v(two_experts=True),
    "T2V-1.3B": tiny_t2v,
}
TASKS = ("bounce", "grounding", "maze", "reappearance")


def check(lab: Lab, task: Any, sample: Any, region: str) -> None:
    run = lab.plan(sample, steps=2, guidance_scale=2.0)[0]
    result = lab.run(run)
    assert not isinstance(result, list)
    assert result.frames.shape == (17, sample.height, sample.width, 3)
    grid = lab.grid(sample)
    score = task.score(sample, result.frames)
    assert isinstance(score, tasks.Score)
    assert not score.solved  # random weights
    evidence = task.evidence(sample, result.frames)
    assert len(evidence) == len(task.candidates(sample))
    labels = task.labels(sample, score, grid)
    arrays = {name: v for name, v in labels.items() if np.ndim(v)}
    assert arrays
    assert all(v.shape == (grid.frames, grid.rows, grid.cols) for v in arrays.values())
    tokens = task.region(sample, region, grid, frames=-1)
    assert tokens
    assert set(tokens) <= set(range(grid.tokens))
    edited: Any = lab.run(run, edits=patch("blocks.0.hook_resid_post", tokens=tokens, step=0, source=run))
    apart = np.abs(edited.frames.astype(int) - result.frames)  # its own activations change nothing ...
    assert apart.max() <= 1  # ... but for how a larger batch is added up


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("model", MODELS)
def test_tasks_on_models_of_other_shapes(model: str, name: str) -> None:
    task: Any = tasks.get(name, size=4) if name == "maze" else tasks.get(name)
    sample = task.sample(1)[0]
    if model.startswith("T2V"):
        sample = dataclasses.replace(sample, image=None)
    check(Lab(MODELS[model](), model), task, sample, "goal" if name == "maze" else "answer")


@pytest.mark.parametrize("name", ["bounce", "grounding"])
def test_scenes_on_a_model_with_a_coarser_vae_go_through_a_folder(name: str, tmp_path: Path) -> None:
    """TI2V-5B has 32 pixels a token: twice the size gives it the same token grid, labels and regions."""
    own: Any = tasks.get(name)
    task = tasks.get("vbvr", path=tasks.VBVRTask.write(tmp_path, own.sample(1)), height=160, width=160)
    sample = task.sample()[0]
    lab = Lab(tiny_ti2v(), "TI2V-5B")
    assert lab.grid(sample).shape == (5, 5, 5)
    check(lab, task, sample, "answer")
    large = task.render(sample).repeat(2, 1).repeat(2, 2)
    assert task.score(sample, large).solved
    assert task.labels(sample, task.score(sample, large), lab.grid(sample))["solved"]
