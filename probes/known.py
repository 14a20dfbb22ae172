"""Which labels are known: targets, kinds and concepts may be NaN or None where they do not apply."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def is_known(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Mask of labels, of their shape, that are neither NaN nor None."""
    if labels.dtype.kind == "f":
        return np.asarray(~np.isnan(labels))
    if labels.dtype == object:
        return np.array([v is not None and v == v for v in labels.reshape(-1)], dtype=bool).reshape(labels.shape)
    return np.ones(labels.shape, dtype=bool)
