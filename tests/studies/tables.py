"""A made-up result of the study with known numbers, for tests of what is built from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from studies.measures.cells import COLUMNS, Fits

STEPS, LAYERS = 6, 3
SIGMAS = (1.0, 0.97, 0.9, 0.7, 0.4, 0.1)


def score_of(layer: int, step: int) -> float:
    """Rises with the step and with the layer, from 0.5 to 1."""
    return 0.5 + 0.5 * min(1.0, max(0.0, (step + layer - 2) / 5))


def made_up_fits(target: str = "taken_route", *, rising: bool = True, margin: float = 0.03) -> Fits:
    """Fits whose scores are `score_of` (or chance), with intervals of ``margin`` either way."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    about = {
        "target": target,
        "metric": "balanced_accuracy",
        "n": 400,
        "groups": 40,
        "chance": 0.5,
        "chance_high": 0.54,
    }
    for step, sigma in enumerate(SIGMAS):
        where = {**about, "step": step, "sigma": sigma}
        for layer in range(LAYERS):
            for labels in ("run", "shuffled"):
                real = rising and labels == "run"
                score = score_of(layer, step) if real else 0.5 + rng.uniform(-0.02, 0.02)
                interval = {"score": score, "low": score - margin, "high": score + margin}
                rows.append(
                    {**where, **interval, "labels": labels, "source": "hook", "site": f"b{layer}", "layer": layer}
                )
        for source, score in (("x0_hat", score_of(LAYERS - 1, step)), ("x_t", 0.55), ("first_frame", 0.51)):
            interval = {"score": score, "low": score - margin, "high": score + margin}
            rows.append({**where, **interval, "labels": "run", "source": source, "chance": None, "chance_high": None})
    onsets = pl.DataFrame(
        {
            "layer": [*range(LAYERS), None],
            "onset": [3, 2, 1, 1] if rising else [None] * 4,
            "low": [3, 2, 1, 1] if rising else [None] * 4,
            "high": [4, 3, 2, 2] if rising else [None] * 4,
            "share": [1.0 if rising else 0.0] * 4,
            "sigma": [SIGMAS[i] if rising else None for i in (3, 2, 1, 1)],
        }
    )
    table = pl.DataFrame([{name: row.get(name) for name in COLUMNS} for row in rows], infer_schema_length=None)
    counts = {target: {"rows": 400, "runs": 78, "of_runs": 80, "mazes": 40, "seeds": 2}}
    return Fits(table, {target: onsets}, counts)


def made_up_occupancy(*, pruned: bool = True) -> pl.DataFrame:
    """Both routes drawn at first; the other one given up, or not."""
    rows = []
    for step, sigma in enumerate(SIGMAS):
        done = step / (len(SIGMAS) - 1)
        means = {"taken": 0.5 + 0.5 * done, "other": 0.45 * (1 - done) if pruned else 0.45, "elsewhere": 0.02}
        for kind, mean in means.items():
            rows.append(
                {
                    "kind": kind,
                    "step": step,
                    "sigma": sigma,
                    "mean": mean,
                    "low": mean - 0.02,
                    "high": mean + 0.02,
                    "n": 78,
                }
            )
    return pl.DataFrame(rows)
