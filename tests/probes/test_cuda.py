"""Grids on a GPU are those of a CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probes import fit_grid
from tests.probes.data import rows

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("model", ["logistic", "ridge", "lda", "means"])
@pytest.mark.parametrize(("n", "d", "classes"), [(200, 12, 2), (200, 12, 3), (80, 200, 2), (80, 200, 3)])
def test_a_grid_on_a_gpu_is_that_of_a_cpu(model, n, d, classes):
    x, y, group = rows(n, d, classes=classes)
    options = {"groups": group, "model": model, "task": "classification", "shuffles": 3, "bootstrap": 10, "tol": 1e-6}
    here, there = (
        fit_grid({(0, 0): x}, y, **options, dtype="float64", device=device, directions=True)
        for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(there.table["score"], here.table["score"], atol=2e-4)
    np.testing.assert_allclose(there.table["chance"], here.table["chance"], atol=1e-2)
    np.testing.assert_allclose(there.direction(0, 0), here.direction(0, 0), atol=1e-3)
