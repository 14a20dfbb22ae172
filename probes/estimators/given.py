"""What estimators are given, as tensors: features, classes as numbers, rows that have weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, validate_data


def features(x: NDArray[Any]) -> torch.Tensor:
    """float32 stays; everything else is fitted in float64."""
    x = np.ascontiguousarray(x if x.dtype == np.float32 else x.astype(np.float64))
    return torch.from_numpy(x if x.flags.writeable else x.copy())


def weighted(
    x: NDArray[Any], target: NDArray[Any], sample_weight: Any
) -> tuple[NDArray[Any], NDArray[Any], torch.Tensor | None]:
    """Rows of positive weight, with their weights."""
    if sample_weight is None:
        return x, target, None
    weights = _check_sample_weight(sample_weight, x, dtype=np.float64, ensure_non_negative=True)
    used = weights > 0
    if not used.any():
        raise ValueError("Every sample weight is zero, so there is nothing to fit.")
    return x[used], target[used], torch.from_numpy(weights[used])


def classes(
    probe: Any, X: Any, y: Any, sample_weight: Any = None
) -> tuple[NDArray[Any], NDArray[np.int64], torch.Tensor | None]:
    """Rows of positive weight, the number of each one's class in ``probe.classes_``, which is set, and weights."""
    x, target = validate_data(probe, X, y, dtype=[np.float64, np.float32])
    check_classification_targets(target)
    x, target, weights = weighted(x, target, sample_weight)
    probe.classes_, code = np.unique(target, return_inverse=True)
    if len(probe.classes_) < 2:
        raise ValueError(f"A classifier needs at least 2 classes; the data holds 1 class, {probe.classes_}.")
    return x, code.reshape(-1).astype(np.int64), weights
