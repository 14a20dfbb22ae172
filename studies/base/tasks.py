"""The task of a study, from its command line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interp import tasks
from interp.errors import ModelError, TaskError
from interp.model import bundled_folder, bundled_models
from interp.tasks.vbvr import VBVRTask


def task_of(given: argparse.Namespace) -> Any:
    """The task that a command line names, or that of a folder in VBVR layout.

    ``--size`` is for tasks that have it, ``--video`` is for folders.

    Raises:
        TaskError: there is no such task or folder, or the folder holds no problem.
    """
    name = given.task
    if name not in tasks.names() and Path(name).is_dir():
        frames, height, width = given.video or (None, None, None)
        return VBVRTask(path=name, height=height, width=width, num_frames=frames)
    if given.video:
        raise TaskError(f"--video is for folders (--folder DIR); the task {name} has videos of one size")
    sized = "size" in tasks.get(name).options() if name in tasks.names() else False
    return tasks.get(name, **({"size": given.size} if sized and given.size else {}))


def fitted(given: argparse.Namespace, task: Any) -> argparse.Namespace:
    """The command line with no more problems than a folder has, which is said aloud."""
    there = len(task.folders) if isinstance(task, VBVRTask) else given.problems
    if there >= given.problems:
        return given
    print(f"{task.path} has {there} problems, and {given.problems} were asked for: all of them are taken", flush=True)
    return argparse.Namespace(**{**vars(given), "problems": there})


def default_task(model: str, suited: Sequence[str]) -> str:
    """The first of some tasks that a model was trained on; the last of all if it was trained on none.

    Args:
        model: see `tasks_of`.
        suited: names of tasks, the best suited first.
    """
    known = tasks_of(model)
    return next((name for name in suited if name in known), suited[-1])


def hardest_size(model: str, task: str) -> int | None:
    """The largest size of a task that a model was trained on; None if it was not, or if the task has no sizes.

    Args:
        model: see `tasks_of`.
        task: its name.
    """
    return max((size for name, size in _trained_on(model) if name == task and size), default=None)


def tasks_of(model: str) -> tuple[str, ...]:
    """Names of the tasks that a model was trained on, by the recipe in its card; mazes if it has none.

    Args:
        model: a bundled name or a folder that may have a ``card.json``; or anything else.

    Raises:
        ModelError: the card is no JSON.
    """
    trained = {name for name, _ in _trained_on(model)}
    return tuple(name for name in tasks.names() if name in trained) or ("maze",)


def _trained_on(model: str) -> list[tuple[str, int | None]]:
    """Tasks and sizes in the recipe of a card: ``boards`` name both, ``sizes`` are those of mazes."""
    folder = bundled_folder(model) if model in bundled_models() else Path(model)
    card = folder / "card.json"
    if not card.is_file():
        return []
    try:
        stages = json.loads(card.read_text(encoding="utf-8")).get("recipe", {}).get("stages", ())
    except ValueError as error:
        raise ModelError(f"{card} cannot be read: {error}") from error
    named = [name for stage in stages for board in stage.get("boards", ()) for name, _ in board["parts"]]
    sized = [(name, int(size) if size else None) for name, _, size in (part.partition("-") for part in named)]
    return sized + [("maze", size) for stage in stages for size in stage.get("sizes", ())]
