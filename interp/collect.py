"""Many runs into a store: plan the batches, show the byte budget, run, label, write one shard a run.

Resume is what the store lacks. A batch that fails leaves no shard behind; runs finished before it stay. What is large
is written by another process while the model goes on, with the same bytes as a result.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.budget import check_disk, within
from interp.capture import NoSink, Recorder, dtype_named
from interp.errors import InterpError
from interp.hostcopy import HostCopies
from interp.planning import space_of
from interp.runspec import RunSpec
from interp.sampler import check_model
from interp.selection import Selection
from interp.store import BackgroundShard, BackgroundWriter, RunLayout, ShardWriter, SiteLayout, Store
from interp.tasks import get as get_task
from interp.trajectory import Schedule, Trajectory
from interp.views import View, ViewPlan

if TYPE_CHECKING:
    from interp.edits.captured import Edited
    from interp.lab import Lab

WORTH_A_PROCESS = 1 << 30
"""Bytes of a capture from which another process writes them. 400 MB beside a half-idle producer took 0.32 s in one
process and 0.42 s with another, which first has to start (`benchmarks.store`, two cores)."""


def capture_runs(
    lab: Lab,
    runs: Sequence[RunSpec],
    selection: Selection,
    to: Path,
    dtype: str,
    batch_size: int,
    limit: float,
    progress: bool,
    views: Sequence[View] = (),
    background: bool | None = None,
    labels: bool = True,
    codec: str | None = None,
    share_text: bool = False,
    edits: Any = None,
) -> Store:
    """See `interp.Lab.capture`."""
    dtype_named(dtype)
    check_model(lab.pipe, runs)
    edited = None
    if edits is not None:
        from interp.edits.captured import Edited

        if share_text:
            raise InterpError("share_text=True is for clean runs: edits may change the text of one run; leave it out")
        edited = Edited.of(edits)
        runs = edited.specs(runs, batch_size)
    unique = list({run.key: run for run in runs}.values())
    kinds: dict[tuple[Any, ...], list[RunSpec]] = {}
    for run in unique:
        kinds.setdefault(_kind(run), []).append(run)
    schedules = {
        kind: lab.schedule(same[0].settings) if edited is None else edited.schedule(lab, same[0])
        for kind, same in kinds.items()
    }
    plans = {
        kind: ViewPlan.of(selection.resolve(space_of(lab.pipe, same, schedules[kind])), views, dtype)
        for kind, same in kinds.items()
    }
    common = {"model": lab.name, "model_hash": runs[0].model_hash, "versions": versions()}
    if not all(plan.plain for plan in plans.values()):
        common["views"] = [view.name for view in views]
    if codec is not None:
        common["codec"] = codec
    there = Store.open(to).runs if (to / "store.json").is_file() else ()
    todo = [run for run in unique if run.key not in there]
    kept = [plans[_kind(run)] for run in todo]
    budget = within(limit, kept, dtype)
    if codec is None:  # else it takes less, and each run looks for itself
        check_disk(to, kept, dtype)
    store = Store.create(to, common)
    if progress:
        print(f"capture to {to}: {budget}; {len(unique) - len(todo)} already there", flush=True)
    if background is None:
        background = budget.nbytes >= WORTH_A_PROCESS
    with _opened(store, background) as target, _Bar(len(todo), progress) as bar:
        for batch in _batches(unique, batch_size):
            missing = [run for run in batch if run.key not in store]
            if missing:
                kind = _kind(batch[0])
                plan, schedule = plans[kind], schedules[kind]
                _one_batch(lab, batch, missing, plan, schedule, target, dtype, labels, codec, share_text, edited)
                bar.advance(len(missing))
    return store


def _opened(store: Store, background: bool) -> AbstractContextManager[Store | BackgroundWriter]:
    return store.background() if background else nullcontext(store)


def _one_batch(
    lab: Lab,
    batch: Sequence[RunSpec],
    missing: Sequence[RunSpec],
    plan: ViewPlan,
    schedule: Schedule,
    to: Store | BackgroundWriter,
    dtype: str,
    labels: bool,
    codec: str | None,
    share_text: bool,
    edited: Edited | None,
) -> None:
    """Run a batch and write the runs that are missing.

    Finished runs of a batch that was broken off are run once more and not written: rounding depends on the size of a
    batch, and a capture that went on is to hold the same bits as one that was never stopped.
    """
    writers: dict[str, ShardWriter | BackgroundShard] = {}
    try:
        for run in missing:
            writers[run.key] = to.writer(run.key, _layout(run, plan, schedule, codec))
        recorders: list[Recorder] = []

        def recorder_of(rows: Sequence[RunSpec]) -> Recorder:
            sinks = [writers.get(batch[i].key, NoSink()) if i < len(batch) else NoSink() for i in range(len(rows))]
            samples = [row.sample for row in rows]
            recorders.append(Recorder(plan.resolution, sinks, dtype, plan.views, samples, HostCopies()))
            return recorders[0]

        if edited is None:
            trajectories = lab.run_batch(batch, recorder_of(batch), share_text=share_text, checked=True)
        else:
            trajectories = edited.sample(lab, batch, recorder_of)
        recorders[0].receipt()
        for run, trajectory in zip(batch, trajectories, strict=True):
            if run.key in writers:
                writers[run.key].finish(labels=_labels(lab, run, trajectory) if labels else {})
    except BaseException:
        for writer in writers.values():
            writer.abort()
        raise


def _layout(run: RunSpec, plan: ViewPlan, schedule: Schedule, codec: str | None) -> RunLayout:
    """The shard's layout; all sites of a store share their steps."""
    resolution = plan.resolution
    steps, space = resolution.steps, resolution.space
    uneven = [site for site in resolution.sites if resolution.steps_of(site) != steps]
    if uneven:
        raise InterpError(
            f"{uneven[0]} is selected at other steps than the rest; one store keeps the same steps of every site: "
            "capture them into two folders"
        )
    return RunLayout(
        run=run.key,
        sites=tuple(
            SiteLayout(
                site=output.name,
                axes=("step", "branch", *output.made.axes),
                shape=(len(steps), len(resolution.branches_of(output.site)), *output.made.shape),
                dtype=output.dtype,
                tokens=output.made.tokens if "token" in output.made.axes else None,
                branches=resolution.branches_of(output.site),
                codec=codec,
            )
            for output in plan.outputs
        ),
        steps=steps,
        sigmas=tuple(schedule.sigmas[s] for s in steps),
        timesteps=tuple(schedule.timesteps[s] for s in steps),
        experts=tuple(schedule.experts[s] for s in steps),
        branches=run.settings.branches,
        grid=space.grid,
        provenance={
            **run.provenance(),
            "versions": versions(),
            **({} if plan.plain else {"views": plan.provenance()}),
        },
    )


