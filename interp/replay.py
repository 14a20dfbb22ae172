"""Exact replay: run once, keep what each step began with, and start any edited run at its first edited step.

What is kept per step is the latents and the solver's memory, which is light (a solver never changes a tensor in place,
so states share them). In the first step, blocks before the first edited layer can be skipped too, if the recording kept
the residual stream that enters it. A replayed run is equal to the full one to the bit at equal batch size.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.conditioning import Conditioning
from interp.edits.graph import graph_of
from interp.edits.program import Program, bind
from interp.edits.run import EditedRun, execute
from interp.edits.sources import OtherRun, World
from interp.errors import InterpError
from interp.hooks import Clock, tapped
from interp.instrument import innermost, replaced
from interp.runspec import RunSpec
from interp.sampler import Call, Plan, Step, prepare, run_steps, transformer_of
from interp.selection import AddressSpace, Selection
from interp.shared_text import keeping_text, no_sharing, sharing_text
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
        residuals: (step, layer, branch) to the residual stream entering that layer, [row, token, d_model]; what
            `record` was asked to keep. Layer L of a model of L layers is what leaves the last block.
        space: addresses of the runs.
    """

    plan: Plan
    steps: tuple[Step, ...]
    states: tuple[SolverState, ...]
    residuals: dict[tuple[int, int, str], Tensor] = field(default_factory=dict, repr=False)
    space: AddressSpace | None = field(default=None, repr=False)

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
        at, one = torch.tensor(list(chosen)), len(set(chosen)) == 1

        def taken(tensor: Tensor) -> Tensor:
            """Many rows of one run are views of it."""
            if one:
                return tensor[chosen[0]].expand(len(chosen), *tensor.shape[1:])
            return tensor.index_select(0, at.to(tensor.device))

        def pick(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else taken(tensor)

        given = self.plan.conditioning
        mask = given.frame_mask if given.frame_mask is None or len(given.frame_mask) == 1 else pick(given.frame_mask)
        conditioning = Conditioning(
            prompt=taken(given.prompt),
            negative=pick(given.negative),
            condition=pick(given.condition),
            frame_mask=mask,
            image=pick(given.image),
            control=pick(given.control),
            control_scale=given.control_scale,
        )
        steps = tuple(
            Step(step.index, step.sigma, step.expert, *(pick(getattr(step, name)) for name in _TENSORS))  # type: ignore[arg-type]  # None stays None
            for step in self.steps
        )
        states = tuple(
            SolverState(state.step, taken(state.latents), _picked(state.scheduler, pick)) for state in self.states
        )
        specs = tuple(self.specs[row] for row in chosen)
        plan = Plan(specs, self.plan.settings, conditioning, self.plan.schedule, states[0])
        return Recording(plan, steps, states, {at: taken(x) for at, x in self.residuals.items()}, self.space)


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


def record(
    lab: Lab,
    runs: RunSpec | Sequence[RunSpec] | Plan,
    keep: Collection[tuple[int, int]] = (),
    *,
    share_text: bool = False,
) -> Recording:
    """Run a batch and keep every step's beginning.

    Args:
        lab: the pipeline.
        runs: one run or several that share settings and size, or what `interp.sampler.prepare` made of them.
        keep: (step, layer) at which the residual stream entering the layer is kept too, on the model's device, so that
            a replay can start there.
        share_text: see `replay`.

    Raises:
        InterpError: a step or layer that is not there.
    """
    plan = replace(runs) if isinstance(runs, Plan) else prepare(lab.pipe, [runs] if isinstance(runs, RunSpec) else runs)
    specs = plan.specs
    layers = transformer_of(lab.pipe, "main").config.num_layers
    for step, layer in keep:
        if not (0 <= step < plan.schedule.steps and 1 <= layer <= layers):
            raise InterpError(
                f"keep=({step}, {layer}): the run has steps 0 to {plan.schedule.steps - 1}, and the stream entering "
                f"layers 1 to {layers} can be kept"
            )
    residuals: dict[tuple[int, int, str], Tensor] = {}

    def emit(site: str, call: Call, tensor: Tensor) -> None:
        layer = layer_of(site)
        if layer is not None and (call.step, layer + 1) in keep:
            residuals[call.step, layer + 1, call.branch] = tensor

    clock, snapshots = Clock(), _Snapshots()
    sites = [f"blocks.{layer - 1}.hook_resid_post" for layer in sorted({layer for _, layer in keep})]
    given, around = sharing_text(lab.pipe, plan, (), least=1) if share_text else (plan, no_sharing)
    given = replace(given, editor=snapshots, on_call=clock.enter)
    with contextlib.ExitStack() as stack:
        stack.enter_context(around(clock))
        stack.enter_context(keeping_text(lab.pipe, lab.grid(specs[0].sample).tokens))
        if sites:
            stack.enter_context(tapped(lab.pipe, sites, clock, emit))
        steps = tuple(run_steps(lab.pipe, given))
    return Recording(plan, steps, tuple(snapshots.states), residuals, lab.space(specs[0]))


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
    enter: Sequence[int] | None = None,
    share_text: bool = False,
    history: bool = True,
    dtype: str = "float32",
) -> list[EditedRun]:
    """Run edits over recorded runs, from the first edited step on.

    If the recording kept the residual stream entering the first edited layer of that step, blocks before it are
    skipped.

    Args:
        lab: the pipeline.
        recording: the runs; a source run has to be one of them.
        edits: see `interp.edits.run_with`.
        capture: what to keep, in the steps that are run.
        asked: how many rows, the first ones, are edited by edits that name no rows; all if None.
        stop: step to stop before; ``first edited step + 1`` reads the effect early, see `EditedRun.x0_hat`.
        enter: for rows that are the same run, the layer at which each begins to differ in the first edited step,
            ascending. A row is computed from there on only (see `first_layer`).
        share_text: compute what all rows have of one prompt once; see `interp.shared_text`. Equal to rounding, not to
            the bit.
        history: whether trajectories hold the recorded steps too, or begin at the first edited one.
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
    space = recording.space
    if space is None or any(spec.sample is not space.sample for spec in specs[:asked]):
        space = lab.space(specs[:asked])
    program = bind(wired, space, len(specs), asked, range(schedule.steps))
    first, last = program.first_step(), program.last_step()
    if first is None or last is None:
        raise InterpError("there is no edit to replay; interp.replay.unedited gives the recorded runs")
    plan = Plan(specs, recording.plan.settings, recording.plan.conditioning, schedule, recording.states[first])
    if enter is not None:
        if len(enter) != len(specs) or list(enter) != sorted(enter) or len({spec.key for spec in specs}) > 1:
            raise InterpError("enter= names a layer for each row, ascending, where all rows are the same run")
        if capture is not None:
            raise InterpError("enter= computes some rows only, so nothing can be captured with it")
    elif capture is None:
        layer = first_layer(program, first)
        if all((first, layer, branch) in recording.residuals for branch in plan.settings.branches):
            enter = [layer] * len(specs)
    around: list[Callable[[Clock], contextlib.AbstractContextManager[None]]] = []
    if enter is not None and enter[-1] > 0:
        around.append(_entering(transformer_of(lab.pipe, schedule.experts[first]), first, tuple(enter), recording))
    if share_text and capture is None:
        plan, shared = sharing_text(lab.pipe, plan, program.sites)
        around.append(shared)

    @contextlib.contextmanager
    def place(clock: Clock) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for one in around:
                stack.enter_context(one(clock))
            yield

    return execute(
        lab, plan, asked, graph, wired, capture,
        start=recording.states[first], stop=stop, dtype=dtype,
        past=recording.steps[:first], history=history, around=place,
        program=program if stop is None or last < stop else None,
    )  # fmt: skip


def first_layer(program: Program, step: int) -> int:
    """The first layer that computes other values than without edits in a step; 0 if anything before blocks does."""
    last = max((layer_of(site) or 0) for site in program.space.sites)
    found = last
    for site, at, _ in (*program.actions, *program.closed):
        layer = layer_of(site)
        if at == step and site.startswith("vace_"):
            return 0  # hints join the stream from the first layer on
        if at == step and layer is not None:
            found = min(found, layer + site.endswith("hook_resid_post"))  # the block's own work is as it was
        elif at == step and not site.startswith(_AFTER_BLOCKS):
            return 0
    return found


_AFTER_BLOCKS = ("head.", "hook_velocity", "latents.hook_velocity", "latents.hook_x0", "latents.hook_out")


def _entering(
    model: Any, step: int, enter: tuple[int, ...], recording: Recording
) -> Callable[[Clock], contextlib.AbstractContextManager[None]]:
    """In one step, a row is computed from the layer on at which it enters.

    Before that it is the recorded run. If the recording kept the residual stream there, the row is given it; otherwise
    one row is computed for all that have not entered yet.
    """
    rows, kept = len(enter), recording.residuals
    branches = recording.plan.settings.branches
    known = all((step, layer, branch) in kept for layer in set(enter) - {0} for branch in branches)

    @contextlib.contextmanager
    def place(clock: Clock) -> Iterator[None]:
        def entering(forward: Callable[..., Tensor], layer: int) -> Callable[..., Tensor]:
            own = sum(first <= layer for first in enter)
            ready = sum(first <= layer + 1 for first in enter)
            computed = [*range(own)] if known else [*range(own), rows - 1]

            def some(value: Any, at: Tensor) -> Any:
                return value.index_select(0, at) if isinstance(value, Tensor) and len(value) == rows else value

            def entered(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
                if clock.call is None or clock.call.step != step:
                    return forward(hidden_states, *args, **kwargs)
                parts = []
                if computed:
                    at = torch.tensor(computed, device=hidden_states.device)
                    few = {name: some(value, at) for name, value in kwargs.items()}
                    parts.append(forward(some(hidden_states, at), *(some(a, at) for a in args), **few))
                if not known:
                    return torch.cat([parts[0][:own], parts[0][own:].expand(rows - own, -1, -1)])
                if ready > own:
                    parts.append(kept[step, layer + 1, clock.call.branch][own:ready].to(hidden_states))
                return torch.cat([*parts, hidden_states[ready:]]) if len(parts) > 1 or ready < rows else parts[0]

            return entered if own < rows - (not known) else forward

        with contextlib.ExitStack() as stack:
            for i, block in enumerate(model.blocks):
                if i < enter[-1]:
                    owner, name = innermost(block)
                    stack.enter_context(replaced(owner, name, entering(getattr(owner, name), i)))
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
