"""What a store holds, and its numbers, as polars tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.errors import StoreError
from interp.store.index import Piece
from interp.store.layout import RunLayout
from interp.store.storefile import Shard

if TYPE_CHECKING:
    import polars as pl

    from interp.store.gather import Steps, Tokens
    from interp.store.view import SiteView


def sites_table(shards: Sequence[Shard]) -> pl.DataFrame:
    """One row per run and site."""
    import polars as pl

    schema: dict[str, Any] = {
        "run": pl.String,
        "site": pl.String,
        "axes": pl.List(pl.String),
        "shape": pl.List(pl.Int64),
        "dtype": pl.String,
        "steps": pl.List(pl.Int64),
        "branches": pl.List(pl.String),
        "tokens": pl.Int64,
        "bytes": pl.Int64,
        "model": pl.String,
        "sample": pl.String,
        "seed": pl.Int64,
        "prompt": pl.String,
    }
    rows = []
    for shard in shards:
        run, of_run = shard.index.run, _of_run(shard)
        for name in shard.index.shown:
            layout = shard.index.sites[name].layout
            count = layout.shape[layout.axes.index("token")] if "token" in layout.axes else None
            about = (name, layout.axes, layout.shape, layout.dtype, run.steps, run.branches_of(layout), count)
            rows.append((shard.run, *about, layout.nbytes, *(of_run[k] for k in ("model", "sample", "seed", "prompt"))))
    return pl.DataFrame(rows, schema=schema, orient="row")


def runs_table(shards: Sequence[Shard]) -> pl.DataFrame:
    """One row per run, with its scalar labels."""
    import polars as pl

    names = list(dict.fromkeys(k for s in shards for k, v in s.index.labels.items() if not isinstance(v, Piece)))
    columns: dict[str, Any] = {"run": pl.Series("run", [shard.run for shard in shards], pl.String)}
    of_runs = [_of_run(shard) for shard in shards]
    for name, kind in (("sample", pl.String), ("seed", pl.Int64), ("prompt", pl.String), ("task", pl.String)):
        columns[name] = pl.Series(name, [of_run[name] for of_run in of_runs], kind)
    columns["model"] = pl.Series("model", [of_run["model"] for of_run in of_runs], pl.String)
    for name in ("frames", "rows", "cols"):
        columns[name] = pl.Series(name, [getattr(shard.index.run.grid, name) for shard in shards], pl.Int64)
    for name in names:
        values = [shard.index.labels.get(name) for shard in shards]
        columns[name] = _column(name, [None if isinstance(value, Piece) else value for value in values])
    return pl.DataFrame(columns)


def schedule_table(runs: Sequence[RunLayout]) -> pl.DataFrame:
    """One row per kept step.

    Raises:
        StoreError: the runs differ in it.
    """
    import polars as pl

    schedules = {(run.steps, run.sigmas, run.timesteps, run.experts) for run in runs}
    if len(schedules) > 1:
        raise StoreError(f"these {len(runs)} runs have {len(schedules)} different schedules; choose with runs=")
    steps, sigmas, timesteps, experts = next(iter(schedules))
    columns = {"step": steps, "sigma": sigmas, "timestep": timesteps, "expert": experts}
    kinds = {"step": pl.Int64, "sigma": pl.Float64, "timestep": pl.Float64, "expert": pl.String}
    return pl.DataFrame({name: pl.Series(name, list(values), kinds[name]) for name, values in columns.items()})


def values_table(view: SiteView, runs: Sequence[str], step: Steps, branch: Any, tokens: Tokens) -> pl.DataFrame:
    """One row for each place along all axes but a site's last: run, step, branch, <site axes>, values.

    Raises:
        StoreError: as `interp.store.Store.read`.
    """
    import polars as pl

    steps, branches = view.choose(step, branch)[0].kept
    values = view.read(list(steps), list(branches), tokens, "numpy")
    axes = view.layout.axes[2:]
    last = values.shape[-1:] if axes else ()
    at = dict(
        zip(("run", "step", "branch", *axes[:-1]), np.indices(values.shape[: values.ndim - len(last)]), strict=True)
    )
    columns = {name: index.reshape(-1) for name, index in at.items()}
    if "token" in columns:
        columns["token"] = view.on_grid(tokens)[columns["run"], columns["token"]]
    table = {
        "run": pl.Series(np.array(runs)[columns.pop("run")], dtype=pl.String),
        "step": np.array(steps)[columns.pop("step")],
        "branch": pl.Series(np.array(branches)[columns.pop("branch")], dtype=pl.String),
    }
    return pl.DataFrame({**table, **columns, "values": np.ascontiguousarray(values).reshape(-1, *last)})


def _of_run(shard: Shard) -> dict[str, Any]:
    """What every table says of a run; None where its provenance does not."""
    known = shard.provenance
    texts = {k: None if known.get(k) is None else str(known[k]) for k in ("model", "sample", "prompt", "task")}
    seed = known.get("seed")
    return texts | {"seed": seed if isinstance(seed, int) else None}


def _column(name: str, values: list[Any]) -> pl.Series:
    import polars as pl

    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        values = [None if value is None else float(value) for value in values]
    elif len(kinds) > 1:
        said = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise StoreError(f"label {name!r} is of different kinds in these runs: {said}")
    return pl.Series(name, values)
