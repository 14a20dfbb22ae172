"""Tasks: generators of problems with exact ground truth, labels to probe for, and exact solvers that score a video."""

from __future__ import annotations

from typing import Any, Literal, overload

from interp.errors import TaskError, suggest
from interp.tasks.maze import MazeTask
from interp.tasks.sample import Sample
from interp.tasks.scene import BounceTask, GroundingTask, ReappearanceTask
from interp.tasks.task import Score, Task
from interp.tasks.vbvr import VBVRTask

_TASKS: dict[str, Any] = {
    "bounce": BounceTask,
    "grounding": GroundingTask,
    "maze": MazeTask,
    "reappearance": ReappearanceTask,
    "vbvr": VBVRTask,
}


def names() -> tuple[str, ...]:
    """Names of all tasks.

    >>> names()
    ('bounce', 'grounding', 'maze', 'reappearance', 'vbvr')
    """
    return tuple(sorted(_TASKS))


@overload
def get(name: Literal["maze"], **options: Any) -> MazeTask: ...
@overload
def get(name: Literal["grounding"], **options: Any) -> GroundingTask: ...
@overload
def get(name: Literal["reappearance"], **options: Any) -> ReappearanceTask: ...
@overload
def get(name: Literal["bounce"]) -> BounceTask: ...
@overload
def get(name: Literal["vbvr"], **options: Any) -> VBVRTask: ...
@overload
def get(name: str, **options: Any) -> Task: ...
def get(name: str, **options: Any) -> Task:
    """The task of that name.

    Args:
        name: see `names`.
        options: of that task, such as ``size=6`` for mazes or ``path=...`` for folders in VBVR layout; see the class.

    Raises:
        TaskError: there is no such task, or it has no such option.
    """
    if name not in _TASKS:
        raise TaskError(f"no task is called {name!r}{suggest(name, _TASKS)}; there are: {', '.join(names())}")
    known = _TASKS[name].options()
    for option in options:
        if option not in known:
            there = f"its options: {', '.join(known)}" if known else "it has none"
            raise TaskError(f"the {name} task has no option {option!r}{suggest(option, known)}; {there}")
    task: Task = _TASKS[name](**options)
    return task


__all__ = [
    "BounceTask",
    "GroundingTask",
    "MazeTask",
    "ReappearanceTask",
    "Sample",
    "Score",
    "Task",
    "VBVRTask",
    "get",
    "names",
]
