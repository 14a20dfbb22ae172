"""From a device to main memory while the model goes on: a few pinned buffers that are used again, and a stream beside.

A tensor that is copied as it comes (``tensor.cpu()``) makes the model wait, and new buffers for each cost more than the
copy. Here the device copies on a stream of its own into one of a few page-locked buffers, and what is to be done with
the numbers is done when they have arrived. When no buffer is free the oldest copy is waited for: so memory is bounded,
and a model that is faster than what takes its numbers is slowed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class _Flight:
    """A copy that is on its way."""

    arrived: Any
    buffer: Tensor
    numbers: Tensor
    then: Callable[[Tensor], None]


class HostCopies:
    """Copies in the order in which they are asked for.

    Args:
        buffers: how many copies may be on their way; memory is that many times the largest tensor.
    """

    def __init__(self, buffers: int = 8) -> None:
        self.buffers = buffers
        self._flying: deque[_Flight] = deque()
        self._free: list[Tensor] = []
        self._streams: dict[torch.device, Any] = {}

    def put(self, tensor: Tensor, then: Callable[[Tensor], None]) -> None:
        """Copy a tensor, and call ``then`` with the copy, now or later; it is good until ``then`` returns.

        Args:
            tensor: of any shape; nobody may change it in place before `flush`.
            then: is called in the order of `put`, in this thread; what it raises comes out of `put` or `flush`.
        """
        while self._flying and (len(self._flying) >= self.buffers or self._flying[0].arrived.query()):
            self._land()
        buffer = self._buffer(tensor)
        numbers = buffer[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        if not tensor.is_cuda:
            numbers.copy_(tensor)
            self._flying.append(_Flight(_Arrived(), buffer, numbers, then))
            return
        device = tensor.device
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        stream = self._streams[device]
        stream.wait_stream(torch.cuda.current_stream(device))  # the numbers have to be there first
        with torch.cuda.stream(stream):
            numbers.copy_(tensor, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record(stream)
        tensor.record_stream(stream)  # its memory is not given to others before it was copied
        self._flying.append(_Flight(arrived, buffer, numbers, then))

    def flush(self) -> None:
        """Wait until all copies have arrived and were dealt with."""
        while self._flying:
            self._land()

    def _land(self) -> None:
        flight = self._flying.popleft()
        flight.arrived.synchronize()
        try:
            flight.then(flight.numbers)
        finally:
            self._free.append(flight.buffer)

    def _buffer(self, tensor: Tensor) -> Tensor:
        buffer = self._free.pop() if self._free else None
        if buffer is None or buffer.nbytes < tensor.nbytes:
            buffer = torch.empty(tensor.nbytes, dtype=torch.uint8, pin_memory=tensor.is_cuda)
        return buffer


class _Arrived:
    """What stands for the event of a copy that was made at once; it counts as on its way, so order and bounds hold."""

    def query(self) -> bool:
        return False

    def synchronize(self) -> None:
        return None
