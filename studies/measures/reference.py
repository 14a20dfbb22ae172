"""Undisturbed runs, and how far others have gone from them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch

from interp import Selection
from interp.edits import EditedRun
from interp.patches import patchify
from probes.geometry import cka
from studies.base.signs import X0
from studies.measures.answers import answer_of
from studies.runs.bench import Bench
from studies.runs.clean import X0_SITE, CleanRuns

ROWS = 1024
"""Tokens that CKA is taken over, at most."""
STATES = {
    "latents": "noisy latents",
    "x0": X0,
    "hidden": "the residual stream after one block, last latent frame",
}
ANSWER = "answer"


class Reference:
    """The undisturbed runs, and how far others are from them.

    Args:
        bench: of the study.
        clean: the runs.
        hidden: which hidden states are compared, stored for all runs.
        watched: steps at which the answers that x0_hat shows are compared, too.
    """

    def __init__(self, bench: Bench, clean: CleanRuns, hidden: Selection, watched: Collection[int] = ()) -> None:
        self.bench, self.clean, self.watched = bench, clean, watched
        self._answers: dict[int, list[str]] = {}
        self.site = str(hidden.resolve(bench.lab.space(clean.specs[0])).sites[0])
        self.store = bench.store("hidden", clean.specs, hidden)
        self.number = {spec.key: k for k, spec in enumerate(clean.specs)}
        self.grid = bench.lab.grid(clean.specs[0].sample)

    def states(self, run: int, step: int) -> dict[str, np.ndarray]:
        """By state: [token, feature] of an undisturbed run."""
        key = self.clean.specs[run].key
        return {
            "latents": self.clean.tokens("latents.hook_in", step, [run])[0],
            "x0": self.clean.tokens(X0_SITE, step, [run])[0],
            "hidden": np.asarray(self.store.read(self.site, step=step, runs=[key]))[0],
        }

    def answers(self, step: int) -> list[str]:
        """What x0_hat of a step shows, run by run; see `studies.measures.answers.answer_of`."""
        if step not in self._answers:
            self._answers[step] = [answer_of(score) for score in self.clean.scores(step)]
        return self._answers[step]

    def differences(self, run: EditedRun) -> dict[str, list[float | None]]:
        """By state: 1 - CKA at every step after the disturbed one; by answer: whether it is another, where watched."""
        if not run.edits.edits:
            return {state: [] for state in (*STATES, ANSWER)}
        number, first, hidden = self.number[run.spec.key], run.first, run.captured[self.site]
        disturbed = self.clean.steps - len(hidden)  # what is captured begins with the disturbed step
        found: dict[str, list[float | None]] = {state: [] for state in STATES}
        later = range(disturbed + 1, self.clean.steps)
        for step in later:
            mine = {
                "latents": patchify(run.trajectory.latents[step - first][None], self.grid)[0].numpy(),
                "x0": patchify(run.trajectory.x0_hat[step - first][None], self.grid)[0].numpy(),
                "hidden": hidden[step - disturbed, 0].numpy(),
            }
            for state, value in self.states(number, step).items():
                found[state].append(dissimilarity(value, mine[state]))
        return {**found, ANSWER: self._other_answers(run, number, later)}

    def _other_answers(self, run: EditedRun, number: int, later: range) -> list[float | None]:
        seen = [step for step in later if step in self.watched]
        if not seen:
            return [None for _ in later]
        videos = self.bench.lab.frames(torch.stack([run.trajectory.x0_hat[step - run.first] for step in seen]))
        shown = (answer_of(self.bench.task.score(run.spec.sample, video)) for video in videos)
        other = {step: float(name != self.answers(step)[number]) for step, name in zip(seen, shown, strict=True)}
        return [other.get(step) for step in later]

    def between_seeds(self, steps: Sequence[int]) -> list[dict[str, Any]]:
        """The same between the first two seeds of every problem."""
        rows = []
        runs: dict[str, list[int]] = {}
        for spec in self.clean.specs:
            runs.setdefault(spec.sample.key, []).append(self.number[spec.key])
        for problem, (first, *others) in runs.items():
            for step in steps if others else ():
                one, two = self.states(first, step), self.states(others[0], step)
                values = {state: dissimilarity(one[state], two[state]) for state in STATES}
                if step in self.watched:
                    shown = self.answers(step)
                    values[ANSWER] = float(shown[first] != shown[others[0]])
                about = {"kind": "seeds", "at": None, "step": step, "sigma": self.clean.sigmas[step]}
                about |= {"problem": problem, "run": problem}
                rows += [{**about, "state": state, "value": value} for state, value in values.items()]
        return rows


def dissimilarity(one: np.ndarray, other: np.ndarray) -> float:
    """1 - linear unbiased CKA of [row, feature] and [row, feature]; every so many rows of long ones."""
    every = max(1, len(one) // ROWS)
    x, y = (torch.from_numpy(np.ascontiguousarray(v[::every], dtype=np.float32)) for v in (one, other))
    return 1.0 - cka(x, y)
