"""Exact replay: run once, keep what each step began with, and start any edited run at its first edited step.

What is kept per step is the latents and the solver's memory, which is light (a solver never changes a tensor in place,
so states share them). In the first step, blocks before the first edited layer can be skipped too: the residual stream
that they would compute is put in their place. A replayed run is equal to the full one to the bit at equal batch size.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.conditioning import Conditioning
from interp.edits.graph import graph_of
from interp.edits.program import Program, bind
from interp.edits.run import EditedRun, execute
from interp.edits.sources import OtherRun, World
from interp.errors import InterpError
from interp.hooks import Clock
from interp.instrument import innermost, replaced
from interp.runspec import RunSpec
from interp.sampler import Plan, Step, prepare, run_steps, transformer_of
from interp.selection import Selection
from interp.sites import layer_of
from interp.trajectory import SolverState

if TYPE_CHECKING:
    from interp.lab import Lab


@dataclass(frozen=True)
class Recording:
    """A batch that was run once, without edits.

    Attributes:
        plan: the batch.
        steps: what every step computed.
        states: what every step began with.
    """

    plan: Plan
    steps: tuple[Step, ...]
    states: tuple[SolverState, ...]

    @property
    def specs(self) -> tuple[RunSpec, ...]:
        """The runs, one a row."""
        return self.plan.specs

    def rows(self, chosen: Sequence[int]) -> Recording:
        """The same with these rows, which may repeat.

        Raises:
            InterpError: there is no such row.
        """
        wrong = [row for row in chosen if not 0 <= row < len(self.specs)]
        if wrong or not chosen:
            raise InterpError(f"row {wrong[0] if wrong else None} is not in the recording: it has {len(self.specs)}")
        if list(chosen) == list(range(len(self.specs))):
            return self
        at = torch.tensor(list(chosen))

        def pick(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.index_select(0, at.to(tensor.device))

        given = self.plan.conditioning
        mask = given.frame_mask if given.frame_mask is None or len(given.frame_mask) == 1 else pick(given.frame_mask)
        conditioning = Conditioning(
            prompt=given.prompt.index_select(0, at.to(given.prompt.device)),
            negative=pick(given.negative),
            condition=pick(given.condition),
            frame_mask=mask,
            image=pick(given.image),
        )
        steps = tuple(
            Step(step.index, step.sigma, step.expert, *(pick(getattr(step, name)) for name in _TENSORS))  # type: ignore[arg-type]  # None stays None
            for step in self.steps
        )
        states = tuple(
            SolverState(
                state.step, state.latents.index_select(0, at.to(state.latents.device)), _picked(state.scheduler, pick)
            )
            for state in self.states
        )
        specs = tuple(self.specs[row] for row in chosen)
        plan = Plan(specs, self.plan.settings, conditioning, self.plan.schedule, states[0])
        return Recording(plan, steps, states)


_TENSORS = ("latents", "velocity_cond", "velocity_uncond", "velocity", "x0_hat", "next_latents")


class _Snapshots:
    """A step editor that changes nothing and keeps the solver as each step finds it."""

    def __init__(self) -> None:
        self.states: list[SolverState] = []

    def on_latents(self, site: str, step: int, latents: Tensor) -> Tensor:
        if site == "latents.hook_in":
            self.step = step
        return latents

    def on_velocity(self, branch: str, step: int, latents: Tensor, velocity: Tensor) -> Tensor:
        return velocity

    def on_solver(self, scheduler: Any, latents: Tensor, velocity: Tensor) -> None:
        self.states.append(SolverState(self.step, latents, _light_copy(scheduler)))

    def on_clean(self, x0_hat: Tensor) -> None:
        return None


def record(lab: Lab, runs: RunSpec | Sequence[RunSpec]) -> Recording:
    """Run a batch and keep every step's beginning.

    Args:
        lab: the pipeline.
        runs: one run or several that share settings and size.
    """
    specs = [runs] if isinstance(runs, RunSpec) else list(runs)
    plan = prepare(lab.pipe, specs)
    snapshots = _Snapshots()
    plan.editor = snapshots
    try:
        steps = tuple(run_steps(lab.pipe, plan))
    finally:
        plan.editor = None
    return Recording(plan, steps, tuple(snapshots.states))


def unedited(lab: Lab, recording: Recording) -> list[EditedRun]:
    """The recorded runs as results: what edited ones are compared with."""
    from interp.edits.run import results_of

    return results_of(lab, recording.plan, len(recording.specs), recording.steps)


def replay(
    lab: Lab,
    recording: Recording,
    edits: Any,
    capture: str | Selection | Sequence[str | Selection] | None = None,
    *,
    asked: int | None = None,
    stop: int | None = None,
    residuals: dict[tuple[int, str], Tensor] | None = None,
    enter: Sequence[int] | None = None,
    dtype: str = "float32",
) -> list[EditedRun]:
    """Run edits over recorded runs, from the first edited step on.

    Args:
        lab: the pipeline.
        recording: the runs; a source run has to be one of them.
        edits: see `interp.edits.run_with`.
        capture: what to keep, in the steps that are run.
        asked: how many rows, the first ones, are edited by edits that name no rows; all if None.
        stop: step to stop before; ``first edited step + 1`` reads the effect early, see `EditedRun.x0_hat`.
        residuals: (layer, branch) to the residual stream entering that layer in the first edited step,
            [batch or 1, token, d_model]. With it, blocks before the first edited layer are skipped in that step.
        enter: for rows that are the same run, the layer at which each begins to differ in the first edited step,
            ascending. Until then one row is computed for all that do not yet differ (see `first_layer`).
        dtype: of captured tensors.

    Raises:
        InterpError: a source that is not in the recording, or no edits.
    """
    graph = graph_of(edits)
    specs = recording.specs
    wired = replace(
        graph,
        edits=tuple(replace(e, sources=tuple(_world(s, specs) for s in e.sources)) for e in graph),
    )
    asked = len(specs) if asked is None else asked
    schedule = recording.plan.schedule
    program = bind(wired, lab.space(specs[0]), len(specs), asked, range(schedule.steps))
    first = program.first_step()
    if first is None:
        raise InterpError("there is no edit to replay; interp.replay.unedited gives the recorded runs")
    plan = Plan(specs, recording.plan.settings, recording.plan.conditioning, schedule, recording.states[first])
    around = None
    model = transformer_of(lab.pipe, schedule.experts[first])
    layer = first_layer(program, first)
    if enter is not None:
        if len(enter) != len(specs) or list(enter) != sorted(enter) or len({spec.key for spec in specs}) > 1:
            raise InterpError("enter= names a layer for each row, ascending, where all rows are the same run")
        if capture is not None:
            raise InterpError("enter= computes some rows only, so nothing can be captured with it")
        around = _joining(model, first, tuple(enter))
    if residuals is not None and layer:
        given = {branch: tensor for (at, branch), tensor in residuals.items() if at == layer}
        if set(given) != set(plan.settings.branches):
            raise InterpError(f"residuals of layer {layer} are there for {sorted(given)}, not for every branch")
        around = _skipping(model, first, layer, given, len(specs))
    return execute(
        lab, plan, asked, graph, wired, capture,
        start=recording.states[first], stop=stop, dtype=dtype, past=recording.steps[:first], around=around,
    )  # fmt: skip


def first_layer(program: Program, step: int) -> int:
    """The first layer that computes other values than without edits in a step; 0 if anything before blocks does."""
    last = max((layer_of(site) or 0) for site in program.space.sites)
    found = last
    for site, at, _ in (*program.actions, *program.closed):
        layer = layer_of(site)
        if at == step and layer is not None:
            found = min(found, layer + site.endswith("hook_resid_post"))  # the block's own work is as it was
        elif at == step and not site.startswith(_AFTER_BLOCKS):
            return 0
    return found


_AFTER_BLOCKS = ("head.", "hook_velocity", "latents.hook_velocity", "latents.hook_x0", "latents.hook_out")


def _skipping(
    model: Any, step: int, layer: int, residuals: dict[str, Tensor], rows: int
) -> Callable[[Clock], contextlib.AbstractContextManager[None]]:
    """Blocks before ``layer`` hand over the residual stream that is given, in one step."""

    @contextlib.contextmanager
    def place(clock: Clock) -> Iterator[None]:
        def skipping(forward: Callable[..., Tensor], last: bool) -> Callable[..., Tensor]:
            def skipped(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
                if clock.call is None or clock.call.step != step:
                    return forward(hidden_states, *args, **kwargs)
                if not last:
                    return hidden_states
                return residuals[clock.call.branch].to(hidden_states).expand(rows, -1, -1)

            return skipped

        with contextlib.ExitStack() as stack:
            for i in range(layer):
                owner, name = innermost(model.blocks[i])
                stack.enter_context(replaced(owner, name, skipping(getattr(owner, name), i == layer - 1)))
            yield

    return place


def _joining(
    model: Any, step: int, enter: tuple[int, ...]
) -> Callable[[Clock], contextlib.AbstractContextManager[None]]:
    """In one step, blocks compute the rows that differ already, and one for all that do not."""
    rows = len(enter)

    @contextlib.contextmanager
    def place(clock: Clock) -> Iterator[None]:
        def joining(forward: Callable[..., Tensor], layer: int) -> Callable[..., Tensor]:
            own = sum(first <= layer for first in enter)
            kept = [*range(own), rows - 1]

            def joined(*args: Any) -> Tensor:
                if clock.call is None or clock.call.step != step:
                    return forward(*args)
                at = torch.tensor(kept, device=args[0].device)
                few = (a.index_select(0, at) if isinstance(a, Tensor) and len(a) == rows else a for a in args)
                out = forward(*few)
                return torch.cat([out[:own], out[own:].expand(rows - own, -1, -1)])

            return joined if own < rows - 1 else forward

        with contextlib.ExitStack() as stack:
            for i, block in enumerate(model.blocks):
                if i < enter[-1]:
                    owner, name = innermost(block)
                    stack.enter_context(replaced(owner, name, joining(getattr(owner, name), i)))
            yield

    return place


def _world(source: Any, specs: Sequence[RunSpec]) -> Any:
    if not isinstance(source, OtherRun):
        return source
    for i, spec in enumerate(specs):
        same = source.run.key == spec.key if isinstance(source.run, RunSpec) else source.run is spec.sample
        if same:
            return World(i)
    raise InterpError(f"the source {source} is not in the recording; record it together with the runs that are edited")


def _light_copy(scheduler: Any) -> Any:
    """A scheduler with lists of its own; tensors, which solvers never change in place, are shared."""
    new = copy.copy(scheduler)
    for name, value in vars(scheduler).items():
        if isinstance(value, list):
            setattr(new, name, list(value))
    return new


def _picked(scheduler: Any, pick: Callable[[Tensor | None], Tensor | None]) -> Any:
    """The scheduler with the rows of its memory picked."""
    new = _light_copy(scheduler)
    if hasattr(new, "model_outputs"):
        new.model_outputs = [pick(output) for output in new.model_outputs]
        new.last_sample = pick(new.last_sample)
    return new


__all__ = ["Recording", "record", "replay", "unedited"]
