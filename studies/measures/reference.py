"""Undisturbed runs, and how far others have gone from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from interp import Selection
from interp.edits import EditedRun
from interp.patches import patchify
from probes.geometry import cka
from studies.base.signs import X0
from studies.runs.bench import Bench
from studies.runs.clean import X0_SITE, CleanRuns

ROWS = 1024
"""Tokens that CKA is taken over, at most."""
STATES = {
    "latents": "noisy latents",
    "x0": X0,
    "hidden": "the residual stream after one block, last latent frame",
}


class Reference:
    """The undisturbed runs, and how far others are from them."""

    def __init__(self, bench: Bench, clean: CleanRuns, hidden: Selection) -> None:
        self.bench, self.clean = bench, clean
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

    def differences(self, run: EditedRun) -> dict[str, list[float]]:
        """By state: 1 - CKA at every step after the disturbed one."""
        if not run.edits.edits:
            return {state: [] for state in STATES}
        number, first, hidden = self.number[run.spec.key], run.first, run.captured[self.site]
        disturbed = self.clean.steps - len(hidden)  # what is captured begins with the disturbed step
        found: dict[str, list[float]] = {state: [] for state in STATES}
        for step in range(disturbed + 1, self.clean.steps):
            mine = {
                "latents": patchify(run.trajectory.latents[step - first][None], self.grid)[0].numpy(),
                "x0": patchify(run.trajectory.x0_hat[step - first][None], self.grid)[0].numpy(),
                "hidden": hidden[step - disturbed, 0].numpy(),
            }
            for state, value in self.states(number, step).items():
                found[state].append(dissimilarity(value, mine[state]))
        return found

    def between_seeds(self, steps: Sequence[int]) -> list[dict[str, Any]]:
        """1 - CKA between the first two seeds of every problem."""
        rows = []
        runs: dict[str, list[int]] = {}
        for spec in self.clean.specs:
            runs.setdefault(spec.sample.key, []).append(self.number[spec.key])
        for problem, (first, *others) in runs.items():
            for step in steps if others else ():
                one, two = self.states(first, step), self.states(others[0], step)
                about = {"kind": "seeds", "at": None, "step": step, "sigma": self.clean.sigmas[step]}
                rows += [
                    {
                        **about,
                        "problem": problem,
                        "run": problem,
                        "state": state,
                        "value": dissimilarity(one[state], two[state]),
                    }
                    for state in STATES
                ]
        return rows


def dissimilarity(one: np.ndarray, other: np.ndarray) -> float:
    """1 - linear unbiased CKA of [row, feature] and [row, feature]; every so many rows of long ones."""
    every = max(1, len(one) // ROWS)
    x, y = (torch.from_numpy(np.ascontiguousarray(v[::every], dtype=np.float32)) for v in (one, other))
    return 1.0 - cka(x, y)
