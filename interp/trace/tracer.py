"""The tracer behind ``with lab.trace(run) as t:``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from types import CodeType
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from nnsight.intervention.interleaver import Mediator, OutOfOrderError
from nnsight.intervention.tracer import InterleavingTracer
from nnsight.tracing.tracer import push_result
from torch import Tensor

from interp.capture import MemoryRecorder
from interp.edits.run import EditedRun, results_of
from interp.errors import InterpError, SelectionError
from interp.hooks import Clock, tapped
from interp.instrument import instrumented, part_of
from interp.runspec import RunSpec
from interp.sampler import prepare, run_steps
from interp.selection import Part, Resolution, Selection, select
from interp.sites import site_named
from interp.trace.modules import Experts, Root, wrapped
from interp.trace.place import Address, in_order, place_text, text_of
from interp.trace.points import LivePoints, Touched
from interp.trace.worker import Worker

if TYPE_CHECKING:
    from interp.lab import Lab

Several = str | Selection | Sequence[str | Selection]


class LabTracer(InterleavingTracer):
    """A run with the user's block in step with it; made by `interp.Lab.trace`.

    Inside the block: ``t[site, step, branch]`` reads a hook point's tensor [batch, <site axes>], and assigning to it
    writes. What the run or the hook point leaves no choice about can be left out: ``t[site, step]`` without guidance.
    ``t.model`` is nnsight's own tree of both experts, for values that have no name. As everywhere in nnsight,
    ``save()`` what is to be there after the block.

    Attributes:
        touched: what was handed to the block, in order, and whether it changed it.
    """

    def __init__(
        self, lab: Lab, runs: RunSpec | Sequence[RunSpec], capture: Several | None, also: Several | None, dtype: str
    ) -> None:
        super().__init__(None, None)
        self.specs, self._single = ([runs], True) if isinstance(runs, RunSpec) else (list(runs), False)
        if not self.specs:
            raise InterpError("no runs were given to trace")
        self.lab, self.space = lab, lab.space(self.specs)
        self._capture: Resolution | None = None if capture is None else select(capture).resolve(self.space)
        self._dtype = dtype
        self._also = () if also is None else select(also).resolve(self.space).sites
        self._derived = frozenset(s for s in self._also if site_named(s).tier == "recompute" and part_of(s) is None)
        self._inner = frozenset(s for s in self._also if part_of(s) is not None)
        self._addresses: dict[str, Address] = {}
        self._points: LivePoints | None = None
        self._model: Root | None = None
        self._done: list[EditedRun] | None = None
        self._touched: list[Touched] = []

    # --- in the block -------------------------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Any:
        """The tensor [batch, <site axes>] at an address; the run goes on until it is made.

        Args:
            key: a hook point, and its step and branch; or the text of a selection of one tensor.

        Raises:
            SelectionError: it is not one tensor of this run, or one that was not opened with ``also=``.
            InterpError: the run is past it.
        """
        return Mediator.value(self._ask(key, write=False))

    def __setitem__(self, key: Any, value: Any) -> None:
        """Replace the tensor at an address: same shape; taken to the dtype of the one it replaces.

        Raises:
            SelectionError, InterpError: as in reading; or the hook point cannot be written.
        """
        if not isinstance(value, Tensor):
            raise InterpError(f"{key} was assigned a {type(value).__name__}; give a tensor of the same shape")
        Mediator.swap(self._ask(key, write=True), value)

    def each(self, sites: Several, **axes: Any) -> list[Address]:
        """Every address of a selection in the order in which the run comes past them: ``for at in t.each(...): t[at]``.

        Args:
            sites, axes: as `interp.select` takes them: step, sigma, branch, expert, layer.
        """
        return in_order(select(sites, **axes).resolve(self.space).addresses(), self.space)

    def goto(self, step: int, branch: str | None = None) -> None:
        """Let the run go on until a forward begins; what is then asked of ``t.model`` is of that forward.

        Raises:
            SelectionError: the run has no such forward.
            InterpError: it has begun already.
        """
        _, number, name = self._one(("hook_timestep", step, branch))
        if self._live.has_begun(number, name):
            raise InterpError(f"the forward {place_text(number, name)} has begun already; go to a later one")
        Mediator.value(place_text(number, name))

    @property
    def model(self) -> Root:
        """nnsight's envoy of both experts: ``t.model.transformer.blocks[3].attn1.output``, ``.source`` and all."""
        if self._model is None:
            raise InterpError("t.model is there inside the with block only")
        return self._model

    @property
    def result(self) -> Any:
        """The finished run (a list of them for a list of runs), inside the block and after it.

        Raises:
            InterpError: the run was stopped, or has not run.
        """
        if self._done is None and self._points is not None:
            Mediator.value("result")
        if self._done is None:
            raise InterpError("there is no result: the run was stopped, or an error ended it, or it has not begun")
        return self._done[0] if self._single else self._done

    @property
    def touched(self) -> tuple[Touched, ...]:
        """What was handed to the block."""
        return tuple(self._touched)

    # --- what would count, or batch, or never apply -------------------------------------------------------------------

    @property
    def iter(self) -> NoReturn:
        """Refused.

        Raises:
            InterpError: always.
        """
        raise InterpError(
            "t.iter counts how often a module has run: with guidance every other time is the uncond pass, and each "
            "expert starts at 0; loop over t.each(...), or say t[site, step, branch]"
        )

    def all(self) -> NoReturn:
        """Refused, as `iter` is."""
        self.iter  # noqa: B018  it raises
        raise AssertionError

    def cache(self, *_: Any, **__: Any) -> NoReturn:
        """Refused.

        Raises:
            InterpError: always.
        """
        raise InterpError(
            "t.cache keeps every call of a module without its step and branch, and nothing at all where a path is "
            "misspelt; lab.trace(run, capture=...) and lab.run(run, ...) keep hook points under their addresses"
        )

    def invoke(self, *_: Any, **__: Any) -> NoReturn:
        """Refused.

        Raises:
            InterpError: always.
        """
        raise InterpError("the runs of a batch are the rows of every tensor: lab.trace([run, other]), then t[...][1]")

    # --- the run ------------------------------------------------------------------------------------------------------

    def execute(self, code: CodeType) -> None:
        """Run the block in step with the sampler; called by nnsight where the ``with`` block ends."""
        frame = self.info.frame
        worker = Worker(code, frame.f_globals, dict(frame.f_locals), node=self.node)
        worker.points = self._points = LivePoints(worker, self.space, self._inner, Clock())
        try:
            with ExitStack() as stack:
                if self._inner:
                    stack.enter_context(instrumented(self.lab.pipe, sorted(self._inner), self._points))
                self._model = stack.enter_context(wrapped(Experts(self.lab.pipe)))
                self._model.interleaver.mediators.append(worker)
                try:
                    self._model.interleave(self._run)
                except OutOfOrderError as error:
                    raise InterpError(f"the run ended before {worker.pending} came") from error
            push_result(frame, worker.lcls.writes())
            self._points.check_kept()
        finally:
            self._touched = self._points.touched
            self._points = self._model = None

    @torch.no_grad()
    def _run(self) -> list[EditedRun]:
        assert self._points is not None
        pipe, points = self.lab.pipe, self._points
        plan = prepare(pipe, self.specs)
        plan.on_call, plan.editor = points.on_call, points
        recorder = None
        if self._capture is not None:
            recorder = MemoryRecorder(self._capture, [spec.sample for spec in self.specs], self._dtype)
        taken = []
        with ExitStack() as stack:
            stack.enter_context(tapped(pipe, self._tapped, points.clock, points.on_site))
            if recorder is not None:
                stack.enter_context(recorder.tapped(pipe, points.clock))
            for step in run_steps(pipe, plan):
                if recorder is not None:
                    recorder.on_step(step)
                taken.append(step)
        points.now = None
        self._done = results_of(self.lab, plan, len(self.specs), taken, recorder=recorder)
        return self._done

    @property
    def _tapped(self) -> list[str]:
        """Sites that module hooks hand over: all that are cheap, and those asked for."""
        open_ = [s for s in self.space.sites if site_named(s).tier == "module" or s in self._derived]
        return [s for s in open_ if s not in self._inner]

    @property
    def _live(self) -> LivePoints:
        if self._points is None:
            raise InterpError("values of a trace are there inside the with block only; save() what you need after it")
        return self._points

    def _ask(self, key: Any, write: bool) -> str:
        """The location of an address that can still come."""
        address = self._one(key)
        site, also = site_named(address[0]), f"lab.trace(run, also={address[0]!r})"
        if site.tier == "recompute" and address[0] not in self._also:
            raise SelectionError(f"{address[0]} takes computing, done only where asked for: {also}")
        if write and not site.writable:
            raise SelectionError(f"{address[0]} cannot be written: {site.meaning}")
        if write and site.write in ("processor", "block") and address[0] not in self._inner:
            if part_of(address[0]) is None:
                parts = ", ".join(site.sources_at(address[0]))
                raise SelectionError(f"{address[0]} cannot be written; write what it is made of: {parts}")
            raise SelectionError(f"{address[0]} can be written only in an instrumented layer: {also}")
        if self._live.is_past(address):
            now = "" if self._live.now is None else f" and is at {text_of(self._live.now)}"
            raise InterpError(
                f"the run is past {text_of(address)}{now}; ask for values in the order of the computation, "
                "as t.each(...) gives them"
            )
        return text_of(address)

    def _one(self, key: Any) -> Address:
        """The address that a key stands for.

        Raises:
            SelectionError: it stands for none, for several, or for part of a tensor.
        """
        if isinstance(key, tuple) and len(key) == 3 and key[0] in self.space.widths:
            site, step, branch = key
            if step in range(self.space.steps) and branch in self.space.branches_of(site):
                return site, step, branch
        text = repr(key)  # a slice has no hash
        if text not in self._addresses:
            site, step, branch = (*key, None, None)[:3] if isinstance(key, tuple) else (key, None, None)
            resolution = select(site, step=step, branch=branch).resolve(self.space)
            found = list(resolution.addresses())
            if len(found) > 1:
                raise SelectionError(
                    f"{key} stands for {len(found)} tensors, {text_of(found[0])} first; name one with t[site, step, "
                    "branch], or walk over them with t.each(...)"
                )
            if resolution.parts(*found[0]) != (Part(),):
                raise SelectionError(
                    f"a trace hands over whole tensors; leave tokens and heads out of {key} and index it"
                )
            self._addresses[text] = found[0]
        return self._addresses[text]
