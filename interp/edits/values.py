"""Tensors as values: equal by content, hashable, on the CPU, never changed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from interp.errors import InterpError


@dataclass(frozen=True, eq=False)
class Values:
    """A tensor that is compared and hashed by its dtype, shape and bytes; make one with `Values.of`."""

    tensor: Tensor

    @classmethod
    def of(cls, data: Any) -> Values:
        """A private copy of a tensor, an array, a number or nested lists of numbers.

        Raises:
            InterpError: not numbers, or not finite.
        """
        if isinstance(data, Values):
            return data
        try:
            tensor = data.detach() if isinstance(data, Tensor) else torch.as_tensor(data)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InterpError(f"{type(data).__name__} cannot be made a tensor of numbers: {error}") from None
        if tensor.dtype == torch.float64:
            tensor = tensor.float()
        if not bool(torch.isfinite(tensor).all()):
            raise InterpError("a tensor of an edit holds NaN or infinity")
        return cls(tensor.cpu().clone().contiguous())

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits of the content."""
        head = f"{self.tensor.dtype}{tuple(self.tensor.shape)}".encode()
        body = self.tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        return hashlib.sha256(head + body).hexdigest()[:16]

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return tuple(self.tensor.shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Values) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        if self.tensor.numel() == 1:
            return f"{self.tensor.item():.6g}"
        return f"{self.digest[:8]}[{' '.join(map(str, self.shape))}]"
