"""Tasks: generators of problems with exact ground truth, labels to probe for, and exact solvers that score a video."""

from __future__ import annotations

from typing import Any

from interp.errors import TaskError, suggest
from interp.tasks.maze import MazeTask
from interp.tasks.sample import Sample

_TASKS = {"maze": MazeTask}


def names() -> tuple[str, ...]:
    """Names of all tasks.

    >>> names()
    ('maze',)
    """
    return tuple(sorted(_TASKS))


def get(name: str, **options: Any) -> MazeTask:
    """The task of that name.

    Args:
        name: see `names`.
        options: of that task, such as ``size=6`` for mazes; see the class.

    Raises:
        TaskError: there is no such task, or it has no such option.
    """
    if name not in _TASKS:
        raise TaskError(f"no task is called {name!r}{suggest(name, _TASKS)}; there are: {', '.join(names())}")
    known = _TASKS[name].options()
    for option in options:
        if option not in known:
            raise TaskError(
                f"the {name} task has no option {option!r}{suggest(option, known)}; its options: {', '.join(known)}"
            )
    return _TASKS[name](**options)


__all__ = ["MazeTask", "Sample", "get", "names"]
