"""What `Lab.plan` takes for samples and seeds, and what it says of anything else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import interp
from interp.errors import InterpError, TaskError
from interp.lab import Lab, load
from interp.tasks.sample import Sample
from tests import pipelines


@pytest.fixture(scope="module")
def lab() -> Lab:
    return load(pipelines.tiny_t2v())


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return list(interp.tasks.get("maze", size=4).sample(2, seed=0))


@pytest.mark.parametrize(
    ("seeds", "wanted"), [(2, [0, 1]), (np.int64(2), [0, 1]), ([3, 7], [3, 7]), (np.array([3]), [3])]
)
@pytest.mark.usefixtures("nobody_checks_types")
def test_every_sample_with_every_seed(lab: Lab, samples: list[Sample], seeds: Any, wanted: list[int]) -> None:
    runs = lab.plan(iter(samples), seeds, steps=2)
    assert [(run.sample, run.seed) for run in runs] == [(sample, seed) for sample in samples for seed in wanted]
    assert {type(run.seed) for run in runs} == {int}
    assert lab.plan(samples[0], steps=2) == lab.plan(samples[:1], steps=2)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (3, r"plan was given 3 \(int\) where it needs samples; pass what a task makes"),
        ([None], r"plan was given None \(NoneType\)"),
        ("maze", r"plan was given 'maze' \(str\)"),
        (interp.tasks.get("maze", size=4), r"\(MazeTask\) where it needs samples"),
    ],
)
@pytest.mark.usefixtures("nobody_checks_types")
def test_what_is_no_sample(lab: Lab, asked: Any, words: str) -> None:
    with pytest.raises(TaskError, match=words):
        lab.plan(asked)


@pytest.mark.parametrize("seeds", [1.5, "12", [0.5], None])
@pytest.mark.usefixtures("nobody_checks_types")
def test_what_are_no_seeds(lab: Lab, samples: list[Sample], seeds: Any) -> None:
    with pytest.raises(InterpError, match="is neither a number of seeds nor a list of seeds; pass seeds=3"):
        lab.plan(samples, seeds)
