"""From live tensors to kept ones: pick tokens, take views, change dtype, hand each row to its run's sink, and keep the
receipt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from interp.errors import InterpError
from interp.grid import TokenGrid
from interp.sampler import Call, Step
from interp.selection import Resolution
from interp.sites import site_named
from interp.tasks.sample import Sample
from interp.views import Output, View, ViewPlan

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}


@runtime_checkable
class Sink(Protocol):
    """Where one run's tensors go."""

    def write(self, site: str, step_index: int, branch_index: int, tensor: Tensor) -> None:
        """Take [<site axes>] at a position of the selection's steps and branches."""


@dataclass(frozen=True)
class Receipt:
    """What fired: how often each (site, step, branch) of the selection was kept. Once each, or the run is an error.

    Views stand under their own names, "blocks.3.hook_resid_post@frame_mean".
    """

    fired: dict[tuple[str, int, str], int]

    @property
    def tensors(self) -> int:
        """Tensors kept per run."""
        return len(self.fired)


@dataclass
class MemorySink:
    """Keeps a run's tensors in memory: site to [step, branch, <site axes>]."""

    resolution: Resolution
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def write(self, site: str, step_index: int, branch_index: int, tensor: Tensor) -> None:
        """See `Sink`."""
        if site not in self.tensors:
            hook = site.partition("@")[0]
            cells = (len(self.resolution.steps_of(hook)), len(self.resolution.branches_of(hook)))
            self.tensors[site] = tensor.new_empty((*cells, *tensor.shape))
        self.tensors[site][step_index, branch_index] = tensor


class Recorder:
    """Receives every hooked tensor of a batch and keeps views of what the selection names.

    Args:
        resolution: what is selected.
        sinks: one a row of the batch.
        dtype: "bfloat16", "float32" or "float16".
        views: what is kept of each tensor; the tensor itself if empty.
        samples: the problems of the rows, for views that depend on them.
    """

    def __init__(
        self,
        resolution: Resolution,
        sinks: Sequence[Sink],
        dtype: str,
        views: Sequence[View] = (),
        samples: Sequence[Sample] = (),
    ) -> None:
        self.resolution, self.sinks = resolution, sinks
        dtype_named(dtype)
        self.plan = ViewPlan.of(resolution, views, dtype)
        self.fired: Counter[tuple[str, int, str]] = Counter()
        self._kept = {site: Kept.of(resolution, site) for site in resolution.sites}
        self._of_sampler = [s for s in resolution.sites if site_named(s).tier == "sampler"]
        self._direct: dict[str, list[_Taker]] = {}
        self._gathered: dict[str, list[_Taker]] = {}
        for output in self.plan.outputs:
            taker = _Taker(output, output.view.computer(output.given, samples))
            by_source = self._direct if output.made.sources == (output.site,) else self._gathered
            for source in output.made.sources:
                by_source.setdefault(source, []).append(taker)

    @property
    def hooked(self) -> list[str]:
        """Sites that hooks on the transformer have to deliver."""
        return [site for site in (self._direct | self._gathered) if site not in self._of_sampler]

    def on_site(self, site: str, call: Call, tensor: Tensor) -> None:
        """A hook fired: tensor [batch, <site axes>]."""
        if site in self._direct and self.resolution.contains(site, call.step, call.branch):
            self._keep(site, call.step, call.branch, tensor)
        for taker in self._gathered.get(site, ()):
            if self.resolution.contains(taker.output.site, call.step, call.branch):
                made = taker.gather(site, call, tensor)
                if made is not None:
                    self._put(taker.output, call.step, call.branch, made)

    def on_step(self, step: Step) -> None:
        """A step ended: keep the sampler's own sites, as patches [batch, token, feature]."""
        for site in self._of_sampler:
            branch = self.resolution.branches_of(site)[0]
            if self.resolution.contains(site, step.index, branch):
                self._keep(site, step.index, branch, patchify(of_step(site, step), self.resolution.space.grid))

    def _keep(self, site: str, step: int, branch: str, tensor: Tensor) -> None:
        """Take every view of a tensor that computes from this one alone."""
        chosen = self._kept[site].choose(tensor)
        for taker in self._direct[site]:
            self._put(taker.output, step, branch, taker.compute(chosen))

    def _put(self, output: Output, step: int, branch: str, made: Tensor) -> None:
        """Hand one row to each sink: made [batch, <axes of the view>]."""
        kept = self._kept[output.site]
        made = made.to(DTYPES[output.dtype]).cpu()
        if output.site.startswith("rope."):  # one row serves the whole batch
            made = made.expand(len(self.sinks), *made.shape[1:])
        if len(made) != len(self.sinks):
            raise InterpError(f"{output.name} fired with {len(made)} rows in a batch of {len(self.sinks)} runs")
        for row, sink in zip(made, self.sinks, strict=True):
            sink.write(output.name, kept.steps[step], kept.branches[branch], row)
        self.fired[(output.name, step, branch)] += 1

    def receipt(self) -> Receipt:
        """What fired.

        Raises:
            InterpError: something selected never fired, or fired more than once.
        """
        wanted = {
            (output.name, step, branch)
            for output in self.plan.outputs
            for step in self.resolution.steps_of(output.site)
            for branch in self.resolution.branches_of(output.site)
            if self.resolution.contains(output.site, step, branch)
        }
        missed = sorted(wanted - set(self.fired))
        doubled = sorted(key for key, count in self.fired.items() if count > 1)
        if missed or doubled:
            what = f"{missed[0]} never fired" if missed else f"{doubled[0]} fired {self.fired[doubled[0]]} times"
            raise InterpError(
                f"{len(missed) + len(doubled)} of {len(wanted)} selected tensors were not captured exactly once: {what}"
            )
        return Receipt(dict(self.fired))


