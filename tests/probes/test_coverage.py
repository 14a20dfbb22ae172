"""Ground truth that we made: do intervals cover it, and does noise stay without an onset?

Rows of a group share part of their noise, as tokens of a video do. A probe's true score is known: decision values are
normal within each class, so accuracy on new groups is a normal probability.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.stats import norm

from probes import GridResult, compare_grids, fit_grid, fit_transfer, simultaneous_bands, transfer_between
from probes.between import by_kind, plan_of
from probes.cell import fit_cell
from probes.prepare import prepare
from probes.score import METRICS
from probes.transfer import _places

GROUPS, ROWS, WIDTH, STEPS, ONSET = 40, 6, 4, 6, 3
SHARED = 0.6
"""Variance of the noise that rows of a group share; what is left is their own."""


def noise(rng: np.random.Generator, group: np.ndarray, width: int = WIDTH) -> np.ndarray:
    """[row, feature]"""
    shared = np.sqrt(SHARED) * rng.normal(size=(GROUPS, width))[group]
    return shared + np.sqrt(1 - SHARED) * rng.normal(size=(len(group), width))


@dataclass(frozen=True)
class Made:
    """One repetition: cells, labels and groups."""

    cells: dict[tuple[int, int], np.ndarray]
    y: np.ndarray
    group: np.ndarray

    @staticmethod
    def of(seed: int, strength: float, width: int = WIDTH) -> Made:
        rng = np.random.default_rng(seed)
        group = np.repeat(np.arange(GROUPS), ROWS)
        y = rng.integers(0, 2, size=len(group))
        cells = {}
        for s in range(STEPS):
            x = noise(rng, group, width)
            x[:, 0] += (s >= ONSET) * strength * (2 * y - 1)
            cells[s, 0] = x
        return Made(cells, y, group)

    def options(self) -> dict:
        return {"groups": self.group, "model": "means", "standardise": False, "dtype": "float64"}

    def truth(self, strength: float | dict[int, float], seed: int) -> np.ndarray:
        """True balanced accuracy [step] of the probes of each step, mean over the folds that are drawn with ``seed``:
        what the interval is of. ``strength``: from the onset on, or of each step."""
        data, plan = prepare(self.cells, self.y, **self.options(), shuffles=0, seed=seed)
        out = []
        for (s, _), x in self.cells.items():
            probes = fit_cell(data.matrix((s, 0), dtype=plan.dtype), plan, keep_directions=True).directions
            assert probes is not None
            assert len(x) == len(self.y)
            w, b = probes.coef[..., 0].astype(float), probes.intercept[:, 0]
            planted = strength[s] if isinstance(strength, dict) else (s >= ONSET) * strength
            gap, spread = planted * w[:, 0], np.linalg.norm(w, axis=1)
            out.append(np.mean((norm.cdf((gap + b) / spread) + norm.cdf((gap - b) / spread)) / 2))
        return np.array(out)


def covered(repetitions: int, strength: float = 1.0, level: float = 0.95) -> np.ndarray:
    """Share of repetitions [step] whose interval holds the true score."""
    hits = np.zeros(STEPS)
    for seed in range(repetitions):
        made = Made.of(seed, strength)
        table = fit_grid(
            made.cells, made.y, **made.options(), shuffles=20, bootstrap=1000, level=level, seed=seed
        ).table
        truth = made.truth(strength, seed)
        hits += (table["low"].to_numpy() <= truth) & (truth <= table["high"].to_numpy())
    return hits / repetitions


def grid(seed: int, strength: float) -> GridResult:
    made = Made.of(seed, strength)
    return fit_grid(made.cells, made.y, **made.options(), shuffles=20, bootstrap=500, seed=seed)


def onsets(repetitions: int, strength: float) -> list[tuple[int | None, int | None, int | None]]:
    """Onset and its interval in every repetition."""
    return [grid(seed, strength).onset().select("onset", "low", "high").row(-1) for seed in range(repetitions)]


def covered_at_once(repetitions: int, strength: float) -> float:
    """Share of repetitions in which all steps lie in the simultaneous band."""
    hits = 0
    for seed in range(repetitions):
        band, truth = simultaneous_bands(grid(seed, strength)), Made.of(seed, strength).truth(strength, seed)
        hits += bool(((band["low"].to_numpy() <= truth) & (truth <= band["high"].to_numpy())).all())
    return hits / repetitions


def near_the_end(repetitions: int, strength: float, width: int = WIDTH) -> tuple[float, np.ndarray]:
    """Of one step with a signal: the share of repetitions whose interval holds the truth, and of those without a fault
    the lower bound and the truth [repetition, 2]."""
    hits, perfect = 0, []
    for seed in range(repetitions):
        made = Made.of(seed, strength, width)
        made = Made({(ONSET, 0): made.cells[ONSET, 0]}, made.y, made.group)
        row = fit_grid(made.cells, made.y, **made.options(), shuffles=0, bootstrap=1000, seed=seed).table.row(
            0, named=True
        )
        truth = made.truth(strength, seed)[0]
        hits += row["low"] <= truth <= row["high"]
        if row["score"] == 1:
            perfect.append((row["low"], truth))
    return hits / repetitions, np.array(perfect).reshape(-1, 2)


NEAR, MIDDLE = ((1.8, 2.2), (2.2, 2.6), (2.6, 2.6)), ((0.5, 0.7), (0.7, 1.0), (1.0, 1.4))
"""Strengths on both sides of a difference: scores of 0.96 to 0.995, and of 0.68 to 0.92."""


def covered_differences(repetitions: int) -> tuple[np.ndarray, float]:
    """Share of repetitions whose interval of a difference holds the truth [pair of strengths], and of those whose bands
    hold all. Pairs of unlike strengths share their noise, as two sites of a model do; the like ones do not."""
    pairs = NEAR + MIDDLE
    hits, at_once = np.zeros(len(pairs)), 0
    for seed in range(repetitions):
        rng = np.random.default_rng(seed)
        group = np.repeat(np.arange(GROUPS), ROWS)
        y = rng.integers(0, 2, size=len(group))
        shared, grids, truths = [noise(rng, group) for _ in pairs], [], []
        for side in (0, 1):
            strengths, cells = {i: pair[side] for i, pair in enumerate(pairs)}, {}
            for i, (first, second) in enumerate(pairs):
                x = noise(rng, group) if first == second else shared[i].copy()
                x[:, 0] += strengths[i] * (2 * y - 1)
                cells[i, 0] = x
            made = Made(cells, y, group)
            grids.append(fit_grid(cells, y, **made.options(), shuffles=0, bootstrap=20, seed=seed))
            truths.append(made.truth(strengths, seed))
        table = compare_grids(grids[0], grids[1], resamples=500, seed=seed)
        low, high, band_low, band_high = table.select("low", "high", "band_low", "band_high").to_numpy().T
        truth = truths[0] - truths[1]
        hits += (low <= truth) & (truth <= high)
        at_once += bool(((band_low <= truth) & (truth <= band_high)).all())
    return hits / repetitions, at_once / repetitions


def covered_elsewhere(repetitions: int, strength: float, rescale: bool) -> np.ndarray:
    """Share of repetitions [train, test] whose interval of transfer holds the truth; three steps that share most of
    their noise, with no signal, half of it, and all, each on a scale of its own."""
    steps, score = range(3), METRICS["balanced_accuracy"]
    hits = np.zeros((3, 3))
    for seed in range(repetitions):
        rng = np.random.default_rng(seed)
        group = np.repeat(np.arange(GROUPS), ROWS)
        y = rng.integers(0, 2, size=len(group))
        common, cells = noise(rng, group), {}
        for s in steps:
            x = np.sqrt(0.7) * common + np.sqrt(0.3) * noise(rng, group)
            x[:, 0] += strength * s / 2 * (2 * y - 1)
            cells[s, 0] = (1 + s) * x
        options = {"groups": group, "model": "means", "standardise": False, "dtype": "float64", "seed": seed}
        result = fit_transfer(cells, y, rescale=rescale, **options)
        low, high = (result.matrix(layer=0, column=name)[0] for name in ("low", "high"))
        data, plan = prepare(cells, y, **options, shuffles=0)
        x = {s: data.matrix((s, 0), dtype=plan.dtype) for s in steps}
        places, own = {s: _places(x[s], plan) for s in steps}, np.arange(plan.folds.k)
        assert plan.score is score
        for train in steps:
            probes = fit_cell(x[train], plan, keep_directions=True).directions
            assert probes is not None
            for test in steps:
                w, b = probes.coef[..., 0].astype(float), probes.intercept[:, 0]
                if rescale and test != train:
                    (there, deviation), (here, spread) = (
                        [part[own, own] for part in places[s]] for s in (train, test)
                    )  # fmt: skip
                    b = b + ((there - here * deviation / spread) * w).sum(axis=1)
                    w = w * deviation / spread
                gap, wide = (1 + test) * strength * test / 2 * w[:, 0], (1 + test) * np.linalg.norm(w, axis=1)
                truth = np.mean((norm.cdf((gap + b) / wide) + norm.cdf((gap - b) / wide)) / 2)
                hits[train, test] += low[train, test] <= truth <= high[train, test]
    return hits / repetitions


def covered_between(repetitions: int, strength: float, crossed: bool) -> np.ndarray:
    """Share of repetitions [train, test] whose interval of `transfer_between` holds the truth: two kinds of rows, the
    second with three fifths of the signal, and that turned. ``crossed``: groups hold rows of both kinds, as mazes do
    under two seeds; else each is of one kind."""
    signal = strength * np.array([[1.0, 0.0], [0.6 * np.cos(0.7), 0.6 * np.sin(0.7)]])  # [kind, feature]
    hits = np.zeros((2, 2))
    for seed in range(repetitions):
        rng = np.random.default_rng(seed)
        group = np.repeat(np.arange(GROUPS), ROWS)
        kind = (np.arange(len(group)) if crossed else group) % 2
        y, x = rng.integers(0, 2, size=len(group)), noise(rng, group)
        x[:, :2] += (2 * y - 1)[:, None] * signal[kind]
        options = {"groups": group, "model": "means", "standardise": False, "dtype": "float64", "seed": seed}
        table = transfer_between({(0, 0): x}, y, between=kind, **options).sort("train", "test")
        data, whole = prepare({(0, 0): x}, y, **options, path=0.03, shuffles=0)
        plan = by_kind(whole, kind, seed=seed)
        for train in (0, 1):
            own = kind == train
            probes = fit_cell(
                data.matrix((0, 0), dtype=plan.dtype)[torch.from_numpy(own)],
                plan_of(plan, own, ""),
                keep_directions=True,
            ).directions
            assert probes is not None
            w, b = probes.coef[..., 0].astype(float), probes.intercept[:, 0]
            for test in (0, 1):
                gap, wide = w[:, :2] @ signal[test], np.linalg.norm(w, axis=1)
                found = np.stack([norm.cdf((gap - b) / wide), norm.cdf((gap + b) / wide)])  # [class, fold]
                tested = [(plan.folds.fold == f) & (kind == test) for f in range(plan.folds.k)]
                rows = np.array([[(of & (y == k)).sum() for of in tested] for k in (0, 1)])
                truth = np.mean((found * rows).sum(axis=1) / rows.sum(axis=1))
                low, high = table.select("low", "high").row(2 * train + test)
                hits[train, test] += low <= truth <= high
    return hits / repetitions


def test_intervals_hold_the_truth():
    assert 0.85 <= covered(30).mean() <= 1.0


def test_noise_seldom_has_an_onset():
    assert sum(found is not None for found, _, _ in onsets(30, 0.0)) <= 4


def test_a_planted_onset_is_found():
    found = onsets(10, 1.2)
    assert sum(at == ONSET for at, _, _ in found) >= 8
    assert sum(low <= ONSET and (high is None or high >= ONSET) for _, low, high in found if low is not None) >= 9


@pytest.mark.slow
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 1.5])
def test_95_of_100_intervals_hold_the_truth(strength):
    share = covered(500, strength)
    print(f"strength {strength}: covered {share.round(3).tolist()}, mean {share.mean():.3f}")
    assert 0.93 <= share.mean() <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strength", "width"), [(0.0, 4), (1.4, 4), (1.8, 4), (2.2, 4), (2.6, 4), (2.0, 100), (2.6, 100)]
)
def test_intervals_hold_scores_near_the_end_of_their_scale(strength, width):
    share, perfect = near_the_end(500, strength, width)
    print(f"strength {strength}, {width} features: covered {share:.3f}")
    assert 0.93 <= share <= 0.985
    if len(perfect):
        low, truth = perfect.T
        print(f"{len(low)} without a fault: bounded at {low.min():.3f} or more, the truth {truth.min():.3f} or more")
        assert low.min() > 0.93  # rows alone ask for 0.97; with the slope at the score itself, 0.70 was met


@pytest.mark.slow
def test_intervals_and_bands_of_differences_hold_the_truth_near_the_end_and_in_the_middle():
    share, at_once = covered_differences(150)
    near, middle = share[: len(NEAR)], share[len(NEAR) :]
    print(f"near {near.round(3).tolist()}, middle {middle.round(3).tolist()}, all at once {at_once:.3f} of 150")
    assert 0.93 <= near.mean() <= 0.997
    assert 0.93 <= middle.mean() <= 0.985
    assert share.min() >= 0.91
    assert at_once >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize("strength", [0.0, 0.7, 1.4])
def test_bands_hold_all_steps_at_once(strength):
    share = covered_at_once(500, strength)
    print(f"strength {strength}: all steps in {share:.3f} of 500")
    assert 0.92 <= share <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("strength", [0.0, 0.7, 1.4])
def test_intervals_of_transfer_hold_the_truth_off_the_diagonal_too(strength, rescale):
    share = covered_elsewhere(500, strength, rescale)
    away = share[~np.eye(3, dtype=bool)]
    print(f"strength {strength}, rescale={rescale}: {share.round(3).tolist()}, off the diagonal {away.mean():.3f}")
    assert 0.93 <= away.mean() <= 0.98
    assert share.min() >= 0.915


@pytest.mark.slow
@pytest.mark.parametrize("crossed", [True, False])
@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_intervals_between_kinds_of_runs_hold_the_truth(strength, crossed):
    share = covered_between(200, strength, crossed)
    print(f"strength {strength}, crossed={crossed}: {share.round(3).tolist()}, mean {share.mean():.3f}")
    assert 0.93 <= share.mean() <= 0.98
    assert share.min() >= 0.9


@pytest.mark.slow
def test_noise_has_no_onset_in_95_of_100_repetitions():
    found = onsets(500, 0.0)
    share = np.mean([at is None for at, _, _ in found])
    print(f"no onset in {share:.3f} of 500")
    assert share >= 0.95


@pytest.mark.slow
def test_the_interval_of_an_onset_holds_the_planted_step():
    found = onsets(500, 0.8)
    at = np.mean([a == ONSET for a, _, _ in found])
    held = np.mean([low is not None and low <= ONSET and (high is None or high >= ONSET) for _, low, high in found])
    print(f"onset at the planted step in {at:.3f} of 500; its interval holds that step in {held:.3f}")
    assert held >= 0.93
