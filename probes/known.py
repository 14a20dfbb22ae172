"""Labels as arrays, and which of them are known: targets, kinds and concepts may be NaN or None where they do not
apply."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def labels(value: Any) -> NDArray[Any]:
    """An array of labels: of a list, a column, or a tensor of any format."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value  # NumPy knows no bfloat16
    return np.asarray(value)


def is_known(given: NDArray[Any]) -> NDArray[np.bool_]:
    """Mask of labels, of their shape, that are neither NaN nor None."""
    if given.dtype.kind == "f":
        return np.asarray(~np.isnan(given))
    if given.dtype == object:
        return np.array([v is not None and v == v for v in given.reshape(-1)], dtype=bool).reshape(given.shape)
    return np.ones(given.shape, dtype=bool)
