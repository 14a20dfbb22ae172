"""What geometry is given, as tensors: arrays, tensors of any format, tables, blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from probes.errors import ProbeError
from probes.tensor import tensor


def matrix(value: Any) -> torch.Tensor:
    """Rows [row, feature] in float64, finite.

    Raises:
        ProbeError: they are no rows of numbers, or not finite.
    """
    rows = tensor(value).to(torch.float64)
    if rows.ndim != 2:
        raise ProbeError(f"Rows must be [row, feature]; got shape {tuple(rows.shape)}.")
    if not torch.isfinite(rows).all():
        raise ProbeError("Rows hold NaN or infinity.")
    return rows


def array(value: Any) -> NDArray[np.float64]:
    """Numbers of any shape as a float64 array."""
    return np.asarray(tensor(value).to(torch.float64).cpu().numpy())


def blocks(value: Any) -> Iterator[Any]:
    """An array or a tensor as the one block that it is; an iterable of blocks; or what a function gives of these."""
    given = value() if callable(value) else value
    if hasattr(given, "shape"):
        yield given
        return
    yield from given


def centred(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean [feature] of rows [row, feature], and rows less it. A feature that does not vary comes out as exactly 0:
    the mean of many equal numbers may round, and what is left would look like a very small signal."""
    away = rows - rows[:1]
    middle = away.mean(dim=0)
    return (rows[:1] + middle).squeeze(0), away.sub_(middle)
