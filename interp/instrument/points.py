"""Whoever sees and changes the named tensors of an instrumented block or attention."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Points(Protocol):
    """Whoever wants to see and change named tensors."""

    def wants(self, site: str) -> bool:
        """Whether a site would be changed now, other than by knock-outs; costly tensors are made only then."""

    def emit(self, site: str, tensor: Tensor) -> Tensor:
        """The tensor that goes on; of scores, with the knock-outs at that site applied too."""

    def closed(self, site: str) -> tuple[Any, ...]:
        """Knock-outs now: objects with ``rows``, ``heads``, ``queries`` and ``keys``."""

    def knocked(self, site: str, closed: tuple[Any, ...], before: Tensor, after: Tensor) -> None:
        """Knock-outs were applied."""


class Nobody:
    """Wants nothing and changes nothing."""

    def wants(self, site: str) -> bool:
        return False

    def emit(self, site: str, tensor: Tensor) -> Tensor:
        return tensor

    def closed(self, site: str) -> tuple[Any, ...]:
        return ()

    def knocked(self, site: str, closed: tuple[Any, ...], before: Tensor, after: Tensor) -> None:
        return None
