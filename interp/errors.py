"""Errors that a user can act on. Every message says what was asked, what exists near it, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InterpError(Exception):
    """Base of every error this package raises on purpose; its text is one clear sentence for the user."""


class ModelError(InterpError):
    """A model name, folder or pipeline that cannot be loaded or is not supported."""


class SelectionError(InterpError):
    """A selection that cannot be parsed or that matches nothing."""


class TaskError(InterpError):
    """A task, sample or video that does not fit what was asked of it."""


class StoreError(InterpError):
    """A store that cannot be written, or a file in it that cannot be trusted."""


class OutputError(InterpError):
    """An output folder that cannot be used."""


def suggest(asked: str, existing: Iterable[str], limit: int = 3) -> str:
    """`` (did you mean …?)`` with the nearest existing names, or an empty string."""
    near = difflib.get_close_matches(asked, list(existing), n=limit, cutoff=0.4)
    return f" (did you mean {', '.join(near)}?)" if near else ""
