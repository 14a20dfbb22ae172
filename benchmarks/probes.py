"""Grids of probes: our batched solvers beside the ways scikit-learn offers, with the same answers.

A cell is 5 folds x 5 regularisation values of one standardised probe, scored on what each fold left out; a grid has 60
cells. Ours solves a whole batch of cells; the peers are a loop over ``LogisticRegression`` (or ``RidgeClassifier``),
``LogisticRegressionCV``, and the loop through joblib. One thread on both sides. Peers are timed on a few cells, in turn
with ours (hours otherwise); the ratio is of times per cell. Features and labels are as hard as real ones: correlated,
on uneven scales, with labels they tell in part.

Equal answers: predictions on left-out rows are held against scikit-learn at tolerance 1e-10 in float64 where that takes
seconds, else against the peer's own; the script fails where more than 2 in 10,000 (0.5 % against the peer's own, which
is less exact) differ.

The limit: each row says how many operations ours cannot do without (``gflop_least``: Gram matrices or kernels, one
factor a penalty, and for logistic probes eight steps of two products for all fits), and how long these would take at
the speed of large products of matrices (``limit``, seconds a cell). That speed is timed in the same rounds, in turn
with both sides.

Cases with an aim come first. Each is timed in one round of all sides, and again, up to ``--rounds`` times, as far as
``--seconds`` go; where that is not once, the first round (no warm-up) is what is kept. ``rounds`` says so in each row.
``--minutes`` ends a run after the case that reaches so many, ``--resume`` goes on with the cases that the kept results
lack.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.harness import interleaved, kept_rows, publish, result, row
from probes.batch import stack_size
from probes.logistic import Columns, solve_logistic
from probes.ridge import solve_ridge
from probes.space import blocks

FOLDS = 5
PATHS = {"logistic": np.logspace(-3, 0, 5), "ridge": np.logspace(0, 4, 5)}
CELLS = 60
Decisions = dict[tuple[int, int], NDArray[np.generic]]
"""By fold and place on the path: decision values [row, output] of the rows left out."""


@dataclass(frozen=True)
class Case:
    """One size of problem."""

    model: str
    n: int
    d: int
    classes: int

    @property
    def name(self) -> str:
        return f"{self.model} N={self.n} d={self.d} K={self.classes}"

    @property
    def outputs(self) -> int:
        return 1 if self.classes == 2 else self.classes

    @property
    def aim(self) -> float | None:
        """How many times faster than the loop we want to be."""
        if self.model == "ridge":
            return {128: 25.0, 512: 8.0}.get(self.d)
        if self.d >= 5 * self.n:
            return 20.0
        return {128: 15.0, 512: 6.0}.get(self.d)

    @property
    def least(self) -> float:
        """Floating-point operations a cell: what no exact batched method does without, about."""
        size, fits = min(self.n * (FOLDS - 1) / FOLDS, self.d), FOLDS * 5 * self.outputs
        kernel = self.d > size
        products = FOLDS * self.n**2 * self.d if kernel else self.n * self.d**2  # symmetric: half of it
        if self.model == "ridge":
            return products + FOLDS * 5 * size**3 / 3
        return products + 5 * size**3 / 3 + 8 * 4 * self.n * (self.n if kernel else self.d) * fits


SIDE, TIMES = 512, 20


def multiply(a: torch.Tensor) -> None:
    """What the machine's speed is read off: products of a matrix [SIDE, SIDE] that the cache holds."""
    for _ in range(TIMES):
        a @ a


@dataclass(frozen=True)
class Data:
    """Cells of features [row, feature] that share labels and folds."""

    cells: tuple[NDArray[np.float32], ...]
    y: NDArray[np.int64]
    fold: NDArray[np.int64]

    @staticmethod
    def of(case: Case, count: int) -> Data:
        y, cells = np.empty(0, dtype=np.int64), []
        for i in range(count):
            rng = np.random.default_rng(i)
            mix = rng.normal(size=(case.d, case.d)) * np.arange(1, case.d + 1) ** -0.6
            x = rng.normal(size=(case.n, case.d)) @ mix.T
            if i == 0:
                logits = (x / x.std(axis=0)) @ rng.normal(size=(case.d, case.classes)) / np.sqrt(case.d) * 1.5
                y = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
            cells.append((x * np.exp(rng.normal(size=case.d)) + 5 * rng.normal(size=case.d)).astype(np.float32))
        return Data(tuple(cells), y, np.arange(case.n) % FOLDS)

    def train(self) -> torch.Tensor:
        return torch.from_numpy(np.stack([self.fold != f for f in range(FOLDS)], axis=1))


