"""Linear probes on labelled tokens over steps and layers of a store, and the same on shuffled labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from interp.store import Store
from probes import GridResult, fit_grid
from studies.base.claim import Estimate

FOLDS = 5
STRENGTHS = (0.001, 0.03)
Features = Callable[[], np.ndarray]


@dataclass(frozen=True)
class TokenRows:
    """Labelled tokens of runs.

    Attributes:
        keys: of the runs.
        run, token: of each row: position in ``keys``, and among the tokens that the store kept.
        label: 0 or 1 [row].
        group: problem of each row; one problem is never on both sides of a split.
    """

    keys: Sequence[str]
    run: np.ndarray
    token: np.ndarray
    label: np.ndarray
    group: np.ndarray

    @staticmethod
    def of(keys: Sequence[str], problems: Sequence[str], labels: Sequence[np.ndarray | None]) -> TokenRows:
        """From labels [token] of each run, NaN where a token has none, None for a run without any."""
        run: list[int] = []
        token: list[int] = []
        label: list[float] = []
        for k, one in enumerate(labels):
            known = np.flatnonzero(np.isfinite(one)) if one is not None else np.array([], dtype=int)
            run += [k] * len(known)
            token += known.tolist()
            label += [] if one is None else one[known].tolist()
        at = np.array(run, dtype=int)
        return TokenRows(keys, at, np.array(token, dtype=int), np.array(label), np.array(problems)[at])

    @property
    def enough(self) -> bool:
        """Whether there are problems for every fold, and both labels in each of as many."""
        both = [g for g in np.unique(self.group) if len(np.unique(self.label[self.group == g])) == 2]
        return len(both) >= FOLDS

    def shuffled(self, seed: int) -> np.ndarray:
        """Labels [row] permuted among the tokens of each run."""
        rng = np.random.default_rng(seed)
        order = np.lexsort((rng.random(len(self.run)), self.run))
        label = np.empty_like(self.label)
        label[np.argsort(self.run, kind="stable")] = self.label[order]
        return label

    def read(self, store: Store, site: str, step: int) -> Features:
        """Features [row, feature] of a site at a step, read when they are needed."""

        def features() -> np.ndarray:
            values = store.read(site, step=step, runs=self.keys)
            return np.asarray(values.reshape(*values.shape[:2], -1)[self.run, self.token])

        return features


@dataclass(frozen=True)
class Probed:
    """Probes on the labels, and on shuffled ones."""

    real: GridResult
    control: GridResult

    def mean(self, layers: Sequence[int], *, control: bool = False) -> Estimate:
        """Mean score over some layers and all steps, with a bootstrap over problems."""
        score, draws = self._over(layers, control)
        return self._estimate(score, draws)

    def difference(self, first: Sequence[int], second: Sequence[int], *, control: bool = False) -> Estimate:
        """The same over some layers, less that over others."""
        one, other = self._over(first, control), self._over(second, control)
        return self._estimate(one[0] - other[0], one[1] - other[1])

    def _over(self, layers: Sequence[int], control: bool) -> tuple[float, np.ndarray]:
        grid = self.control if control else self.real
        chosen = np.isin(grid.table["layer"].to_numpy(), list(layers))
        return float(grid.table["score"].to_numpy()[chosen].mean()), grid.resamples()[:, chosen].mean(1)

    def _estimate(self, score: float, draws: np.ndarray) -> Estimate:
        low, high = np.nanpercentile(draws, [2.5, 97.5])
        return Estimate(score, float(low), float(high), int(self.real.table["groups"][0]))


def probe_tokens(
    rows: TokenRows,
    cells: Mapping[tuple[int, int], Features],
    sigmas: Mapping[int, float],
    baselines: Mapping[str, Any],
    *,
    shuffles: int,
    seed: int,
    max_rows: int = 1500,
) -> Probed:
    """Fit logistic probes in every (step, layer); baselines are fitted on the same rows.

    Raises:
        ProbeError: too few problems for the folds.
    """
    common: dict[str, Any] = {"groups": rows.group, "model": "logistic", "sigmas": sigmas, "folds": FOLDS}
    common |= {"path": STRENGTHS, "max_rows": max_rows, "seed": seed}
    real = fit_grid(dict(cells), rows.label, shuffles=shuffles, baselines=dict(baselines), **common)
    return Probed(real, fit_grid(dict(cells), rows.shuffled(seed + 1), shuffles=0, **common))
