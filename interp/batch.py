"""A batch of clean runs: sampled in one forward a pass, watched on the way, and taken apart into runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from interp.capture import MemoryRecorder, Recorder
from interp.hooks import Clock
from interp.result import RunResult
from interp.runspec import RunSpec
from interp.sampler import Plan, Step, finish, prepare, run_steps
from interp.selection import AddressSpace, Selection
from interp.shared_text import sharing_text
from interp.trajectory import Trajectory
from interp.views import View


def sampled(
    pipe: Any,
    specs: Sequence[RunSpec],
    recorder: Recorder | None = None,
    *,
    share_text: bool = False,
    checked: bool = False,
) -> list[Trajectory]:
    """Sample a batch, feeding a recorder; see `interp.Lab.run_batch`."""
    plan = prepare(pipe, specs, checked=checked)
    return trajectories_of(plan, list(_steps(pipe, plan, recorder, share_text)), len(specs))


def kept_in_memory(
    pipe: Any,
    specs: Sequence[RunSpec],
    space: AddressSpace,
    selection: Selection,
    views: Sequence[View],
    dtype: str,
) -> list[RunResult]:
    """Sample a batch and keep in memory what is selected in ``space``; see `interp.Lab.run`."""
    recorder = MemoryRecorder(selection.resolve(space), [spec.sample for spec in specs], dtype, views)
    trajectories = sampled(pipe, specs, recorder)
    receipt = recorder.receipt()
    rows = zip(specs, trajectories, recorder.kept, strict=True)
    return [RunResult(spec, trajectory, sink.tensors, receipt, pipe) for spec, trajectory, sink in rows]


def trajectories_of(plan: Plan, steps: Sequence[Step], rows: int) -> list[Trajectory]:
    """What the first ``rows`` of a batch went through; after the last step of the schedule the result is finished."""
    last = steps[-1].next_latents
    if steps[-1].index == plan.schedule.steps - 1:
        last = finish(plan, last)
    return [
        Trajectory(
            plan.schedule,
            latents=_stacked([*(step.latents for step in steps), last], row),
            velocity=_stacked([step.velocity for step in steps], row),
            x0_hat=_stacked([step.x0_hat for step in steps], row),
        )
        for row in range(rows)
    ]


def _stacked(tensors: Sequence[Tensor], row: int) -> Tensor:
    return torch.stack([tensor[row].float().cpu() for tensor in tensors])


def _steps(pipe: Any, plan: Plan, recorder: Recorder | None, share_text: bool) -> Iterator[Step]:
    clock = Clock()
    with ExitStack() as stack:
        if share_text:
            read = () if recorder is None else recorder.plan.resolution.sites
            plan, shared = sharing_text(pipe, plan, read)
            stack.enter_context(shared(clock))
        plan.on_call = clock.enter
        if recorder is not None:
            stack.enter_context(recorder.tapped(pipe, clock))
        for step in run_steps(pipe, plan):
            if recorder is not None:
                recorder.on_step(step)
            yield step
