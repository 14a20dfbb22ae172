"""Probes over every step and layer of a target, and their baselines, as one tidy table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from interp.grid import TokenGrid
from interp.store import Store
from probes import GridResult, fit_grid
from studies.measures.sets import Set, Settings
from studies.measures.targets import Rows, Target, first_frames, rows_of

FOLDS = 5
STRENGTHS = (0.001, 0.03)
"""Values of C that are tried: late steps are separable, where weaker regularisation has no optimum to converge to."""

COLUMNS = {
    "target": "what was probed for",
    "labels": "run: the labels; shuffled: labels that say nothing of the run, as a control, beside the chance level of "
    "the real ones",
    "source": "hook: the hidden states; x0_hat, x_t: the same tokens of the clean estimate and of the noisy latents "
    "of the step; first_frame: the maze as given, seen from the cell",
    "site": "hook point that was read, null for the first frame",
    "layer": "block after which it was read, null for baselines",
    "step": "denoising step, from 0",
    "sigma": "noise level of the step",
    "metric": "what score is: balanced_accuracy, or r2 for numbers",
    "score": "out of fold, over all rows; five folds, no maze on both sides",
    "low": "lower end of its 95 % interval (bootstrap over mazes)",
    "high": "upper end",
    "chance": "mean score of the same probe on labels shuffled many times; null for baselines",
    "chance_high": "97.5 % bound of that",
    "n": "rows: labelled tokens",
    "groups": "mazes",
}
BASELINES = {"x0_hat": "latents.hook_x0", "x_t": "latents.hook_in"}
_WHOLE, _REAL = ("layer", "step", "n", "groups"), ("sigma", "score", "low", "high", "chance", "chance_high")
_SCHEMA: dict[str, Any] = {
    name: pl.Int64 if name in _WHOLE else pl.Float64 if name in _REAL else pl.String for name in COLUMNS
}


@dataclass(frozen=True)
class Fits:
    """Everything that was fitted.

    Attributes:
        table: one row per probe; columns as in `COLUMNS`.
        onsets: by target, `probes.GridResult.onset` along the steps: layer, onset, low, high, share, sigma.
        counts: by target: rows, runs with a label, of_runs, mazes, seeds of a maze.
    """

    table: pl.DataFrame
    onsets: dict[str, pl.DataFrame]
    counts: dict[str, dict[str, int]]


def fit_targets(settings: Settings, store: Store, sets: Mapping[str, Set]) -> Fits:
    """Probes for every target of the study, with its labels and with shuffled ones.

    Raises:
        TaskError: no run has a label to probe for.
        ProbeError: too few mazes for five folds.
    """
    tables, onsets, counts = [], {}, {}
    sites = hooked_sites(store, settings.hook)
    for target in settings.targets:
        one = sets["fork" if target.fork else "ordinary"]
        rows = rows_of(target, store, one.keys, one.samples, sites[0])
        counts[target.name] = {
            "rows": min(len(rows.label), settings.rows),
            "runs": rows.answered,
            "of_runs": rows.runs,
            "mazes": len(np.unique(rows.maze)),
            "seeds": settings.seeds,
        }
        grid = _fit(target, store, one, rows, sites, settings)
        control = _fit(target, store, one, rows, sites, settings, shuffled=True)
        tables += [_tidy(grid, target, "run", sites), _tidy(control, target, "shuffled", sites, level=grid.table)]
        onsets[target.name] = grid.onset()
    return Fits(pl.concat(tables), onsets, counts)


def hooked_sites(store: Store, hook: str) -> list[str]:
    """Concrete sites of the probed hook point, by layer."""
    end = f".{hook}"
    found = {int(s.split(".")[1]): s for s in store.sites if s.startswith("blocks.") and s.endswith(end)}
    return [found[layer] for layer in sorted(found)]


def _fit(
    target: Target,
    store: Store,
    one: Set,
    rows: Rows,
    sites: Sequence[str],
    settings: Settings,
    *,
    shuffled: bool = False,
) -> GridResult:
    """The grid of a target; of its shuffled labels without baselines and without a chance level of its own."""
    schedule = store.schedule(one.keys)
    sigmas = dict(zip(schedule["step"].to_list(), schedule["sigma"].to_list(), strict=True))

    def at(site: str, step: int) -> Callable[[], np.ndarray]:
        def read() -> np.ndarray:
            values = store.read(site, step=step, runs=one.keys, tokens=_last_tokens)
            return rows.take(values.reshape(*values.shape[:2], -1))

        return read

    return fit_grid(
        {(step, layer): at(site, step) for layer, site in enumerate(sites) for step in sigmas},
        rows.shuffled(target, settings.seed + 1) if shuffled else rows.label,
        groups=rows.maze,
        model=target.model,
        sigmas=sigmas,
        folds=FOLDS,
        path=STRENGTHS if target.model == "logistic" else None,
        shuffles=0 if shuffled else settings.shuffles,
        max_rows=settings.rows,
        baselines={}
        if shuffled
        else {
            **{name: {step: at(site, step) for step in sigmas} for name, site in BASELINES.items()},
            "first_frame": first_frames(rows, one.samples),
        },
        seed=settings.seed,
        progress=_bar(f"probes, {target.name}{' shuffled' if shuffled else ''}"),
    )


def _last_tokens(grid: TokenGrid) -> range:
    """The tokens of the last latent frame."""
    return range(grid.tokens - grid.rows * grid.cols, grid.tokens)


def _tidy(
    grid: GridResult, target: Target, labels: str, sites: Sequence[str], level: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Rows of the table; ``level`` is another grid whose chance level is taken."""
    about = {"target": target.name, "labels": labels, "metric": grid.spec["score"]}
    first = grid.table.row(0, named=True)
    sigmas = dict(grid.table.select("step", "sigma").unique().iter_rows())
    table = grid.table
    if level is not None:
        theirs = level.select("step", "layer", "chance", "chance_high")
        table = table.drop("chance", "chance_high").join(theirs, on=["step", "layer"])
    rows = [{**about, "source": "hook", "site": sites[row["layer"]], **row} for row in table.to_dicts()]
    for name in (*BASELINES, "first_frame") if len(grid.baselines) else ():
        found = {row["step"]: row for row in grid.baselines.filter(pl.col("baseline") == name).to_dicts()}
        for step, sigma in sorted(sigmas.items()):
            row = found.get(step) or next(iter(found.values()))  # fitted once: the same at every step
            where = {"source": name, "site": BASELINES.get(name), "n": first["n"], "groups": first["groups"]}
            rows.append({**about, **row, **where, "step": step, "sigma": sigma})
    return pl.DataFrame([{name: row.get(name) for name in COLUMNS} for row in rows], schema=_SCHEMA)


def _bar(name: str) -> Callable[[Iterable[Any]], Iterable[Any]]:
    from tqdm.auto import tqdm

    return lambda keys: tqdm(list(keys), desc=name, unit="cell")
