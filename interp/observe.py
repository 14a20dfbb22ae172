"""Watch any unmodified call of a pipeline: ``with lab.observe("blocks.3.hook_resid_post") as seen: lab.pipe(...)``.

Where the call is, `interp.whereabouts` knows from facts. Calls outside a pipeline (a bare ``transformer(...)``) are
step 0 of a run of one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from interp.capture import DTYPES, dtype_named, of_step
from interp.errors import InterpError, SelectionError
from interp.grid import TokenGrid
from interp.hooks import Clock, check_hookable, tapped
from interp.patches import patchify
from interp.sampler import Call, Step
from interp.selection import AddressSpace, Selection
from interp.sites import site_named
from interp.tasks.sample import Sample
from interp.views import Output, View, Viewer, ViewPlan
from interp.whereabouts import Whereabouts


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
    seen = Seen()
    with contextlib.ExitStack() as stack:
        dtype_named(dtype)
        watcher = _Watcher(pipe, selection, dtype, views, samples, seen, stack)
        for name, model in watcher.where.transformers.items():
            check_hookable(model)
            handle = model.register_forward_pre_hook(watcher.before(name), with_kwargs=True)
            stack.callback(handle.remove)
            done = model.register_forward_hook(watcher.after, always_call=True)
            stack.callback(done.remove)
        stack.enter_context(watcher.where.watching())
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
        stack: contextlib.ExitStack,
    ) -> None:
        self.pipe, self.selection, self.dtype, self.seen, self.stack = pipe, selection, dtype, seen, stack
        self.views, self.samples = views, samples
        self.where, self.clock = Whereabouts(pipe, self.on_step), Clock()
        self.viewer: Viewer | None = None
        self.direct: list[str] = []
        self.velocities: dict[str, Tensor] = {}

    def before(self, name: str) -> Any:
        def hook(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x, timestep = _argument(args, kwargs, 0, "hidden_states"), _argument(args, kwargs, 1, "timestep")
            call = self.where.arrive(name, timestep)
            self.seen.calls.append(call)
            viewer = self.viewer or self._resolve(model, call, x, args, kwargs)
            self.clock.call = call
            for site, tensor in (("hook_latent_in", x), ("hook_timestep", timestep)):
                if site in self.direct:
                    viewer.on_site(site, call, tensor)

        return hook

    def after(self, model: Any, args: Any, output: Any) -> None:
        call, self.clock.call = self.clock.call, None
        if call is None or output is None or self.viewer is None:
            return
        if self.viewer.of_sampler:
            self.velocities[call.branch] = output[0]
        if "hook_velocity" in self.direct:
            self.viewer.on_site("hook_velocity", call, output[0])

    def on_step(self, last: Call, latents: Tensor, velocity: Tensor, following: Tensor) -> None:
        """A step ended: keep the sampler's own sites, as patches [batch, token, feature]."""
        if self.viewer is None or not self.viewer.of_sampler:
            return
        step = Step(
            last.step, last.sigma, last.expert, latents,
            velocity_cond=self.velocities["cond"],
            velocity_uncond=self.velocities.get("uncond"),
            velocity=velocity,
            x0_hat=latents.float() - last.sigma * velocity.float(),
            next_latents=following,
        )  # fmt: skip
        self.velocities = {}
        resolution = self.viewer.resolution
        for site in self.viewer.of_sampler:
            branch = resolution.branches_of(site)[0]
            left_out = branch == "uncond" and step.velocity_uncond is None  # by a guider, in some steps
            if resolution.contains(site, step.index, branch) and not left_out:
                self.viewer.on_tensor(site, step.index, branch, patchify(of_step(site, step), resolution.space.grid))

    def _resolve(self, model: Any, call: Call, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Viewer:
        """The first forward: now the run's addresses are known, and the hooks can be placed."""
        patch = tuple(model.config.patch_size)
        grid = TokenGrid(
            frames=x.shape[2] // patch[0],
            rows=x.shape[3] // patch[1],
            cols=x.shape[4] // patch[2],
            patch=patch,
            vae_spatial=self.pipe.vae_scale_factor_spatial,
            vae_temporal=self.pipe.vae_scale_factor_temporal,
        )
        image = _argument(args, kwargs, 3, "encoder_hidden_states_image")
        paired = getattr(model.condition_embedder.image_embedder, "pos_embed", None) is not None
        sigmas, experts = self.where.schedule(call)
        space = AddressSpace.of_model(
            model.config,
            grid,
            sigmas=sigmas,
            experts=experts,
            branches=self.where.branches,
            text_tokens=_argument(args, kwargs, 2, "encoder_hidden_states").shape[1],
            image_tokens=0 if image is None else image.shape[1] * (1 + paired),
            per_token_time=_argument(args, kwargs, 1, "timestep").ndim == 2,
            sample=self.samples[0] if len(self.samples) == 1 else None,
        )
        plan = ViewPlan.of(self.selection.resolve(space), self.views, self.dtype)
        self.viewer = viewer = Viewer(plan, self.samples, self.keep)
        # The transformer's own inputs and output are at hand here, before its hooks and after them.
        self.direct = [
            site for site in viewer.hooked if not site_named(site).module and site_named(site).tier == "module"
        ]
        hooked = [site for site in viewer.hooked if site not in self.direct]
        self.stack.enter_context(
            tapped(
                self.pipe, hooked, self.clock, viewer.on_site, wanted=viewer.wanted, parts=viewer.parts, detached=True
            )
        )
        return viewer

    def keep(self, output: Output, step: int, branch: str, made: Tensor) -> None:
        key = (output.name, step, branch)
        if key in self.seen.tensors:
            raise InterpError(f"{key} fired twice in one call")
        self.seen.tensors[key] = made.detach().to("cpu", DTYPES[output.dtype], copy=True)


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any], position: int, name: str) -> Any:
    """An argument of the transformer's forward, however it was passed; None if it was not."""
    return kwargs[name] if name in kwargs else args[position] if position < len(args) else None