@dataclass
class _Taker:
    """One view of one site, and what it still waits for."""

    output: Output
    compute: Callable[..., Tensor]
    call: Call | None = None
    waiting: dict[str, Tensor] = field(default_factory=dict)

    def gather(self, source: str, call: Call, tensor: Tensor) -> Tensor | None:
        """Take one source; the view once all have come in the same forward."""
        if call is not self.call:
            self.call, self.waiting = call, {}
        self.waiting[source] = tensor
        sources = self.output.made.sources
        if len(self.waiting) < len(sources):
            return None
        given = [self.waiting[name] for name in sources]
        self.waiting = {}
        return self.compute(*given)


@dataclass(frozen=True)
class Kept:
    """What is kept of one site: places of steps and branches, and positions along its axes."""

    steps: dict[int, int]
    branches: dict[str, int]
    picks: tuple[tuple[int, Tensor], ...]  # (dimension with the batch, positions)

    @classmethod
    def of(cls, resolution: Resolution, site: str) -> Kept:
        chosen = {"token": resolution.tokens_of(site), "head": resolution.heads_of(site)}
        axes = resolution.space.axes_of(site)
        return cls(
            {step: i for i, step in enumerate(resolution.steps_of(site))},
            {branch: i for i, branch in enumerate(resolution.branches_of(site))},
            tuple((1 + axes.index(a), torch.as_tensor(p)) for a, p in chosen.items() if p is not None and a in axes),
        )

    def choose(self, tensor: Tensor) -> Tensor:
        """The chosen positions of [batch, <site axes>]; the tensor itself if all are kept."""
        for dimension, positions in self.picks:
            tensor = tensor.index_select(dimension, positions.to(tensor.device))
        return tensor


def dtype_named(name: str) -> torch.dtype:
    """The torch dtype of a name.

    Raises:
        InterpError: tensors are not kept in that format.
    """
    if name not in DTYPES:
        raise InterpError(f"dtype={name!r} cannot be kept; choose one of {', '.join(DTYPES)}")
    return DTYPES[name]


def of_step(site: str, step: Step) -> Tensor:
    """The sampler's own tensor behind a site: [batch, channel, latent_frame, row, col]."""

    def clean(velocity: Tensor) -> Tensor:
        return step.latents.float() - step.sigma * velocity.float()

    uncond = step.velocity_cond if step.velocity_uncond is None else step.velocity_uncond
    tensors = {
        "latents.hook_in": lambda: step.latents,
        "latents.hook_velocity_cond": lambda: step.velocity_cond,
        "latents.hook_velocity_uncond": lambda: uncond,
        "latents.hook_velocity_cfg": lambda: step.velocity,
        "latents.hook_x0_cond": lambda: clean(step.velocity_cond),
        "latents.hook_x0_uncond": lambda: clean(uncond),
        "latents.hook_x0": lambda: step.x0_hat,
        "latents.hook_out": lambda: step.next_latents,
    }
    return tensors[site]()


def patchify(latents: Tensor, grid: TokenGrid) -> Tensor:
    """Patches as tokens: [batch, channel, latent_frame, row, col] to [batch, token, feature].

    The feature axis is laid out (patch_t, patch_h, patch_w, channel), as the head of the transformer lays it out.
    """
    t, h, w = grid.patch
    batch, channels = latents.shape[:2]
    split = latents.reshape(batch, channels, grid.frames, t, grid.rows, h, grid.cols, w)
    return split.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(batch, grid.tokens, t * h * w * channels)
