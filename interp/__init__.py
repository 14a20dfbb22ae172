"""Find out when and where a Wan video diffusion transformer comes to its answer, and prove it by intervening.

Public names are listed here and loaded when first used, so that ``import interp`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp import answers, edits, lenses, lora, tasks
    from interp.capture import Receipt
    from interp.errors import InterpError, ModelError, OutputError, SelectionError, StoreError, TaskError
    from interp.grid import TokenGrid
    from interp.lab import Lab, load
    from interp.model import bundled_models
    from interp.result import RunResult
    from interp.runspec import RunSpec, SamplerSettings
    from interp.selection import AddressSpace, Resolution, Selection, select
    from interp.store import Store
    from interp.tasks.sample import Sample
    from interp.trajectory import Schedule, Trajectory

_HOMES = {
    "AddressSpace": "interp.selection",
    "InterpError": "interp.errors",
    "Lab": "interp.lab",
    "ModelError": "interp.errors",
    "OutputError": "interp.errors",
    "Receipt": "interp.capture",
    "Resolution": "interp.selection",
    "RunResult": "interp.result",
    "RunSpec": "interp.runspec",
    "Sample": "interp.tasks.sample",
    "SamplerSettings": "interp.runspec",
    "Schedule": "interp.trajectory",
    "Selection": "interp.selection",
    "SelectionError": "interp.errors",
    "Store": "interp.store",
    "StoreError": "interp.errors",
    "TaskError": "interp.errors",
    "TokenGrid": "interp.grid",
    "Trajectory": "interp.trajectory",
    "bundled_models": "interp.model",
    "load": "interp.lab",
    "select": "interp.selection",
}
_ROOMS = ("answers", "edits", "lenses", "lora", "tasks")
__all__ = [
    "AddressSpace",
    "InterpError",
    "Lab",
    "ModelError",
    "OutputError",
    "Receipt",
    "Resolution",
    "RunResult",
    "RunSpec",
    "Sample",
    "SamplerSettings",
    "Schedule",
    "Selection",
    "SelectionError",
    "Store",
    "StoreError",
    "TaskError",
    "TokenGrid",
    "Trajectory",
    "answers",
    "bundled_models",
    "edits",
    "lenses",
    "load",
    "lora",
    "select",
    "tasks",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"interp.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'interp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
