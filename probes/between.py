"""Does a probe of one kind of run read another? Train on one seed, size, prompt or style, test on every other.

Folds are those of the whole, dealt evenly by kind: a row is only ever tested by probes whose training rows share no
group with it, so a maze seen under one seed is not tested under another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from probes.cell import fit_cell
from probes.errors import ProbeError
from probes.folds import draw_folds
from probes.known import is_known
from probes.leaks import Watch, named
from probes.plan import Plan, make_plan
from probes.prepare import prepare
from probes.score import resample
from probes.source import Key
from probes.spread import interval
from probes.transfer import apply, check_interval, known, score_elsewhere

SCHEMA = {
    "train": pl.String, "test": pl.String, "step": pl.Int64, "layer": pl.Int64,
    "score": pl.Float64, "low": pl.Float64, "high": pl.Float64, "n": pl.Int64,
}  # fmt: skip


def transfer_between(
    source: Any,
    target: Any,
    *,
    between: Any,
    path: float | Sequence[float] = 0.03,
    resamples: int = 500,
    level: float = 0.95,
    progress: Callable[[Iterable[Key]], Iterable[Key]] | None = None,
    **options: Any,
) -> pl.DataFrame:
    """Fit a probe on each kind of run, in every cell, and test it on each kind.

    Args:
        source, target, options: as in `probes.fit_grid` (no baselines, no shuffles).
        between: the kind of each run (or row): seeds, sizes, prompts; a label's name if ``source`` is a store.
        path: as in `probes.fit_grid`; one value by default, the same for all kinds. Of several, each kind chooses.
        resamples, level: of groups, and of the intervals.

    Returns:
        train, test (kinds, as text), step, layer, score, low, high, n (rows tested).

    Branches, experts and stores of the same runs are other features of the same rows, so they are cells: give
    `probes.fit_transfer` a mapping with one "layer" for each.

    Raises:
        LeakageError: a feature is the target, or two groups hold one and the same run.
        ProbeError: fewer than two kinds, or a kind that lies in too few folds to be trained on without the tested one.
    """
    if not isinstance(options.get("model", ""), str):
        raise ProbeError("Transfer between kinds of runs is of built-in models; give one by name (model='logistic').")
    check_interval(resamples, level)
    if isinstance(between, str):
        if isinstance(source, Mapping):
            raise ProbeError(f"between={between!r} names a label of a store; with arrays give the kind of each run.")
        between = source.labels(between)
    data, plan = prepare(source, target, **known(options), path=path, shuffles=0)
    kind = data.per_row(np.asarray(between), "between")
    if not is_known(kind).all():
        raise ProbeError(
            f"between= is NaN or None in {int((~is_known(kind)).sum())} rows. To leave them out, make their target NaN."
        )
    names = np.unique(kind)
    if len(names) < 2:
        raise ProbeError(
            f"between= holds one kind of run only, {names[0].item()!r}; there is nothing to transfer between."
        )
    seed, rows = int(options.get("seed", 0)), []
    if np.ndim(options.get("folds", 5)) == 0:
        plan = by_kind(plan, kind, seed=seed)
    plans = {name: plan_of(plan, kind == name, str(name)) for name in names}
    watch = Watch(plan, data.run)
    for key in progress(data.keys) if progress else data.keys:
        x = data.matrix(key, dtype=plan.dtype, device=plan.device)
        with named(f"step {key[0]}, layer {key[1]}"):
            watch.see(x)
        for train, own in plans.items():
            of = x[torch.from_numpy(kind == train).to(x.device)]
            probes = fit_cell(of, own, keep_directions=True, keep_pairs=True).directions
            assert probes is not None
            decision = apply(x, probes, plan)
            for test in names:
                sums, effects = score_elsewhere(decision, plan, kind == test)
                sums = sums[np.unique(plan.folds.group[kind == test])]  # groups of other kinds say nothing
                draws = resample(len(sums), resamples, seed + 2)
                point, low, high = interval(sums[None], effects[None], draws, plan.score, level)
                rows.append((str(train), str(test), *key, point[0], low[0], high[0], int((kind == test).sum())))
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def by_kind(plan: Plan, kind: NDArray[Any], *, seed: int) -> Plan:
    """The plan with its folds drawn anew, so that each holds as many rows [row] of every kind as can be."""
    _, strata = np.unique(kind, return_inverse=True)
    if plan.classification:
        strata = strata * len(plan.classes) + plan.y.astype(np.int64)
    return replace(plan, folds=draw_folds(plan.folds.group, plan.folds.k, strata=strata, seed=seed))


def plan_of(plan: Plan, mask: NDArray[np.bool_], name: str) -> Plan:
    """The plan of some rows, with the folds of all."""
    fold = plan.folds.fold[mask]
    if len(np.unique(fold)) < plan.folds.k:
        raise ProbeError(
            f"Runs of kind {name!r} lie in {len(np.unique(fold))} of {plan.folds.k} folds; there is no probe of them "
            "for the others. Capture more of them, or ask for fewer folds."
        )
    _, group = np.unique(plan.folds.group[mask], return_inverse=True)
    y = plan.y[mask]
    if plan.classification and len(np.unique(y)) < len(plan.classes):
        raise ProbeError(f"Runs of kind {name!r} lack a class of the target; a probe of them cannot know it.")
    return make_plan(
        y,
        group.astype(np.int64),
        model=plan.model,
        task="classification" if plan.classification else "regression",
        folds=fold,
        path=plan.path,
        score=plan.score.name,
        shuffles=0,
        class_weight="balanced" if plan.balanced else None,
        standardise=plan.standardise,
        dtype=plan.dtype,
        device=plan.device,
        tol=plan.tol,
        weights=None if plan.weights is None else plan.weights[mask],
    )