def _labels(lab: Lab, run: RunSpec, trajectory: Trajectory) -> dict[str, Any]:
    """What the task says of the finished video; nothing for samples of no task."""
    if not run.sample.task:
        return {}
    task = get_task(run.sample.task)
    frames = lab.frames(trajectory.result[None])[0]
    labels = task.labels(run.sample, task.score(run.sample, frames), lab.grid(run.sample))
    return {name: value if np.ndim(value) else _scalar(value) for name, value in labels.items()}


def _scalar(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _kind(run: RunSpec) -> tuple[Any, ...]:
    sample = run.sample
    return run.settings, sample.height, sample.width, sample.num_frames


def _batches(runs: Sequence[RunSpec], size: int) -> Iterator[list[RunSpec]]:
    """Runs of one kind at a time, in batches."""
    kinds: dict[tuple[Any, ...], list[RunSpec]] = {}
    for run in runs:
        kinds.setdefault(_kind(run), []).append(run)
    for same in kinds.values():
        yield from (same[i : i + size] for i in range(0, len(same), size))


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    return dict(_versions())


@cache  # packages do not change while a process runs, and their metadata takes milliseconds to read
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("wan-interp", "torch", "diffusers", "transformers", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


class _Bar:
    """A progress bar of runs, or nothing."""

    def __init__(self, total: int, shown: bool) -> None:
        self._bar: Any = None
        if shown and total:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=total, unit="run", desc="runs")

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, count: int) -> None:
        if self._bar is not None:
            self._bar.update(count)
