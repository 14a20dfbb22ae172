"""Fit probes over a whole grid of steps and layers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from scipy.stats import norm

from probes.cell_fit import CellFit
from probes.control_task import control_labels
from probes.errors import ProbeError
from probes.pick import Asked
from probes.plan import Plan
from probes.prepare import fit_each, prepare
from probes.result import GridResult
from probes.said import said
from probes.score import resample
from probes.source import Key, Pool, Source
from probes.spread import interval

OWN_QUANTILE_FROM = 200
"""Shuffles from which on each cell's chance quantile is its own; below, the spread is pooled over the grid (see
`_chance`)."""


def fit_grid(
    source: Any,
    target: Any,
    *,
    groups: Any = "sample",
    over: Sequence[str] = ("step", "layer"),
    model: Any = "logistic",
    task: str = "auto",
    site: str = "blocks.{layer}.hook_resid_post",
    steps: Asked = None,
    layers: Asked = None,
    branch: str | None = None,
    pool: Pool | None = None,
    sigmas: Mapping[int, float] | None = None,
    baselines: Mapping[str, Any] | None = None,
    folds: int | NDArray[np.int64] = 5,
    path: Sequence[float] | float | None = None,
    score: str | None = None,
    class_weight: str | None = "auto",
    standardise: bool = True,
    selection: str = "shared",
    shuffles: int = 20,
    shuffle: str = "auto",
    bootstrap: int = 1000,
    level: float = 0.95,
    weights: Any = None,
    max_rows: int | None = None,
    memory: float | None = None,
    seed: int = 0,
    controls: int = 3,
    kinds: Any = None,
    dtype: str = "float32",
    device: str = "cpu",
    tol: float = 1e-4,
    directions: bool = False,
    predictions: bool = False,
    progress: Callable[[Iterable[Key]], Iterable[Key]] | None = None,
) -> GridResult:
    """Fit, cross-validate and score a probe in every cell.

    Args:
        source: a store, or ``{(step, layer): array}`` with arrays [row, feature] or [run, token, feature] (or functions
            without arguments that give them; one cell is in memory at a time).
        target: name of a store's label, or an array [run] or [run, token]; NaN: not applicable, the row is dropped.
        groups: what must not be on both sides of a split: name(s) of store labels or key array(s), per row or per run.
            Rows that share any of several keys stay together.
        over: the axes of the grid; steps and layers.
        model: "logistic" (classes; binary or multinomial), "ridge" (values, or classes coded +-1), "lda" (classes) or
            "means" (classes, by the difference of their means; nothing to choose); all of these are solved in batches.
            Or any scikit-learn classifier or regressor, such as `probes.LinearSVM`, `probes.MLPProbe` or a pipeline: a
            control, since every fold and shuffle is a fit of its own. It scales features itself (``standardise`` is
            not used), in float64. One with an attribute ``tokens`` that is true (`probes.AttentionProbe`) is given
            [run, token, feature].
        task: "classification" or "regression", where ridge could be either.
        site: the store's site; ``{layer}`` is filled in.
        steps, layers: those to fit: one, a slice of numbers, or a list; all if None.
        pool: for a target per run and features per token: "mean", "flatten" or a function [run, token, feature] ->
            [run, feature].
        baselines: named feature sets fitted on the same rows and folds: an array, ``{step: array}``, or a site of the
            store.
        folds: how many, or a fold number per row (checked for leakage).
        path: values of C (logistic; 1 / strength) or alpha (ridge; lda, per row). One is chosen for each fold by loss
            on inner grouped folds of its training part.
        score: "balanced_accuracy", "accuracy" or "r2".
        class_weight: "balanced" weighs classes alike in the fit (ridge of two classes: threshold midway between their
            means).
        standardise: scale features within each training part.
        selection: "shared": shuffled labels are fitted with the regularisation chosen for the real ones; "nested": they
            choose their own (as exact as a permutation test gets, at several times the cost).
        shuffles, shuffle: number of label shuffles, and how (`probes.shuffles`).
        bootstrap, level: resamples of groups, and level of all intervals.
        weights: how much each run (or row) counts in the fit; scores count every row alike.
        max_rows: fit on at most so many rows, drawn evenly from the groups.
        memory: bytes that features and fits may take at once; whatever the store's size, a cell is read at a time,
            whole, before its tokens are pooled or its rows thinned. By default several small cells are, for speed.
        controls, kinds: number of control tasks, and what a probe could go by in them (one per run or row): random
            labels that go with the kind of a row (`probes.control_task`), fitted like the real ones. By default kinds
            are the tokens' places; a target per run has control tasks only where kinds are given.
        tol: relative error allowed to logistic coefficients.
        directions: keep the probes themselves, for `GridResult.direction`.
        predictions: keep what was said of each row out of fold, for `GridResult.predictions` and
            `GridResult.calibration`.
        progress: wraps the list of cells, as ``tqdm`` or ``rich.progress.track`` do.

    Raises:
        LeakageError: a group would lie on both sides of a split, two groups hold one and the same run, or a feature is
            the target.
        ProbeError: anything else that cannot be fitted honestly.
    """
    if tuple(over) != ("step", "layer"):
        raise ProbeError(f"over={tuple(over)!r} is not supported; grids run over ('step', 'layer').")
    if not 0 < level < 1 or bootstrap < 1:
        raise ProbeError(f"level={level}, bootstrap={bootstrap}: need 0 < level < 1 and bootstrap >= 1.")
    data, plan = prepare(
        source,
        target,
        groups=groups,
        model=model,
        task=task,
        site=site,
        steps=steps,
        layers=layers,
        branch=branch,
        pool=pool,
        sigmas=sigmas,
        folds=folds,
        path=path,
        score=score,
        class_weight=class_weight,
        standardise=standardise,
        selection=selection,
        shuffles=shuffles,
        shuffle=shuffle,
        weights=weights,
        max_rows=max_rows,
        seed=seed,
        dtype=dtype if isinstance(model, str) else "float64",
        device=device,
        tol=tol,
    )
    chances = plan.shuffled.shape[1]
    by_heart = control_labels(data, plan, controls, kinds=kinds, seed=seed + 3)
    plan = replace(plan, shuffled=np.concatenate([plan.shuffled, by_heart], axis=1))
    # First: what is wrong with them shows at once.
    base = _fit_baselines(baselines or {}, source, data, plan, branch, memory)
    cells = (
        (key, f"step {key[0]}, layer {key[1]}", partial(data.matrix, key, dtype=plan.dtype, device=device))
        for key in (progress(data.keys) if progress else data.keys)
    )
    fits = fit_each(cells, plan, keep_directions=directions, run=data.run, memory=memory)
    draws = resample(plan.folds.groups, bootstrap, seed + 2)
    made = _assemble(data, plan, fits, base, draws, level, bootstrap, seed, chances)
    return replace(made, said=said(data, plan, fits)) if predictions else made


def _fit_baselines(
    baselines: Mapping[str, Any], source: Any, data: Source, plan: Plan, branch: str | None, memory: float | None
) -> dict[tuple[str, int], CellFit]:
    """Fits by name and step; a baseline that does not change with the step is fitted once."""
    if not isinstance(baselines, Mapping):
        raise ProbeError(f"baselines= names feature sets: {{name: array, or site}}; got {type(baselines).__name__}.")
    bare = replace(plan, shuffled=plan.shuffled[:, :0])
    steps = sorted({step for step, _ in data.keys})
    out: dict[tuple[str, int], CellFit] = {}
    for name, value in baselines.items():
        if isinstance(value, str):
            if isinstance(source, Mapping):
                raise ProbeError(
                    f"Baseline {name!r} names a site, {value!r}, but the grid is fitted from arrays; give an array."
                )
            per_step = {s: (lambda s=s, site=value: source.read(site, step=s, branch=branch)) for s in steps}
        elif isinstance(value, Mapping):
            lacking = [s for s in steps if s not in value]
            if lacking:
                raise ProbeError(f"Baseline {name!r} has no array for step {lacking[0]}. Give one for each of {steps}.")
            per_step = {s: value[s] for s in steps}
        else:
            per_step = {steps[0]: value}
        for s, given in per_step.items():
            array = given() if callable(given) else given
            x = data.rows(array, f"baseline {name!r}", dtype=plan.dtype, device=plan.device)
            cell = ((s, 0), f"baseline {name!r}, step {s}", partial(torch.clone, x))
            out[name, s] = fit_each([cell], bare, memory=memory)[s, 0]
        for s in steps:
            out.setdefault((name, s), out[name, steps[0]])
    return out


def _chance(null: NDArray[np.float64], score: NDArray[np.float64], level: float) -> tuple[NDArray[np.float64], ...]:
    """Mean, upper quantile and p-value of each cell from null scores [cell, shuffle].

    With few shuffles a cell's own quantile is little more than its largest value. The spread of null scores hardly
    depends on the cell (same rows, same labels), so it is pooled over the grid, and quantiles are those of a normal
    with that spread.
    """
    cells, count = null.shape
    if count == 0:
        nothing = np.full(cells, np.nan)
        return nothing, nothing, nothing
    mean, upper = null.mean(axis=1), 1 - (1 - level) / 2
    counted = (1 + (null >= score[:, None]).sum(axis=1)) / (1 + count)
    if count >= OWN_QUANTILE_FROM:
        return mean, np.quantile(null, upper, axis=1), counted
    spread = np.sqrt(null.var(axis=1, ddof=1).mean()) if count > 1 else np.nan
    spread *= np.sqrt(1 + 1 / count)  # the mean itself is known from `count` shuffles only
    return (
        mean,
        mean + norm.ppf(upper) * spread,
        norm.sf((score - mean) / spread) if spread > 0 else counted,
    )


def _assemble(
    data: Source,
    plan: Plan,
    fits: Mapping[Key, CellFit],
    base: Mapping[tuple[str, int], CellFit],
    draws: NDArray[np.float64],
    level: float,
    count: int,
    seed: int,
    chances: int,
) -> GridResult:
    """Tables from fits, of whose shuffled labels the first ``chances`` are shuffles, and the rest control tasks."""

    def summary(cells: Sequence[CellFit]) -> tuple[NDArray[np.float64], ...]:
        sums, effects = (np.stack([getattr(cell, name) for cell in cells]) for name in ("sums", "effects"))
        return sums, effects, *interval(sums, effects, draws, plan.score, level)

    sums, effects, point, low, high = summary(list(fits.values()))
    null, control = np.split(np.stack([fit.null for fit in fits.values()]), [chances], axis=1)
    by_heart = control.mean(axis=1) if control.shape[1] else np.full(len(control), np.nan)
    chance, chance_high, p = _chance(null, point, level)
    steps = [key[0] for key in fits]
    columns: dict[str, Any] = {
        "step": steps,
        "sigma": [data.sigmas.get(s) for s in steps],
        "layer": [key[1] for key in fits],
        "score": point, "low": low, "high": high,
        "chance": chance, "chance_high": chance_high, "p": p,
        "auc": [fit.auc for fit in fits.values()],
        "control": by_heart,
        "selectivity": point - by_heart,
        "regularisation": [float(np.median(fit.chosen)) for fit in fits.values()],
        "n": [len(plan.y)] * len(fits),
        "groups": [plan.folds.groups] * len(fits),
    }  # fmt: skip
    baselines = pl.DataFrame(
        schema={
            "baseline": pl.String,
            "step": pl.Int64,
            "score": pl.Float64,
            "low": pl.Float64,
            "high": pl.Float64,
            "auc": pl.Float64,
        }
    )
    if base:
        _, _, b_point, b_low, b_high = summary(list(base.values()))
        rows = {
            "baseline": [k[0] for k in base],
            "step": [k[1] for k in base],
            "score": b_point,
            "low": b_low,
            "high": b_high,
            "auc": [fit.auc for fit in base.values()],
        }
        baselines = pl.DataFrame(rows, schema=baselines.schema).sort("baseline", "step")
        at = {key: float(v) for key, v in zip(base, b_point, strict=True)}
        for name in dict.fromkeys(k[0] for k in base):
            columns[f"baseline_{name}"] = [at[name, s] for s in steps]
    types = {"step": pl.Int64, "sigma": pl.Float64, "layer": pl.Int64, "n": pl.Int64, "groups": pl.Int64}
    table = pl.DataFrame(columns, schema_overrides=types).fill_nan(None).sort("step", "layer")
    spec = {
        "model": plan.model, "score": plan.score.name, "classes": list(plan.classes), "path": list(plan.path),
        "folds": plan.folds.k, "balanced": plan.balanced and plan.estimator is None, "standardise": plan.standardise,
        "selection": "nested" if plan.nested else "shared", "shuffle": plan.scheme, "shuffles": chances,
        "controls": control.shape[1], "bootstrap": count, "level": level, "seed": seed, "rows": fingerprint(plan),
        **({} if plan.estimator is None else {"params": _plain(plan.estimator)}),
        **data.about,
    }  # fmt: skip
    kept = [fit.directions for fit in fits.values() if fit.directions is not None]
    coef = np.stack([d.coef for d in kept]) if kept else None
    return GridResult(table, baselines, sums, effects, null, spec, coef)


def _plain(estimator: Any) -> dict[str, Any]:
    """An estimator's parameters as JSON holds them."""
    params = estimator.get_params().items()
    return {k: v if isinstance(v, bool | int | float | str | None) else str(v) for k, v in params}


def fingerprint(plan: Plan) -> str:
    """Short hash of rows' labels and groups: grids that share it were fitted on the same rows and can be compared in
    pairs."""
    digest = hashlib.sha256()
    for array in (plan.y.astype(np.float64), plan.folds.group.astype(np.int64), plan.folds.fold.astype(np.int64)):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
