"""What the decodability study can ask of a token, and the rows that a probe for it is fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from interp.errors import TaskError, suggest
from interp.store import Store
from interp.tasks import Sample
from interp.tasks.maze import first_frame_features


@dataclass(frozen=True)
class Target:
    """One label of tokens.

    Attributes:
        name: of the task's label.
        title: for figures.
        asked: the question to a token, for captions.
        fork: probed on fork mazes, else on ordinary ones.
        model: "logistic" for two classes, "ridge" for a number.
        of_run: the label is the run's own answer, which runs without a valid one do not have; else the ground truth.
    """

    name: str
    title: str
    asked: str
    fork: bool = False
    model: Literal["logistic", "ridge"] = "logistic"
    of_run: bool = False


TARGETS = {
    target.name: target
    for target in (
        Target(
            "taken_route",
            "Route taken",
            "Is this cell on the route that the run ends up taking? Asked of cells on just one of a fork's two routes.",
            fork=True,
            of_run=True,
        ),
        Target("on_path", "On the path", "Is this cell on the path that the run ends with?", of_run=True),
        Target("on_shortest", "On a shortest route", "Is this cell on a shortest route (ground truth)?"),
        Target("wall_right", "Wall to the right", "Is there a wall to the right of this cell (ground truth)?"),
        Target("wall_down", "Wall below", "Is there a wall below this cell (ground truth)?"),
        Target(
            "distance",
            "Moves to the goal",
            "How many moves is it from this cell to the goal (ground truth)?",
            model="ridge",
        ),
    )
}
DEFAULTS = ("taken_route", "on_path")


def target_named(name: str) -> Target:
    """The target of that name.

    Raises:
        TaskError: there is none.
    """
    if name not in TARGETS:
        raise TaskError(f"there is no target {name!r}{suggest(name, TARGETS)}; there are: {', '.join(TARGETS)}")
    return TARGETS[name]


@dataclass(frozen=True)
class Rows:
    """The tokens that one target is probed on: one row each.

    Attributes:
        run, token: where the row comes from: position in the list of runs, and among the tokens kept: int [row].
        label: [row].
        maze: content key of the maze [row]; rows of one maze are never on both sides of a split.
        runs: how many runs there are, with or without rows.
        answered: how many of them have a label at all.
    """

    run: np.ndarray
    token: np.ndarray
    label: np.ndarray
    maze: np.ndarray
    runs: int
    answered: int

    def take(self, values: np.ndarray) -> np.ndarray:
        """Rows of ``values`` [run, ..., token, feature]: [..., row, feature]."""
        moved = np.moveaxis(values, -2, 1)
        return np.moveaxis(moved[self.run, self.token], 0, -2)

    def shuffled(self, target: Target, seed: int) -> np.ndarray:
        """Labels [row] that say nothing of the runs, with what makes rows alike kept.

        Tokens of a fork's two routes: the routes are exchanged in a random half of the runs. Other labels: permuted
        among the tokens of each run.
        """
        rng = np.random.default_rng(seed)
        if target.name == "taken_route":
            exchanged = rng.random(self.runs) < 0.5
            return np.where(exchanged[self.run], 1 - self.label, self.label)
        order = np.lexsort((rng.random(len(self.run)), self.run))
        label = np.empty_like(self.label)
        label[np.argsort(self.run, kind="stable")] = self.label[order]
        return label


def rows_of(target: Target, store: Store, keys: Sequence[str], samples: Sequence[Sample], site: str) -> Rows:
    """The labelled tokens of runs.

    Args:
        target: what is asked.
        store: holds the runs.
        keys: of the runs.
        samples: of the runs.
        site: whose kept tokens are meant.

    Raises:
        TaskError: no run has a label.
    """
    labels = np.asarray(store.labels(target.name, runs=keys, site=site), dtype=np.float64)
    run, token = np.nonzero(np.isfinite(labels))
    answered = len(np.unique(run))
    if not answered:
        raise TaskError(
            f"none of {len(keys)} runs has a label {target.name!r}"
            + (": no run ended with a valid path, so this model answers nothing to probe for" if target.of_run else "")
            + "; choose another target, an easier size, or a model that solves mazes"
        )
    mazes = np.array([sample.key for sample in samples])
    return Rows(run, token, labels[run, token], mazes[run], len(keys), answered)


def first_frames(rows: Rows, samples: Sequence[Sample]) -> np.ndarray:
    """What the network was given, seen from each row's cell: [row, feature]."""
    cache: dict[str, np.ndarray] = {}
    for sample in samples:
        if sample.key not in cache:
            features = first_frame_features(sample.problem)
            cache[sample.key] = features.reshape(-1, features.shape[-1])
    return np.stack(
        [
            cache[samples[run].key][token % len(cache[samples[run].key])]
            for run, token in zip(rows.run, rows.token, strict=True)
        ]
    )
