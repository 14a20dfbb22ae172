"""Lenses as tables: every estimate decoded, scored by the task, one row a run, step, branch and layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import polars as pl

from interp.decode import frames_of
from interp.errors import InterpError
from interp.lab import Lab
from interp.lenses.affine import AffineLens
from interp.lenses.head import Estimate, Positions, estimates
from interp.runspec import RunSpec
from interp.sampler import transformer_of
from interp.tasks.sample import Sample

Specs = RunSpec | Sequence[RunSpec]
Read = Callable[[Sample, np.ndarray], Mapping[str, Any]]
COLUMNS = {
    "run": "key of the run",
    "sample": "key of the problem",
    "seed": "of the run's noise",
    "step": "denoising step, from 0",
    "sigma": "noise level of the step",
    "expert": "transformer that ran the step",
    "branch": "cond, uncond or guided",
    "layer": "block whose residual stream the head was applied to, -1: the embedded patches; null: the model's output",
    "error": "distance of the lens's velocity from the model's, as a share of the length of that",
}


@runtime_checkable
class Scorer(Protocol):
    """What lenses need of a task: it scores frames."""

    def score(self, sample: Sample, video: np.ndarray) -> Any:
        """What frames show; a dataclass, or a mapping."""


def reader_of(task: Scorer) -> Read:
    """The flags and numbers in the task's score, by name, and ``solved``."""

    def read(sample: Sample, video: np.ndarray) -> dict[str, Any]:
        score = task.score(sample, video)
        found = (
            dict(score)
            if isinstance(score, Mapping)
            else {field.name: getattr(score, field.name) for field in dataclasses.fields(score)}
        )
        if hasattr(score, "solved"):  # a field of some scores, a property of others
            found["solved"] = score.solved
        return {name: value for name, value in found.items() if isinstance(value, bool | int | float)}

    return read


def x0_lens(
    lab: Lab,
    runs: Specs,
    read: Read | Scorer | None = None,
    *,
    steps: Positions | None = None,
    branches: str | Sequence[str] = ("guided",),
    batch_size: int = 16,
) -> pl.DataFrame:
    """What the clean estimate x_t - sigma v of each step and branch shows.

    Args:
        lab: the model.
        runs: specs of any mixture of sizes and settings.
        read: a task, or a function of a sample and its decoded frames that gives columns; None decodes nothing.
        steps: one, a slice or a list; all if None; only what is asked for is decoded.
        branches: of "cond", "uncond" and "guided".
        batch_size: runs in one forward.

    Returns:
        One row a run, step and branch; columns as in `interp.lenses.COLUMNS` and what ``read`` gives.
    """
    return _table(lab, runs, read, batch_size, steps=steps, branches=branches)


def layer_lens(
    lab: Lab,
    runs: Specs,
    read: Read | Scorer | None = None,
    *,
    layers: int | Sequence[int] | None = None,
    steps: Positions | None = None,
    branches: str | Sequence[str] = ("guided",),
    hook: str = "hook_resid_post",
    lens: AffineLens | None = None,
    batch_size: int = 16,
) -> pl.DataFrame:
    """What the head makes of the residual stream after each block, as a clean estimate.

    Args:
        lab, runs, read, steps, branches, batch_size: see `x0_lens`.
        layers: blocks; -1 for the embedded patches; all of both if None.
        hook: residual stream to read.
        lens: a tuned lens; the plain one if None.

    Returns:
        One row a run, step, branch and layer, and one with layer null for the model's own output.

    Raises:
        InterpError: the lens was fitted to another model or another hook point.
    """
    if lens is not None and (lens.model_hash, lens.hook) != (lab.model_hash, hook):
        raise InterpError(
            f"the lens was fitted to {lens.hook} of model {lens.model_hash}, and this is {hook} of {lab.model_hash}"
        )
    every = range(-1, len(transformer_of(lab.pipe, "main").blocks))
    chosen = every if layers is None else [layers] if isinstance(layers, int) else layers
    return _table(
        lab, runs, read, batch_size, layers=list(chosen), steps=steps, branches=branches, hook=hook, translate=lens
    )


def _table(lab: Lab, runs: Specs, read: Any, batch_size: int, **asked: Any) -> pl.DataFrame:
    if isinstance(read, str):
        raise InterpError(f"read={read!r} is a name; give the task itself: interp.tasks.get({read!r})")
    reading = reader_of(read) if isinstance(read, Scorer) else read
    rows: list[dict[str, Any]] = []
    for batch in batches(specs_of(runs), batch_size):
        for estimate in estimates(lab, batch, **asked):
            rows += _rows(lab, batch, estimate, reading)
    types = {"step": pl.Int64, "sigma": pl.Float64, "layer": pl.Int64, "seed": pl.Int64, "error": pl.Float64}
    return pl.DataFrame(rows, schema_overrides=types, infer_schema_length=None)


def _rows(lab: Lab, runs: Sequence[RunSpec], estimate: Estimate, read: Read | None) -> Iterable[dict[str, Any]]:
    videos = None if read is None else frames_of(lab.pipe, estimate.x0_hat, blocks=True)
    about = {name: getattr(estimate, name) for name in ("step", "sigma", "expert", "branch", "layer")}
    for i, run in enumerate(runs):
        shown = {} if read is None or videos is None else read(run.sample, videos[i])
        where = {"run": run.key, "sample": run.sample.key, "seed": run.seed}
        yield {**where, **about, "error": float(estimate.error[i]), **shown}


def specs_of(runs: Specs) -> list[RunSpec]:
    """The runs to read, each once.

    Raises:
        InterpError: there are none, they are no specs, or one comes twice: its rows could not be told apart.
    """
    specs = [runs] if isinstance(runs, RunSpec) else list(runs)
    others = [spec for spec in specs if not isinstance(spec, RunSpec)]
    if not specs or others:
        got = f"got a {type(others[0]).__name__}" if others else "no runs were given"
        raise InterpError(f"{got}; make runs with lab.plan(samples, seeds=...)")
    if len({spec.key for spec in specs}) < len(specs):
        raise InterpError("two of the runs are one and the same, so their rows could not be told apart; leave one out")
    return specs


def batches(runs: Sequence[RunSpec], size: int) -> Iterable[list[RunSpec]]:
    """Runs that can share a forward, at most ``size`` at a time."""
    if size < 1:
        raise InterpError(f"batch_size={size}: need one run or more in a forward")
    kinds: dict[Any, list[RunSpec]] = {}
    for run in runs:
        sample = run.sample
        kinds.setdefault((run.settings, sample.height, sample.width, sample.num_frames), []).append(run)
    for same in kinds.values():
        yield from (same[i : i + size] for i in range(0, len(same), size))
