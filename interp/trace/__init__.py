"""nnsight over the hook points of a run: read and change tensors in ordinary Python while the run goes on.

nnsight itself is imported by `open_trace` and by nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from interp.errors import InterpError
from interp.runspec import RunSpec
from interp.selection import Selection

if TYPE_CHECKING:
    from interp.lab import Lab

WANTED = (0, 8)


def open_trace(
    lab: Lab,
    runs: RunSpec | Sequence[RunSpec],
    capture: str | Selection | Sequence[str | Selection] | None = None,
    *,
    also: str | Selection | Sequence[str | Selection] | None = None,
    dtype: str = "float32",
) -> Any:
    """See `interp.Lab.trace`."""
    try:
        found = version("nnsight")
    except PackageNotFoundError:
        raise InterpError(
            "lab.trace needs nnsight, which is not installed: pip install 'wan-interp[nnsight]'"
        ) from None
    if tuple(int(part) for part in found.split(".")[:2]) != WANTED:
        raise InterpError(f"lab.trace needs nnsight 0.8, and {found} is installed: pip install 'nnsight>=0.8.1,<0.9'")
    from interp.trace.tracer import LabTracer

    return LabTracer(lab, runs, capture, also, dtype)
