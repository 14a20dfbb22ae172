"""Run with edits: bind the graph, put the hooks in place, step, and prove from the receipt that all of it happened."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch import Tensor

from interp.batch import trajectories_of
from interp.capture import MemoryRecorder, Recorder
from interp.decode import frames_of
from interp.edits.editor import Editor
from interp.edits.given import UseExpert, rescheduled
from interp.edits.graph import EditGraph, graph_of
from interp.edits.program import Program, bind
from interp.edits.receipt import EditReceipt
from interp.edits.sources import OtherRun, World
from interp.errors import InterpError
from interp.hooks import Clock, tapped
from interp.instrument import Points, Watched, instrumented, watched_sites
from interp.result import RunResult
from interp.runspec import RunSpec
from interp.sampler import Plan, Step, prepare, run_steps
from interp.selection import Resolution, Selection, select
from interp.sites import site_named
from interp.tasks.sample import Sample
from interp.trajectory import SolverState
from interp.views import View

if TYPE_CHECKING:
    from interp.lab import Lab


@dataclass(frozen=True)
class EditedRun(RunResult):
    """One run with edits.

    Attributes:
        edits: the graph.
        edited: what fired.
        resolution: which addresses were captured, if any.
        first: step of the trajectory's first entry.
    """

    edits: EditGraph = field(default_factory=EditGraph)
    edited: EditReceipt = field(default_factory=lambda: EditReceipt(EditGraph(), ()))
    resolution: Resolution | None = None
    first: int = 0

    @property
    def x0_hat(self) -> Tensor:
        """The clean estimate of the last step that was run: [channel, latent_frame, row, col]."""
        return self.trajectory.x0_hat[-1]

    @cached_property
    def early_frames(self) -> np.ndarray:
        """The video that `x0_hat` stands for: uint8 [frame, row, col, rgb]."""
        return frames_of(self._pipe, self.x0_hat[None])[0]


@overload
def run_with(
    lab: Lab,
    runs: RunSpec,
    edits: Any,
    capture: str | Selection | Sequence[str | Selection] | None = None,
    *,
    start: SolverState | None = None,
    stop: int | None = None,
    dtype: str = "float32",
    views: Sequence[View] = (),
) -> EditedRun: ...
@overload
def run_with(
    lab: Lab,
    runs: Sequence[RunSpec],
    edits: Any,
    capture: str | Selection | Sequence[str | Selection] | None = None,
    *,
    start: SolverState | None = None,
    stop: int | None = None,
    dtype: str = "float32",
    views: Sequence[View] = (),
) -> list[EditedRun]: ...
def run_with(
    lab: Lab,
    runs: RunSpec | Sequence[RunSpec],
    edits: Any,
    capture: str | Selection | Sequence[str | Selection] | None = None,
    *,
    start: SolverState | None = None,
    stop: int | None = None,
    dtype: str = "float32",
    views: Sequence[View] = (),
) -> EditedRun | list[EditedRun]:
    """Run one spec, or several as the worlds of one batch, with edits.

    Args:
        lab: the pipeline.
        runs: one spec gives one result, a sequence gives a list. All must share settings and size.
        edits: an `Edit`, an `EditGraph`, a list of them, or nothing: ``()``.
        capture: what to keep in memory, as the edits left it.
        start: where to begin; the noise of the first step if None.
        stop: step to stop before.
        dtype: of captured tensors.
        views: what to keep of each captured tensor; the tensor itself if empty.

    Raises:
        SelectionError: an edit or the capture matches nothing; nothing has run then.
        InterpError: edits that do not fit the batch, or that did not fire exactly as planned.
    """
    specs = [runs] if isinstance(runs, RunSpec) else list(runs)
    if not specs:
        raise InterpError("no runs were given")
    graph = graph_of(edits)
    wired, worlds = with_worlds(graph, specs)
    if start is not None and len(worlds) != len(start.latents):
        raise InterpError(
            f"the state to start from has {len(start.latents)} rows, and the batch has {len(worlds)}: "
            f"{len(specs)} runs and {len(worlds) - len(specs)} sources"
        )
    plan = prepare(lab.pipe, worlds)
    results = execute(lab, plan, len(specs), graph, wired, capture, start=start, stop=stop, dtype=dtype, views=views)
    return results[0] if isinstance(runs, RunSpec) else results


def execute(
    lab: Lab,
    plan: Plan,
    asked: int,
    graph: EditGraph,
    wired: EditGraph,
    capture: str | Selection | Sequence[str | Selection] | None = None,
    *,
    start: SolverState | None = None,
    stop: int | None = None,
    dtype: str = "float32",
    views: Sequence[View] = (),
    past: Sequence[Step] = (),
    history: bool = True,
    around: Callable[[Clock], AbstractContextManager[None]] | None = None,
    program: Program | None = None,
) -> list[EditedRun]:
    """Carry a graph out over a plan; see `run_with`.

    Args:
        lab: the pipeline.
        plan: the batch; it is used up.
        asked: how many rows, the first ones, are runs that were asked for; the others are there to be read.
        graph: as the user wrote it.
        wired: the same with worlds for other runs.
        capture, start, stop, dtype, views: see `run_with`.
        past: the steps before ``start``, with the rows of this batch.
        history: whether the results' trajectories hold them.
        around: something more to be in place during the run, given the clock.
        program: ``wired`` bound to exactly these steps, if that was done already.
    """
    if any(isinstance(edit.op, UseExpert) for edit in wired):
        space = lab.space(plan.specs[0])
        plan, program = dataclasses.replace(plan, schedule=rescheduled(wired, plan.schedule, space)), None
    steps = range(0 if start is None else start.step, plan.schedule.steps if stop is None else stop)
    if not steps:
        raise InterpError(f"there is no step from {steps.start} to before {steps.stop}")
    if program is None:
        experts = plan.schedule.experts[: plan.schedule.steps]
        space = dataclasses.replace(lab.space(plan.specs[:asked]), experts=experts)
        program = bind(wired, space, len(plan.specs), asked, steps)
    space = program.space
    clock = Clock()
    x0_before = past[-1].x0_hat if past else None
    editor = Editor(program, tuple(spec.seed for spec in plan.specs), clock, x0_before)
    recorder = None
    if capture is not None:
        chosen = select(capture) if len(steps) == space.steps else select(capture) & select(step=list(steps))
        recorder = MemoryRecorder(chosen.resolve(space), [spec.sample for spec in plan.specs], dtype, views)
    with around(clock) if around else nullcontext():
        taken = drive(lab.pipe, plan, editor, recorder, start, steps.stop)
    edited = dataclasses.replace(editor.receipt(), graph=graph)
    return results_of(lab, plan, asked, [*past, *taken] if history else taken, graph, edited, recorder)


def with_worlds(graph: EditGraph, specs: Sequence[RunSpec]) -> tuple[EditGraph, list[RunSpec]]:
    """Make worlds of the runs that edits read from: the graph over worlds, and all rows of the batch.

    They join unedited, also where the same run is edited in the batch. A sample gets the seed and settings of the first
    run.
    """
    worlds = list(specs)

    def world_of(source: Any) -> Any:
        if not isinstance(source, OtherRun):
            return source
        run = source.run
        if run is None:
            raise InterpError(
                f"the source {source} cannot be made again from its description: its sample is of no task"
            )
        if isinstance(run, Sample):
            run = dataclasses.replace(specs[0], sample=run)
        for i, world in enumerate(worlds):
            if i >= len(specs) and world.key == run.key:
                return World(i)
        worlds.append(run)
        return World(len(worlds) - 1)

    edits = [dataclasses.replace(e, sources=tuple(world_of(s) for s in e.sources)) for e in graph]
    return EditGraph(tuple(edits)), worlds


@torch.no_grad()
def drive(
    pipe: Any, plan: Plan, editor: Editor, recorder: Recorder | None, start: SolverState | None, stop: int
) -> list[Step]:
    """Step through a plan with everything in place, and take everything away again whatever happens."""
    program, clock = editor.program, editor.clock
    hooked = [site for site in program.sites if site_named(site).write == "module"]
    inner = [site for site in program.sites if site_named(site).write in ("processor", "block")]
    plan.on_call, plan.editor = clock.enter, editor
    taken = []
    fed: frozenset[str] = frozenset()
    watched: Watched | None = None
    with ExitStack() as stack:
        if inner:
            points: Points = editor
            if recorder is not None:
                fed = watched_sites(inner, recorder.plan, program.actions, program.closed)
                points = watched = Watched(editor, fed, recorder.viewer.wanted, clock)
            stack.enter_context(instrumented(pipe, inner, points))
        if hooked:
            stack.enter_context(tapped(pipe, hooked, clock, editor.on_site))
        if recorder is not None:
            feed = stack.enter_context(recorder.tapped(pipe, clock, fed))
            if watched is not None:
                watched.feed = feed
        for step in run_steps(pipe, plan, start, stop):
            if recorder is not None:
                recorder.on_step(step)
            taken.append(step)
    return taken


def results_of(
    lab: Lab,
    plan: Plan,
    asked: int,
    steps: Sequence[Step],
    graph: EditGraph | None = None,
    edited: EditReceipt | None = None,
    recorder: MemoryRecorder | None = None,
) -> list[EditedRun]:
    """Steps of a batch as one result a run; the arguments are those of `execute` and `EditedRun`."""
    graph = graph or EditGraph()
    receipt = None if recorder is None else recorder.receipt()
    return [
        EditedRun(
            spec=spec,
            trajectory=trajectory,
            captured={} if recorder is None else recorder.kept[row].tensors,
            receipt=receipt,
            _pipe=lab.pipe,
            edits=graph,
            edited=edited or EditReceipt(graph, ()),
            resolution=None if recorder is None else recorder.resolution,
            first=steps[0].index,
        )
        for row, (spec, trajectory) in enumerate(zip(plan.specs, trajectories_of(plan, steps, asked), strict=False))
    ]
