"""Does a probe of one cell read another? Train at one step and layer, test at every other.

If scores off the diagonal match those on it, the code is stable; if each cell is decodable but probes do not carry
over, it rotates. Folds are those of the grid: a probe is only ever tested on rows its fold left out, also in other
cells.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from interp.errors import suggest
from probes.cell_fit import Directions, predict
from probes.errors import ProbeError
from probes.plan import Plan
from probes.prepare import fit_each, prepare
from probes.score import class_sums, fold_effects, resample, value_sums
from probes.source import Key
from probes.spread import interval

Places = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Mean and deviation [fold, left out besides, feature] of training rows."""


@dataclass(frozen=True, eq=False)
class TransferResult:
    """Scores of every probe in every cell.

    ``table``: train_step, train_layer, test_step, test_layer, score, low, high, own (score of the test cell's own
    probe), lost (own - score). ``spec``: how it was made.
    """

    table: pl.DataFrame
    spec: dict[str, Any]

    def matrix(
        self, *, layer: int | None = None, step: int | None = None, column: str = "score"
    ) -> tuple[NDArray[np.float64], list[int]]:
        """[train, test] over steps within a layer, or over layers within a step, and the steps or layers."""
        if (layer is None) == (step is None):
            raise ProbeError("Say one of layer= (a matrix over steps) and step= (a matrix over layers).")
        if column not in self.table.columns:
            raise ProbeError(f"The result has no column {column!r}{suggest(column, self.table.columns)}.")
        along, across, at = ("step", "layer", layer) if layer is not None else ("layer", "step", step)
        part = self.table.filter((pl.col(f"train_{across}") == at) & (pl.col(f"test_{across}") == at))
        if part.height == 0:
            raise ProbeError(
                f"The result holds no {across} {at}; it holds {self.table[f'test_{across}'].unique().to_list()}."
            )
        places = sorted(part[f"test_{along}"].unique().to_list())
        index = {place: i for i, place in enumerate(places)}
        out = np.full((len(places), len(places)), np.nan)
        for a, b, value in part.select(f"train_{along}", f"test_{along}", column).iter_rows():
            out[index[a], index[b]] = value
        return out, places

    def plot(
        self,
        path: str | Path | None = None,
        *,
        layer: int | None = None,
        step: int | None = None,
        title: str | None = None,
    ) -> Any:
        """The matrix as a heatmap; returns a matplotlib Figure."""
        from probes.plot import plot_transfer

        return plot_transfer(self, path, layer=layer, step=step, title=title)


def known(options: Mapping[str, Any], names: Sequence[str] = ()) -> dict[str, Any]:
    """Options that are `prepare`'s, or among ``names``.

    Raises:
        ProbeError: one is not; says what is near it.
    """
    taken = inspect.signature(prepare).parameters
    names = names or [name for name in taken if name not in ("source", "target", "shuffles")]
    for name in options:
        if name not in names:
            raise ProbeError(f"There is no option {name!r}{suggest(name, names)}. There are {', '.join(names)}.")
    return dict(options)


def check_interval(resamples: int, level: float) -> None:
    """Refuse what no interval can be made by."""
    if resamples < 2 or not 0 < level < 1:
        raise ProbeError(f"resamples={resamples}, level={level}: need 2 resamples or more, and 0 < level < 1.")


def fit_transfer(
    source: Any,
    target: Any,
    *,
    along: str = "step",
    rescale: bool = False,
    resamples: int = 500,
    level: float = 0.95,
    progress: Callable[[Iterable[Key]], Iterable[Key]] | None = None,
    **options: Any,
) -> TransferResult:
    """Fit a probe in every cell and test it in others.

    Args:
        source, target, options: as in `probes.fit_grid` (groups, model, folds, path, ...; no baselines, no shuffles).
        along: "step": between steps, within each layer; "layer": between layers, within each step; "all": between all
            cells.
        rescale: bring features of the tested cell to the mean and variance of the probe's own (each known from training
            rows only) before applying the probe: what is then lost is lost to rotation, not to scale.
        resamples, level: of groups, and of the intervals.

    Cells are read twice, one at a time. Of each, the probes that leave out one fold and those that leave out two are
    kept: the latter show what folds have in common (`probes.spread`), off the diagonal as on it.
    """
    if along not in ("step", "layer", "all"):
        raise ProbeError(f"along={along!r} is not known; use 'step', 'layer' or 'all'.")
    check_interval(resamples, level)
    data, plan = prepare(source, target, **known(options), shuffles=0)
    places: dict[Key, Any] = {}

    def read(key: Key) -> torch.Tensor:
        x = data.matrix(key, dtype=plan.dtype, device=plan.device)
        places[key] = _places(x, plan) if rescale else None
        return x

    keys = progress(data.keys) if progress else data.keys
    cells = ((key, f"step {key[0]}, layer {key[1]}", partial(read, key)) for key in keys)
    fits = fit_each(cells, plan, keep_directions=True, keep_pairs=True, run=data.run)
    rows, sums, effects = [], [], []
    for test in progress(data.keys) if progress else data.keys:
        x = data.matrix(test, dtype=plan.dtype, device=plan.device)
        trains = [k for k in data.keys if _related(k, test, along)]
        for train in trains:
            if train == test:
                sums.append(fits[test].sums)
                effects.append(fits[test].effects)
            else:
                directions = fits[train].directions
                assert directions is not None
                found, common = score_elsewhere(apply(x, directions, plan, places[train], places[test]), plan)
                sums.append(found)
                effects.append(common)
            rows.append((*train, *test))
    stacked = np.stack(sums)
    point = plan.score.from_sums(stacked.sum(axis=1))
    low, high = _interval(stacked, np.stack(effects), plan, resamples, level, int(options.get("seed", 0)))
    own = {r[2:]: p for r, p in zip(rows, point, strict=True) if r[:2] == r[2:]}
    names = ("train_step", "train_layer", "test_step", "test_layer")
    table = pl.DataFrame(
        {
            **{name: [r[i] for r in rows] for i, name in enumerate(names)},
            "score": point,
            "low": low,
            "high": high,
            "own": [own[r[2:]] for r in rows],
        }
    ).with_columns((pl.col("own") - pl.col("score")).alias("lost"))
    spec = {
        "model": plan.model,
        "score": plan.score.name,
        "along": along,
        "rescale": rescale,
        "level": level,
        **data.about,
    }
    return TransferResult(table.sort(*names), spec)


