"""Watch any unmodified call of a pipeline: ``with lab.observe("blocks.3.hook_resid_post") as seen: lab.pipe(...)``.

Where the call is, comes from facts. The branch is what diffusers says when it enters
``cache_context("cond"|"uncond")``; the step advances when the first forward after a ``scheduler.step`` arrives, and is
checked against the step that diffusers states where it does; the expert is the transformer that fired, checked against
the boundary. Calls outside a pipeline (a bare ``transformer(...)``) are step 0 of a run of one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from interp.capture import DTYPES, dtype_named
from interp.errors import InterpError, SelectionError
from interp.grid import TokenGrid
from interp.hooks import Clock, check_hookable, tapped
from interp.sampler import Call, transformer_of
from interp.schedule import boundary_timestep
from interp.selection import AddressSpace, Resolution, Selection
from interp.sites import site_named
from interp.tasks.sample import Sample
from interp.views import Output, View, Viewer, ViewPlan


@dataclass(frozen=True)
class Seen:
    """What was observed.

    Attributes:
        tensors: (site, step, branch) to [batch, <site axes>], on the CPU; views stand under "<site>@<view>". A second
            pipeline call inside one ``with`` block is an error rather than an overwrite.
        calls: every forward in order.
    """

    tensors: dict[tuple[str, int, str], Tensor] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)

    def stack(self, site: str, branch: str = "cond") -> Tensor:
        """All steps of one site: [step, batch, <site axes>].

        Raises:
            SelectionError: the site was not observed in that branch.
        """
        steps = sorted(step for s, step, b in self.tensors if (s, b) == (site, branch))
        if not steps:
            there = sorted({(s, b) for s, _, b in self.tensors})
            raise SelectionError(f"{site} was not observed in branch {branch!r}; there is {there}")
        return torch.stack([self.tensors[site, step, branch] for step in steps])


@contextlib.contextmanager
def observe(
    pipe: Any,
    selection: Selection,
    dtype: str = "float32",
    views: Sequence[View] = (),
    samples: Sequence[Sample] = (),
) -> Iterator[Seen]:
    """See the module docstring.

    Args:
        pipe: a supported pipeline.
        selection: what to observe.
        dtype: of what a view does not keep in a format of its own.
        views: what is kept of each tensor; the tensor itself if empty.
        samples: the problems of the rows of the batch, for views of a task's regions.

    Raises:
        SelectionError: nothing of the selection fired, or it names what this run does not have.
        InterpError: two sources disagree about where the call is.
    """
    seen, clock = Seen(), Clock()
    with contextlib.ExitStack() as stack:
        dtype_named(dtype)
        watcher = _Watcher(pipe, selection, dtype, views, samples, seen, clock, stack)
        for expert in watcher.experts:
            model = transformer_of(pipe, expert)
            check_hookable(model)
            stack.enter_context(_wrapped(model, "cache_context", watcher.wrap_context))
            handle = model.register_forward_pre_hook(watcher.before(expert), with_kwargs=True)
            stack.callback(handle.remove)
            done = model.register_forward_hook(watcher.after, always_call=True)
            stack.callback(done.remove)
        stack.enter_context(_wrapped(pipe.scheduler, "step", watcher.wrap_step))
        stack.enter_context(_wrapped(pipe.scheduler, "set_timesteps", watcher.wrap_set_timesteps))
        yield seen
    if not seen.tensors:
        ran = f"{len(seen.calls)} forwards ran" if seen.calls else "no forward ran inside the with block"
        raise SelectionError(f"{selection} observed nothing: {ran}")


class _Watcher:
    """The state behind one ``with`` block."""

    def __init__(
        self,
        pipe: Any,
        selection: Selection,
        dtype: str,
        views: Sequence[View],
        samples: Sequence[Sample],
        seen: Seen,
        clock: Clock,
        stack: contextlib.ExitStack,
    ) -> None:
        self.pipe, self.selection, self.dtype = pipe, selection, dtype
        self.views, self.samples = views, samples
        self.seen, self.clock, self.stack = seen, clock, stack
        self.experts = ("main",) if getattr(pipe, "transformer_2", None) is None else ("main", "low")
        self.context: tuple[str, dict[str, Any]] | None = None
        self.step, self.in_step, self.pending = -1, 0, True
        self.resolution: Resolution | None = None
        self.viewer: Viewer | None = None
        self.direct: list[str] = []
        self.scheduled = False

    def wrap_context(self, original: Any) -> Any:
        @contextlib.contextmanager
        def cache_context(name: str, **facts: Any) -> Iterator[None]:
            self.context = (name, facts)
            try:
                with original(name, **facts):
                    yield
            finally:
                self.context = None

        return cache_context

    def wrap_step(self, original: Any) -> Any:
        def step(*args: Any, **kwargs: Any) -> Any:
            out = original(*args, **kwargs)
            self.pending = True
            return out

        return step

    def wrap_set_timesteps(self, original: Any) -> Any:
        def set_timesteps(*args: Any, **kwargs: Any) -> Any:
            if self.seen.tensors:
                raise InterpError("one observe block watches one pipeline call; open another for the next call")
            self.step, self.pending, self.scheduled = -1, True, True
            return original(*args, **kwargs)

        return set_timesteps

    def before(self, expert: str) -> Any:
        def hook(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self.pending:
                self.step, self.in_step, self.pending = self.step + 1, 0, False
            branch = self._branch()
            self.in_step += 1
            name = "low" if expert == "low" else "high" if "low" in self.experts else "main"
            x, timestep = _argument(args, kwargs, 0, "hidden_states"), _argument(args, kwargs, 1, "timestep")
            self._check(name, float(timestep.max()))
            sigma = float(self.pipe.scheduler.sigmas[self.step]) if self.scheduled else float(timestep.max()) / 1000
            call = Call(name, self.step, branch, sigma)
            self.seen.calls.append(call)
            if self.resolution is None:
                self._resolve(call, x, timestep, _argument(args, kwargs, 2, "encoder_hidden_states"))
            self.clock.call = call
            for site in self.direct:
                assert self.viewer is not None
                self.viewer.on_site(site, call, x if site == "hook_latent_in" else timestep)

        return hook

    def after(self, *_: Any) -> None:
        self.clock.call = None

    def _branch(self) -> str:
        if self.context is not None:
            return self.context[0]
        return ("cond", "uncond")[self.in_step] if self.in_step < 2 else f"call{self.in_step}"

    def _check(self, expert: str, timestep: float) -> None:
        stated = None if self.context is None else self.context[1].get("step_index")
        if stated is not None and stated != self.step:
            raise InterpError(
                f"diffusers says this is step {stated}, the scheduler says step {self.step}; "
                "was the scheduler stepped outside the pipeline?"
            )
        boundary = boundary_timestep(self.pipe)
        if boundary is not None and expert != ("high" if timestep >= boundary else "low"):
            raise InterpError(f"the {expert}-noise expert ran at timestep {timestep}, beyond the boundary {boundary}")

    def _resolve(self, call: Call, x: Tensor, timestep: Tensor, text: Tensor) -> None:
        """The first forward: now the run's addresses are known, and the hooks can be placed."""
        config = transformer_of(self.pipe, "main").config
        patch = tuple(config.patch_size)
        grid = TokenGrid(
            frames=x.shape[2] // patch[0],
            rows=x.shape[3] // patch[1],
            cols=x.shape[4] // patch[2],
            patch=patch,
            vae_spatial=self.pipe.vae_scale_factor_spatial,
            vae_temporal=self.pipe.vae_scale_factor_temporal,
        )
        boundary = boundary_timestep(self.pipe)
        timesteps = self.pipe.scheduler.timesteps if self.scheduled else timestep.flatten()[:1]
        experts = tuple("main" if boundary is None else "high" if float(t) >= boundary else "low" for t in timesteps)
        guided = self.context is not None and getattr(self.pipe, "do_classifier_free_guidance", False)
        space = AddressSpace.of_model(
            config,
            grid,
            sigmas=[float(s) for s in self.pipe.scheduler.sigmas][: len(experts)] if self.scheduled else [call.sigma],
            experts=experts,
            branches=("cond", "uncond") if guided else ("cond",),
            text_tokens=text.shape[1],
            per_token_time=bool(self.pipe.config.get("expand_timesteps")),
        )
        self.resolution = self.selection.resolve(space)
        self.viewer = viewer = Viewer(ViewPlan.of(self.resolution, self.views, self.dtype), self.samples, self.keep)
        self.direct = [s for s in viewer.hooked if (site_named(s).module, site_named(s).port) == ("", "input")]
        hooked = [site for site in viewer.hooked + viewer.of_sampler if site not in self.direct]
        self.stack.enter_context(
            tapped(self.pipe, hooked, self.clock, viewer.on_site, wanted=viewer.wanted, parts=viewer.parts)
        )

    def keep(self, output: Output, step: int, branch: str, made: Tensor) -> None:
        key = (output.name, step, branch)
        if key in self.seen.tensors:
            raise InterpError(f"{key} fired twice in one call")
        self.seen.tensors[key] = made.detach().to("cpu", DTYPES[output.dtype], copy=True)


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any], position: int, name: str) -> Tensor:
    """An argument of the transformer's forward, however it was passed."""
    return kwargs[name] if name in kwargs else args[position]


@contextlib.contextmanager
def _wrapped(owner: Any, name: str, wrap: Any) -> Iterator[None]:
    """Replace a method on one instance for the length of the block."""
    had = name in vars(owner)
    original = getattr(owner, name)
    setattr(owner, name, wrap(original))
    try:
        yield
    finally:
        if had:
            setattr(owner, name, original)
        else:
            delattr(owner, name)
