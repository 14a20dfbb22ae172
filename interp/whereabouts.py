"""Where an unmodified call is: step, branch and expert of each forward, from facts that are checked against each other.

- The expert is the transformer that fired, checked against the boundary.
- The step advances when the first forward after a ``scheduler.step`` arrives. It is checked against the scheduler's own
  timestep, and against the step that diffusers states where it does (``WanPipeline``).
- The branch is what diffusers says when it enters ``cache_context("cond"|"uncond")``, or what a modular pipeline's
  guider says. Video-to-video says neither: there it is the order of the calls since the last ``scheduler.step``. How
  many passes a step made is checked at the next ``scheduler.step``.
- A forward outside a pipeline's loop is step 0 of a run of one, or a step of your own loop over the pipeline's
  scheduler. It is the cond pass unless ``transformer.cache_context("uncond")`` says otherwise.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from interp.errors import InterpError
from interp.hooks import replaced
from interp.sampler import Call, transformer_of
from interp.schedule import boundary_timestep, experts_of

Loop = Literal["pipeline", "modular", "own", "none"]


class Whereabouts:
    """Follows one call of a pipeline.

    Args:
        pipe: the pipeline; nothing of it is changed outside `watching`.
        on_step: told of the end of a step: its last forward, the latents before, the velocity that the scheduler was
            given, and the latents after, [batch, channel, latent_frame, row, col] each.

    Attributes:
        loop: what drives the forwards: a pipeline, a modular pipeline, the user's own loop over the pipeline's
            scheduler, or nothing (a bare call); known from the first forward on.
        branches: passes of a step in call order; known from the first forward on.
    """

    def __init__(self, pipe: Any, on_step: Callable[[Call, Tensor, Tensor, Tensor], None]) -> None:
        self.pipe, self.on_step = pipe, on_step
        found = {name: transformer_of(pipe, name) for name in ("main", "low")}
        self.transformers = {name: model for name, model in found.items() if model is not None}
        self.loop: Loop = "none"
        self.branches: tuple[str, ...] = ()
        self.begin = 0
        self._context: tuple[str, dict[str, Any]] | None = None
        self._step, self._pending = -1, True
        self._passes: list[str] = []
        self._scheduled = self._started = False
        self._last: Call | None = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Listen to the scheduler and to what diffusers says of passes, for the length of the block."""
        with contextlib.ExitStack() as stack:
            for model in self.transformers.values():
                stack.enter_context(replaced(model, "cache_context", self._wrap_context(model.cache_context)))
            scheduler = self.pipe.scheduler
            stack.enter_context(replaced(scheduler, "step", self._wrap_step(scheduler.step)))
            stack.enter_context(replaced(scheduler, "set_timesteps", self._wrap_set_timesteps(scheduler.set_timesteps)))
            yield

    def arrive(self, name: str, timestep: Tensor) -> Call:
        """A forward begins.

        Args:
            name: "main" or "low": which transformer fired.
            timestep: what it was given: [batch], or [batch, token].

        Raises:
            InterpError: two facts disagree, or a pass that nothing names.
        """
        t = float(timestep.max())
        if not self._started:
            self._begin(timestep)
        if self._pending:
            self._step, self._passes, self._pending = self._step + 1, [], False
        expert = "low" if name == "low" else "high" if "low" in self.transformers else "main"
        branch = self._branch(expert)
        self._passes.append(branch)
        if self.loop == "none":
            return Call(expert, 0, branch, t / self.pipe.scheduler.config.num_train_timesteps)
        self._last = Call(expert, self._step, branch, self._sigma(expert, t, timestep.dtype))
        return self._last

    def _sigma(self, expert: str, t: float, dtype: torch.dtype) -> float:
        """Noise level of the step, after checking timestep and expert."""
        expected = self.pipe.scheduler.timesteps[self.begin + self._step]
        if float(expected.to(dtype)) != t:
            raise InterpError(
                f"step {self._step} of the scheduler is timestep {float(expected)}, but the transformer was given {t}; "
                "was the scheduler stepped outside the pipeline?"
            )
        boundary = boundary_timestep(self.pipe)
        if boundary is not None and self.loop != "own" and expert != ("high" if expected >= boundary else "low"):
            raise InterpError(f"the {expert}-noise expert ran at timestep {t}, beyond the boundary {boundary}")
        return float(self.pipe.scheduler.sigmas[self.begin + self._step])

    def schedule(self, first: Call) -> tuple[list[float], list[str]]:
        """Sigma and expert of every step of the run that ``first`` belongs to."""
        if self.loop == "none":
            return [first.sigma], [first.expert]
        scheduler, boundary = self.pipe.scheduler, boundary_timestep(self.pipe)
        timesteps = scheduler.timesteps[self.begin :]
        experts = list(experts_of(timesteps, boundary))
        return [float(s) for s in scheduler.sigmas[self.begin :]][: len(experts)], experts

    def _begin(self, timestep: Tensor) -> None:
        """The first forward: what drives it, how many passes a step has, and where the schedule starts."""
        self._started = True
        pipe, guiders, t = self.pipe, self._guiders(), float(timestep.max())
        now = getattr(pipe, "_current_timestep", None)
        times = [float(t) for t in pipe.scheduler.timesteps.to(timestep.dtype)] if self._scheduled else []
        if self._scheduled and guiders:
            for guider in guiders:
                _check_guider(guider)
            self.loop = "modular"
            guided = any(guider.num_conditions > 1 or guider._start > 0 for guider in guiders)
        elif self._scheduled and now is not None and float(now.to(timestep.dtype)) == t:
            self.loop, guided = "pipeline", bool(pipe.do_classifier_free_guidance)
            self.begin = len(times) - pipe.num_timesteps
        else:
            self.loop, guided = ("own" if t in times else "none"), True
            self.begin = times.index(t) if t in times else 0
        self.branches = ("cond", "uncond") if guided else ("cond",)

    def _guiders(self) -> list[Any]:
        found = (getattr(self.pipe, name, None) for name in ("guider", "guider_2"))
        return [guider for guider in found if guider is not None]

    def _branch(self, expert: str) -> str:
        said, facts = self._context if self._context is not None else (None, {})
        nth = len(self._passes)
        if facts.get("step_index", self._step) != self._step:
            raise InterpError(
                f"diffusers says this is step {facts['step_index']}, the scheduler says step {self._step}; "
                "was the scheduler stepped outside the pipeline?"
            )
        if self.loop == "modular":
            guider = self.pipe.guider_2 if expert == "low" else self.pipe.guider
            said = guider._input_predictions[guider._count_prepared - 1].removeprefix("pred_")
            if guider._step != self._step:
                raise InterpError(f"the guider says step {guider._step}, the scheduler says step {self._step}")
        if self.loop in ("pipeline", "modular"):
            order = self.branches[nth] if nth < len(self.branches) else "none"
            if said is not None and said != order:
                raise InterpError(
                    f"this is said to be the {said} pass, but it is forward {nth + 1} since the last scheduler.step, "
                    f"and a step has {len(self.branches)}; was the scheduler stepped outside the pipeline?"
                )
            said = order
        branch = said or "cond"
        if branch in self._passes or branch == "none":
            raise InterpError(
                f"a second {branch} forward without a scheduler.step between them; for calls of your own, name the "
                'pass with transformer.cache_context("uncond"), or open another observe block'
            )
        return branch

    def _wrap_context(self, original: Any) -> Any:
        @contextlib.contextmanager
        def cache_context(name: str, **facts: Any) -> Iterator[None]:
            self._context = (name, facts)
            try:
                with original(name, **facts):
                    yield
            finally:
                self._context = None

        return cache_context

    def _wrap_step(self, original: Any) -> Any:
        def step(*args: Any, **kwargs: Any) -> Any:
            if self.loop == "pipeline" and not self._pending and tuple(self._passes) != self.branches:
                raise InterpError(
                    f"step {self._step} made the passes {self._passes}, and its pipeline makes {list(self.branches)}"
                )
            out = original(*args, **kwargs)
            if self._last is not None and not self._pending:
                scheduler = self.pipe.scheduler  # its class says what arguments mean, whoever wraps the method
                given = inspect.signature(type(scheduler).step).bind(scheduler, *args, **kwargs).arguments
                after = out[0] if isinstance(out, tuple) else out.prev_sample
                self.on_step(self._last, given["sample"], given["model_output"], after)
            self._pending = True
            return out

        return step

    def _wrap_set_timesteps(self, original: Any) -> Any:
        def set_timesteps(*args: Any, **kwargs: Any) -> Any:
            if self._started:
                raise InterpError("one observe block watches one pipeline call; open another for the next call")
            self._scheduled = True
            return original(*args, **kwargs)

        return set_timesteps


def _check_guider(guider: Any) -> None:
    """Refuse guiders that make passes besides cond and uncond, or change the model for one of them."""
    from diffusers.guiders.guider_utils import BaseGuidance

    plain = type(guider).prepare_models is BaseGuidance.prepare_models
    if not plain or not set(guider._input_predictions) <= {"pred_cond", "pred_uncond"}:
        raise InterpError(
            f"{type(guider).__name__} makes passes that are neither cond nor uncond, or skips layers in one of them; "
            "use ClassifierFreeGuidance, or another guider of two plain passes"
        )
