"""From what a user says to what is fitted: one source of features and one plan, checked together."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from probes.any_estimator import check_estimator, fit_estimator
from probes.batch import batch_size
from probes.cell import fit_cells
from probes.cell_fit import CellFit
from probes.errors import ProbeError
from probes.leaks import Watch, named
from probes.pick import Asked
from probes.plan import Plan, make_plan
from probes.source import KEEP_TOKENS, Key, Pool, Source, from_arrays, from_store


def prepare(
    source: Any,
    target: Any,
    *,
    groups: Any = "sample",
    model: Any = "logistic",
    task: str = "auto",
    site: str = "blocks.{layer}.hook_resid_post",
    steps: Asked = None,
    layers: Asked = None,
    branch: str | None = None,
    pool: Pool | None = None,
    sigmas: Mapping[int, float] | None = None,
    folds: int | NDArray[np.int64] = 5,
    path: Sequence[float] | float | None = None,
    score: str | None = None,
    class_weight: str | None = "auto",
    standardise: bool = True,
    selection: str = "shared",
    shuffles: int = 20,
    shuffle: str = "auto",
    weights: Any = None,
    max_rows: int | None = None,
    seed: int = 0,
    dtype: str = "float32",
    device: str = "cpu",
    tol: float = 1e-4,
) -> tuple[Source, Plan]:
    """The source and the plan of a grid; arguments as in `probes.fit_grid`."""
    precision = {"float32": torch.float32, "float64": torch.float64}.get(dtype)
    if precision is None:
        raise ProbeError(f"dtype={dtype!r} is not supported; use 'float32' or 'float64'.")
    estimator = None if isinstance(model, str) else model
    if estimator is not None:
        kind = check_estimator(estimator, weights is not None)
        if task not in ("auto", kind):
            raise ProbeError(f"task={task!r} does not fit {type(estimator).__name__}, which does {kind}.")
        task, model = kind, type(estimator).__name__
        if getattr(estimator, "tokens", False):
            if pool is not None:
                raise ProbeError(f"{model} pools tokens itself; leave pool= out.")
            pool = KEEP_TOKENS
    if not isinstance(shuffles, (int, np.integer)) or shuffles < 0:
        raise ProbeError(f"shuffles={shuffles!r}: need a whole number, 0 or more.")
    if isinstance(source, Mapping):
        data = from_arrays(
            source,
            target,
            groups,
            pool=pool,
            sigmas=sigmas,
            steps=steps,
            layers=layers,
            max_rows=max_rows,
            seed=seed,
        )
    else:
        data = from_store(
            source,
            target,
            groups,
            site=site,
            steps=steps,
            layers=layers,
            branch=branch,
            pool=pool,
            max_rows=max_rows,
            seed=seed,
        )
    plan = make_plan(
        data.target,
        data.group,
        model=model,
        task=task,
        folds=int(folds) if isinstance(folds, (int, np.integer)) else data.per_row(folds, "folds"),
        path=path,
        score=score,
        shuffles=shuffles,
        shuffle=shuffle,
        class_weight=class_weight,
        standardise=standardise,
        selection=selection,
        seed=seed,
        dtype=precision,
        device=device,
        tol=tol,
        weights=None if weights is None else data.per_row(weights, "weights").astype(np.float64),
        estimator=estimator,
    )
    return data, plan


def fit_each(
    cells: Iterable[tuple[Key, str, Callable[[], torch.Tensor]]],
    plan: Plan,
    *,
    keep_directions: bool = False,
    keep_pairs: bool = False,
    run: NDArray[np.int64] | None = None,
    memory: float | None = None,
) -> dict[Key, CellFit]:
    """Fits by key, of cells given as (key, name, function that reads it). Small cells are fitted several at a time;
    what goes wrong is said with the cell's name.

    ``run`` [row]: refuse runs that are the same to the bit, and features that are the target. A baseline may be both:
    it shows what was given. ``memory``: bytes that features and fits may take.
    """
    watch = Watch(plan, run)
    out: dict[Key, CellFit] = {}
    waiting: list[tuple[Key, str, torch.Tensor]] = []

    def flush() -> None:
        if plan.estimator is None:
            fits = fit_cells([x for _, _, x in waiting], plan, keep_directions=keep_directions, keep_pairs=keep_pairs)
        else:
            fits = [
                fit_estimator(x.cpu().numpy(), plan, keep_directions=keep_directions, keep_pairs=keep_pairs)
                for _, _, x in waiting
            ]
        for (key, name, _), fit in zip(waiting, fits, strict=True):
            out[key] = fit
            if fit.unconverged:
                _warn(name, fit.unconverged)
        waiting.clear()

    for key, name, read in cells:
        x = read()
        with named(name):
            watch.see(x)
            most = batch_size(plan, x.flatten(1).shape[1], memory) if plan.estimator is None else 1
        if waiting and x.shape != waiting[0][2].shape:
            flush()
        waiting.append((key, name, x))
        if len(waiting) >= most:
            flush()
    if waiting:
        flush()
    return out


def _warn(name: str, count: int) -> None:
    from sklearn.exceptions import ConvergenceWarning

    warnings.warn(
        f"{name}: {count} fits met the iteration limit before they had converged; their scores are those of the last "
        "iterate. Stronger regularisation (smaller C) helps.",
        ConvergenceWarning,
        stacklevel=4,
    )
