"""What users give as features, as a tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from probes.errors import ProbeError


def tensor(value: Any, name: str | None = None) -> torch.Tensor:
    """Numbers as a tensor of their own format, without a copy where there need be none. ``name``: of what they are, for
    the message.

    Raises:
        ProbeError: they are no numbers.
    """
    if isinstance(value, torch.Tensor):
        return value.detach()
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        said = f"{name}: features" if name else "Features"
        raise ProbeError(f"{said} must be numbers; got {type(value).__name__} of {array.dtype}.")
    array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))
    return torch.from_numpy(array if array.flags.writeable else array.copy())
