"""Errors of probing. Each says what was asked, what was found, and what to do about it."""

from __future__ import annotations

from interp.errors import InterpError


class ProbeError(InterpError):
    """Data or arguments that no honest probe can be fitted to."""


class LeakageError(ProbeError):
    """A split in which a test row is not new: what belongs together lies on both sides."""