def _related(a: Key, b: Key, along: str) -> bool:
    return along == "all" or (a[1] == b[1] if along == "step" else a[0] == b[0])


def _places(x: torch.Tensor, plan: Plan) -> Places:
    """Mean and deviation [fold, left out besides, feature] of the rows that each probe trains on."""
    fold = plan.folds.fold
    parts = []
    for f in range(plan.folds.k):
        for other in range(plan.folds.k) if plan.pairs else (f,):
            rows = x[torch.from_numpy(np.flatnonzero((fold != f) & (fold != other))).to(x.device)].to(torch.float64)
            parts.append(torch.stack([rows.mean(dim=0), rows.std(dim=0, correction=0)]))
    mean, deviation = torch.stack(parts, dim=1).unflatten(1, (plan.folds.k, -1)).cpu().numpy()
    return mean, deviation


def apply(
    x: torch.Tensor, probes: Directions, plan: Plan, there: Places | None = None, here: Places | None = None
) -> NDArray[np.float64]:
    """Decision values [row, left out besides, output] of another cell's probes, each row by those of the fold that left
    it out: where pairs were kept, one for each fold that is left out besides (the row's own: none is)."""
    coef, intercept = probes.coef[:, None], probes.intercept[:, None]
    if probes.paired is not None:
        coef, intercept = probes.paired.coef, probes.paired.intercept
    out = torch.empty(len(x), *intercept.shape[1:], dtype=torch.float64, device=x.device)
    if x.shape[1] != coef.shape[2]:
        raise ProbeError(
            f"A probe of {coef.shape[2]} features cannot be tested on {x.shape[1]}. Cells of one model have one width; "
            "between others, map both to what they share first."
        )
    for f, rows in enumerate(plan.tensors.tested):
        w, b = coef[f].astype(np.float64), intercept[f]
        if there is not None and here is not None:
            # w (there.mean + (x - here.mean) there.sd / here.sd) + b
            ratio = np.divide(there[1][f], here[1][f], out=np.zeros_like(here[1][f]), where=here[1][f] > 0)
            b = b + np.einsum("sd,sdo->so", there[0][f] - here[0][f] * ratio, w)
            w = w * ratio[..., None]
        side = torch.from_numpy(np.concatenate(list(w), axis=1)).to(x.device)
        found = x[rows].to(torch.float64) @ side
        out[rows] = found.unflatten(1, intercept.shape[1:]) + torch.from_numpy(b).to(x.device)
    return out.cpu().numpy()


def score_elsewhere(
    decision: NDArray[np.float64], plan: Plan, rows: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What the score of `apply`'s decisions is made of [group, statistic], of all rows or some, and what folds do for
    each other's [fold, fold] (`probes.score.fold_effects`; 0 where no pairs were kept)."""
    keep = np.ones(len(plan.y), dtype=bool) if rows is None else rows
    fold, k = plan.folds.fold[keep], plan.folds.k
    values, y = decision[keep], plan.y[keep]

    def sums(of: NDArray[np.float64], by: NDArray[np.int64], count: int) -> NDArray[np.float64]:
        if plan.classification:
            found = class_sums(predict(of), y.astype(np.int64), by, len(plan.classes))
        else:
            found = value_sums(of[:, 0], y, by)
        return np.concatenate([found, np.zeros((count - len(found), found.shape[1]))])

    pairs = values.shape[1] > 1
    own = values[np.arange(len(values)), fold if pairs else 0]
    of_groups = sums(own, plan.folds.group[keep], plan.folds.groups)
    if not pairs:
        return of_groups, np.zeros((k, k))
    at = slice(0, len(plan.classes)) if plan.classification else slice(-1, None)
    besides = np.stack([sums(values[:, other], fold, k)[:, at] for other in range(k)], axis=1)
    return of_groups, fold_effects(sums(own, fold, k), besides, plan.score)


def _interval(
    sums: NDArray[np.float64], effects: NDArray[np.float64], plan: Plan, count: int, level: float, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bounds [cell] of sums [cell, group, statistic], a few cells at a time: there may be many."""
    draws = resample(plan.folds.groups, count, seed + 2)
    starts = range(0, len(sums), 512)
    parts = [interval(sums[i : i + 512], effects[i : i + 512], draws, plan.score, level)[1:] for i in starts]
    low, high = (np.concatenate(bounds) for bounds in zip(*parts, strict=True))
    return low, high
