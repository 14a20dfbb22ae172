"""Directions and erasers handed to edits: what a probe could read before, it cannot after; steering moves it along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp import edits
from interp.errors import InterpError
from probes import LogisticProbe
from probes.geometry import Direction, leace, mean_difference
from tests.edits.labs import lab_and_runs, results

SITE = "blocks.0.hook_resid_post"


@pytest.fixture(scope="module")
def captured() -> tuple[Any, Any, np.ndarray, np.ndarray]:
    """A lab, its runs, their tokens at the site [row, feature], and whether each lies in the last latent frame."""
    lab, runs = lab_and_runs("t2v", guidance=1.0)
    return lab, runs, rows(lab.run(runs, SITE)), np.tile(np.arange(12) >= 8, len(runs)).astype(int)


def rows(found: Any) -> np.ndarray:
    return np.concatenate([result.captured[SITE][1, 0].double().numpy() for result in found])


def accuracy(x: np.ndarray, y: np.ndarray) -> float:
    return float(LogisticProbe(C=1.0).fit(x, y).score(x, y))


def test_an_erased_concept_cannot_be_read_any_more(captured: tuple[Any, Any, np.ndarray, np.ndarray]) -> None:
    lab, runs, x, y = captured
    eraser = leace(x, y)
    edit = edits.erase(SITE, eraser.mean, eraser.left, eraser.right, step=1)
    found = lab.run(runs, SITE, edits=edit)
    after = rows(found)
    np.testing.assert_allclose(after, eraser(x), atol=1e-5)
    assert accuracy(x, y) > 0.9
    assert accuracy(after, y) == pytest.approx(2 / 3)  # no better than always naming the larger class
    means = [after[y == k].mean(0) for k in (0, 1)]
    np.testing.assert_allclose(means[0], means[1], atol=1e-5)
    assert not torch.equal(results(found), results(lab.run(runs)))


def test_an_eraser_of_no_strength_changes_nothing(captured: tuple[Any, Any, np.ndarray, np.ndarray]) -> None:
    lab, runs, x, y = captured
    eraser = leace(x, y)
    edit = edits.erase(SITE, eraser.mean, eraser.left, eraser.right, strength=0.0, step=1)
    assert torch.equal(results(lab.run(runs, edits=edit)), results(lab.run(runs)))


def test_an_eraser_is_saved_with_the_graph(captured: tuple[Any, Any, np.ndarray, np.ndarray], tmp_path: Path) -> None:
    lab, runs, x, y = captured
    eraser = leace(x, np.stack([y, np.arange(len(y)) % 4], axis=1).astype(float))
    assert eraser.rank == 2
    edit = edits.erase(SITE, eraser.mean, eraser.left, eraser.right, step=1)
    again = edits.load(edits.save(edit, tmp_path / "erase.json"))
    assert torch.equal(results(lab.run(runs, edits=again)), results(lab.run(runs, edits=edit)))
    with pytest.raises(InterpError, match="rank, feature"):
        edits.erase(SITE, eraser.mean, eraser.right, eraser.left)
    with pytest.raises(InterpError, match="24"):
        lab.run(runs, edits=edits.erase(SITE, np.zeros(5), np.zeros((5, 1)), np.zeros((1, 5))))


def test_a_direction_from_a_file_steers_and_is_projected_out(
    captured: tuple[Any, Any, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    lab, runs, x, y = captured
    made = mean_difference(x, y)
    direction = Direction.load(made.save(tmp_path / "late.safetensors"))
    steered = rows(lab.run(runs, SITE, edits=edits.add(SITE, direction.vector, 1.0, step=1)))
    np.testing.assert_allclose(steered, x + made.vector, atol=1e-5)
    np.testing.assert_allclose(steered[y == 0].mean(0), x[y == 1].mean(0), atol=1e-5)
    without = rows(lab.run(runs, SITE, edits=edits.project_out(SITE, direction.vector, step=1)))
    np.testing.assert_allclose(without @ direction.unit, 0, atol=1e-4)
