"""Errors of probing. Each says what was asked, what was found, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from interp.errors import InterpError


class ProbeError(InterpError):
    """Data or arguments that no honest probe can be fitted to."""


class LeakageError(ProbeError):
    """A split in which a test row is not new: what belongs together lies on both sides."""


@contextmanager
def undamaged(folder: Path) -> Iterator[None]:
    """What a damaged or missing file gives rise to is said with the name of its folder."""
    from polars.exceptions import PolarsError
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, PolarsError, SafetensorError) as error:
        raise ProbeError(f"{folder} is damaged: {type(error).__name__}: {error}") from error
