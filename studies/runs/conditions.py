"""The same runs under many edits: each condition starts from a recording of the clean runs, at its first edited step.

What was measured is kept in the study's ledger, batch by batch and condition by condition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from interp import RunSpec, Selection
from interp.edits import EditedRun, EditGraph
from interp.intervals import cluster_mean
from interp.replay import Recording, record, replay, unedited
from studies.base.claim import Estimate
from studies.base.ledger import key_of
from studies.runs.bench import Bench
from studies.runs.work import first_step

CLEAN = "clean"
"""The condition without edits; `measure` adds it."""

Reading = Mapping[str, Any]
"""JSON-ready: numbers, words, lists of numbers."""


def measure(
    bench: Bench,
    specs: Sequence[RunSpec],
    conditions: Mapping[str, EditGraph | Callable[[Sequence[RunSpec]], EditGraph]],
    read: Callable[[EditedRun], Reading],
    *,
    early: bool = False,
    group: int = 1,
    capture: Selection | None = None,
    also: Any = None,
) -> pl.DataFrame:
    """Run every condition over every run.

    Args:
        bench: of the study.
        specs: the clean runs.
        conditions: name to edits, or to a function from the runs of a batch to edits; they may read from runs of the
            same batch only.
        read: from a finished run (its step ``first`` on) to numbers and words.
        early: stop after the first edited step, so that ``read`` sees x0_hat there.
        group: so many runs that follow one another stay in one batch.
        capture: what ``read`` finds in a run with edits.
        also: what else ``read`` depends on, JSON-ready; another value is measured anew.

    Returns:
        One row per condition and run: condition, run, problem, seed, and what ``read`` says.
    """
    from tqdm.auto import tqdm

    batches = list(bench.batches(list(specs), max(1, bench.given.batch_size // group) * group))
    rows: list[dict[str, Any]] = []
    with tqdm(total=len(specs) * (len(conditions) + 1), desc=bench.folder.study, unit="run") as bar:
        for batch in batches:
            recording: Recording | None = None
            for name, condition in ((CLEAN, None), *conditions.items()):
                graph = condition(batch) if callable(condition) else condition
                more = {} if also is None else {"also": also}
                edited = None if graph is None else graph.key
                key = key_of(runs=[s.key for s in batch], edits=edited, early=early, **more)
                if key not in bench.ledger:
                    recording = recording or record(bench.lab, batch, share_text=True)
                    runs = _run(bench, recording, graph, early, capture)
                    bench.ledger.put(key, [dict(read(run)) for run in runs])
                about = ({"condition": name, "run": s.key, "problem": s.sample.key, "seed": s.seed} for s in batch)
                rows += [{**of, **said} for of, said in zip(about, bench.ledger[key], strict=True)]
                bar.update(len(batch))
    return pl.DataFrame(rows, infer_schema_length=None)


def _run(
    bench: Bench, recording: Recording, graph: EditGraph | None, early: bool, capture: Selection | None
) -> list[EditedRun]:
    if graph is None:
        return unedited(bench.lab, recording)
    stop = None
    if early:
        stop = first_step(graph, bench.lab.space(recording.specs[0])) + 1
    return replay(bench.lab, recording, graph, capture, stop=stop, share_text=True)


def spread(steps: int, count: int) -> list[int]:
    """At most ``count`` steps from the first to the last, evenly.

    >>> spread(20, 5), spread(3, 5)
    ([0, 5, 10, 14, 19], [0, 1, 2])
    """
    return sorted({round(float(step)) for step in np.linspace(0, steps - 1, min(count, steps))})


def shares(table: pl.DataFrame, column: str, *, ends: tuple[float, float] | None = (0.0, 1.0)) -> pl.DataFrame:
    """Mean of a column in every condition, with a 95 % bootstrap interval over problems.

    Args:
        table: of `measure`.
        column: numbers or booleans; null does not count.
        ends: of the column's scale, see `studies.intervals.cluster_mean`.

    Returns:
        One row per condition in the order of the table: condition, value, low, high, n (problems), runs.
    """
    values, problems, names = _matrix(table, column)
    mean, low, high = cluster_mean(values, problems, ends=ends)
    return pl.DataFrame(
        {
            "condition": names,
            "value": mean,
            "low": low,
            "high": high,
            "n": [len(set(problems[np.isfinite(values[:, i])])) for i in range(len(names))],
            "runs": np.isfinite(values).sum(0),
        }
    )


def contrast(
    table: pl.DataFrame,
    column: str,
    first: Sequence[str],
    second: Sequence[str],
    *,
    ends: tuple[float, float] | None = (-1.0, 1.0),
) -> Estimate:
    """Mean over some conditions minus mean over others, paired run by run, with an interval over problems.

    Args:
        table, column: see `shares`.
        first, second: names of conditions.
        ends: of the difference's scale, see `studies.intervals.cluster_mean`.
    """
    values, problems, names = _matrix(table, column)
    at = {name: i for i, name in enumerate(names)}
    difference = values[:, [at[n] for n in first]].mean(1) - values[:, [at[n] for n in second]].mean(1)
    mean, low, high = cluster_mean(difference[:, None], problems, ends=ends)
    kept = np.isfinite(difference)
    return Estimate(float(mean[0]), float(low[0]), float(high[0]), len(set(problems[kept])))


def paired(values: pl.Series, groups: pl.Series, ends: tuple[float, float] | None) -> Estimate:
    """Mean of one number a run with an interval over problems."""
    return Estimate.of(values.cast(pl.Float64).to_numpy(), groups.to_numpy(), ends)


def _matrix(table: pl.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Values [run, condition], problem of each run, names of the conditions."""
    names = table["condition"].unique(maintain_order=True).to_list()
    runs = table.select("run", "problem").unique(maintain_order=True)
    wide = table.select("run", "condition", pl.col(column).cast(pl.Float64)).pivot(
        on="condition", index="run", values=column
    )
    values = runs.join(wide, on="run", maintain_order="left").select(names).to_numpy()
    return values.astype(np.float64), runs["problem"].to_numpy(), names