def ours(case: Case, data: Data, tol: float = 1e-4) -> list[Decisions]:
    """Every cell, in even batches of what fits into the cache."""
    most = stack_size(case.n, case.d, FOLDS * 5 * case.outputs)
    size = -(-len(data.cells) // -(-len(data.cells) // most))
    solve = _logistic if case.model == "logistic" else _ridge
    out: list[Decisions] = []
    for start in range(0, len(data.cells), size):
        out += solve(case, data, data.cells[start : start + size], tol)
    return out


def _logistic(case: Case, data: Data, cells: tuple[NDArray[np.float32], ...], tol: float) -> list[Decisions]:
    train, labels = data.train(), torch.from_numpy(data.y)[:, None]
    path = torch.tensor(PATHS["logistic"], dtype=torch.float32)
    (parts,) = zip(*(blocks(torch.from_numpy(x), train, dual=True) for x in cells), strict=True)
    sets = torch.arange(FOLDS).repeat_interleave(len(path))
    columns = Columns(sets, torch.zeros_like(sets), path.repeat(FOLDS))
    fits = solve_logistic(parts, labels, train, [columns] * len(parts), classes=case.classes, tol=tol)
    out = []
    for fit in fits:
        assert bool(fit.converged.all())
        decision = fit.decision.numpy()
        out.append({(j // 5, j % 5): decision[data.fold == j // 5, j] for j in range(len(columns))})
    return out


def _ridge(case: Case, data: Data, cells: tuple[NDArray[np.float32], ...], tol: float) -> list[Decisions]:
    train, alphas = data.train(), torch.tensor(PATHS["ridge"])
    targets = 2.0 * np.eye(case.classes)[data.y] - 1
    targets = torch.from_numpy(targets[:, 1:] if case.classes == 2 else targets)
    out = []
    for x in cells:
        found: Decisions = {}
        for block in blocks(torch.from_numpy(x), train, dual=True, sums=True):
            fit = solve_ridge(block, targets, train, alphas)
            for i, f in enumerate(block.sets):
                left = fit.left_out(i, train)[1].numpy()
                found |= {(f, a): left[:, a] for a in range(len(alphas))}
        out.append(found)
    return out


def _estimator(case: Case, value: float, tight: bool) -> Any:
    from sklearn.linear_model import LogisticRegression, RidgeClassifier

    if case.model == "ridge":
        return RidgeClassifier(alpha=value)
    return (
        LogisticRegression(C=value, tol=1e-10, max_iter=20000) if tight else LogisticRegression(C=value, max_iter=1000)
    )


def _fold(case: Case, x: NDArray[Any], data: Data, f: int, tight: bool = False) -> Decisions:
    """One fold the plain way: scaler on the training rows, then a fit for each value."""
    from sklearn.preprocessing import StandardScaler

    inside = data.fold != f
    scaler = StandardScaler().fit(x[inside])
    seen, left = scaler.transform(x[inside]), scaler.transform(x[~inside])
    out: Decisions = {}
    for c, value in enumerate(PATHS[case.model]):
        decision = _estimator(case, float(value), tight).fit(seen, data.y[inside]).decision_function(left)
        out[f, c] = decision.reshape(len(left), -1)
    return out


def loop(case: Case, data: Data, tight: bool = False) -> list[Decisions]:
    """A loop over folds and values, in the features' own precision (float32 is the faster for scikit-learn here)."""
    out = []
    for x in data.cells:
        found: Decisions = {}
        for f in range(FOLDS):
            found |= _fold(case, x.astype(np.float64) if tight else x, data, f, tight)
        out.append(found)
    return out


def through_joblib(case: Case, data: Data) -> list[list[Decisions]]:
    """The loop as joblib jobs, one worker (one core on both sides)."""
    from joblib import Parallel, delayed

    return [Parallel(n_jobs=1)(delayed(_fold)(case, x, data, f) for f in range(FOLDS)) for x in data.cells]


def logistic_cv(case: Case, data: Data) -> list[Any]:
    """``LogisticRegressionCV``: warm starts along the path; scales once, outside the folds, and fits once more."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.model_selection import PredefinedSplit
    from sklearn.preprocessing import StandardScaler

    model = LogisticRegressionCV(Cs=PATHS["logistic"], cv=PredefinedSplit(data.fold), max_iter=1000)
    return [model.fit(StandardScaler().fit_transform(x), data.y) for x in data.cells]


def differing(a: Decisions, b: Decisions) -> tuple[int, int]:
    """Predictions that differ, and predictions."""

    def predict(z: NDArray[Any]) -> NDArray[Any]:
        return z[:, 0] > 0 if z.shape[1] == 1 else z.argmax(axis=1)

    wrong = sum(int((predict(a[key]) != predict(b[key])).sum()) for key in a)
    return wrong, sum(len(value) for value in a.values())


def rows_of(case: Case, rounds: int, seconds: float, budget: int) -> list[dict[str, Any]]:
    """One row a peer. ``budget``: numbers in the features that a round times; it sets how many cells are timed."""
    many = int(np.clip(budget // (case.n * case.d), 1, CELLS))
    few = max(1, many // 12)
    data = Data.of(case, many)
    part = Data(data.cells[:few], data.y, data.fold)
    peers: dict[str, Callable[[], Any]] = {"scikit-learn loop": lambda: loop(case, part)}
    if case.model == "logistic":
        peers["LogisticRegressionCV"] = lambda: logistic_cv(case, part)
    peers["joblib, 1 worker"] = lambda: through_joblib(case, part)
    exact = case.n * case.d <= 600_000
    answers: dict[str, list[Decisions]] = {}

    def kept(name: str, run: Callable[[], list[Decisions]]) -> Callable[[], None]:
        return lambda: answers.update({name: run()})

    square = torch.randn(SIDE, SIDE)
    timed = {"ours": kept("ours", lambda: ours(case, data)), "product": lambda: multiply(square), **peers}
    timed["scikit-learn loop"] = kept("loop", lambda: loop(case, part))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LogisticRegressionCV says what will change; lbfgs stops at its precision
        times = interleaved(timed, 1, warmup=0)
        rounds = min(rounds, int(seconds // sum(one.median for one in times.values())))
        times = interleaved(timed, rounds, warmup=0) if rounds else times
        if exact:
            answers["loop"] = loop(case, Data(data.cells[:1], data.y, data.fold), tight=True)
    wrong, total = differing(answers["ours"][0], answers["loop"][0])
    assert wrong <= max(2 if exact else 50, (2e-4 if exact else 5e-3) * total), f"{case.name}: {wrong} of {total}"
    own, speed, out = times["ours"], TIMES * 2 * SIDE**3 / times["product"].median, []
    for name in peers:
        ratio = times[name].ratio(own) * many / few
        low, high = times[name].ratio_spread(own)
        aim = case.aim if name == "scikit-learn loop" else None
        out.append(
            row(
                case.name,
                own.median / many,
                name,
                times[name].median / few,
                "s/cell",
                "" if aim is None else f">= {aim:g}x faster",
                None if aim is None else ratio >= aim,
                times_faster=ratio,
                times_faster_quartiles=(low * many / few, high * many / few),
                rounds=max(rounds, 1),
                gflop_least=case.least / 1e9,
                limit=case.least / speed,
                gflops=speed / 1e9,
                quartiles=tuple(t / many for t in own.spread),
                cells_ours=many,
                cells_peer=few,
                predictions_differing=f"{wrong} of {total}",
                reference="scikit-learn, tol 1e-10, float64" if exact else "the loop itself",
            )
        )
    return out


def cases(quick: bool) -> list[Case]:
    """Every size: those with an aim, then the others, small ones first; with ``quick``, small ones only."""
    if quick:
        return [Case(m, n, d, k) for m in PATHS for n, d, k in ((100, 16, 2), (60, 160, 3))]
    sizes = [(n, d, k) for k in (2, 4) for n in (200, 1000, 5000) for d in (128, 512, 1536)]
    return sorted(
        (Case(m, n, d, k) for m in PATHS for n, d, k in sizes),
        key=lambda case: (case.aim is None, case.n * case.d * case.classes),
    )


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the JSON object instead of a table")
    parser.add_argument("--quick", action="store_true", help="small sizes, one round, nothing kept")
    parser.add_argument("--rounds", type=int, default=5, help="of a case, at most")
    parser.add_argument("--seconds", type=float, default=30, help="for the rounds of a case, after its first")
    parser.add_argument("--budget", type=int, default=6_000_000, help="numbers in the features that a round times")
    parser.add_argument("--resume", action="store_true", help="only the cases that the kept results lack")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no further case after so many")
    chosen = parser.parse_args(argv)
    torch.set_num_threads(1)
    from threadpoolctl import threadpool_limits

    found = kept_rows("probes") if chosen.resume else []
    done, start = {one["case"] for one in found}, time.monotonic()
    with threadpool_limits(1):
        for case in cases(chosen.quick):
            if case.name in done or time.monotonic() - start > 60 * chosen.minutes:
                continue
            rounds, budget = (0, chosen.budget // 100) if chosen.quick else (chosen.rounds, chosen.budget)
            found += rows_of(case, rounds, chosen.seconds, budget)
            if not chosen.json:
                print(f"{found[-1]['case']}: {found[-1]['times_faster']:.1f}x of {found[-1]['peer']}", flush=True)
            if not chosen.quick:
                result("probes", found)
    if not chosen.quick:
        publish("probes", found, as_json=chosen.json)


if __name__ == "__main__":
    main()
