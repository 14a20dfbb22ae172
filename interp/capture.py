"""From live tensors to kept ones: take views, change dtype, hand each row to its run's sink, and keep the receipt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from interp.budget import check_memory
from interp.errors import InterpError
from interp.hooks import Clock, Feed, tapped
from interp.hostcopy import HostCopies
from interp.patches import patchify
from interp.sampler import Call, Step
from interp.selection import Resolution
from interp.tasks.sample import Sample
from interp.views import Output, View, Viewer, ViewPlan

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


class Captured(Mapping[str, Tensor]):
    """Tensors by site, [step, branch, <site axes>], put together when a site is first asked for.

    Until then each cell is kept as the model made it, without a copy, as long as nothing else lies in its memory.
    """

    def __init__(self) -> None:
        self._cells: dict[str, dict[tuple[int, int], tuple[Tensor, int]]] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._whole: dict[str, Tensor] = {}

    def put(self, site: str, sizes: tuple[int, int], place: tuple[int, int], tensor: Tensor, rows: int) -> None:
        """Keep one cell.

        Args:
            site: name.
            sizes: steps and branches of the site.
            place: step and branch of the cell.
            tensor: [<site axes>]; nobody may change it in place from now on, which is checked.
            rows: how many such tensors share its memory: the rows of a batch.
        """
        if tensor.is_inference() or tensor.untyped_storage().nbytes() > rows * tensor.nbytes:
            tensor = tensor.clone()
        self._sizes[site] = sizes
        version = 0 if tensor.is_inference() else tensor._version
        self._cells.setdefault(site, {})[place] = (tensor, version)

    def __getitem__(self, site: str) -> Tensor:
        if site not in self._whole:
            cells = self._cells[site]
            first = next(iter(cells.values()))[0]
            whole = first.new_empty((*self._sizes[site], *first.shape))
            for place, (tensor, version) in cells.items():
                if not tensor.is_inference() and tensor._version != version:
                    raise InterpError(
                        f"{site} was changed in place after it was captured; change a copy in the hook that did so"
                    )
                whole[place] = tensor
            self._whole[site] = whole
            del self._cells[site]
        return self._whole[site]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sizes)

    def __len__(self) -> int:
        return len(self._sizes)


class MemorySink:
    """Keeps a run's tensors in memory.

    Args:
        resolution: what is selected.
        rows: of the batch.
    """

    def __init__(self, resolution: Resolution, rows: int = 1) -> None:
        self.resolution, self.rows = resolution, rows
        self.tensors = Captured()
        self._sizes: dict[str, tuple[int, int]] = {}

    def write(self, site: str, step_index: int, branch_index: int, tensor: Tensor) -> None:
        """See `Sink`."""
        sizes = self._sizes.get(site)
        if sizes is None:
            hook = site.partition("@")[0]
            sizes = len(self.resolution.steps_of(hook)), len(self.resolution.branches_of(hook))
            self._sizes[site] = sizes
        self.tensors.put(site, sizes, (step_index, branch_index), tensor, self.rows)


class NoSink:
    """Keeps nothing: a row that is there only for the company it keeps."""

    def write(self, site: str, step_index: int, branch_index: int, tensor: Tensor) -> None:
        """See `Sink`."""


class Recorder:
    """Receives every hooked tensor of a batch and keeps views of what the selection names.

    Args:
        resolution: what is selected.
        sinks: one a row of the batch.
        dtype: "bfloat16", "float32" or "float16".
        views: what is kept of each tensor; the tensor itself if empty.
        samples: the problems of the rows, for views that depend on them.
        copies: how tensors come from a GPU while the model goes on, for sinks that do not keep what they are given;
            they have everything once `receipt` was called. None: one by one, while the model waits.
    """

    def __init__(
        self,
        resolution: Resolution,
        sinks: Sequence[Sink],
        dtype: str,
        views: Sequence[View] = (),
        samples: Sequence[Sample] = (),
        copies: HostCopies | None = None,
    ) -> None:
        self.resolution, self.sinks, self._copies = resolution, sinks, copies
        dtype_named(dtype)
        self.plan = ViewPlan.of(resolution, views, dtype)
        self.viewer = Viewer(self.plan, samples, self._put)
        self.fired: Counter[tuple[str, int, str]] = Counter()
        self._places = {site: _places(resolution, site) for site in resolution.sites}

    @property
    def hooked(self) -> list[str]:
        """Sites that hooks on the transformer have to deliver."""
        return self.viewer.hooked

    def tapped(self, pipe: Any, clock: Clock, fed: Collection[str] = ()) -> AbstractContextManager[Feed]:
        """Place the hooks that this needs; see `interp.hooks.tapped`."""
        viewer = self.viewer
        return tapped(pipe, self.hooked, clock, self.on_site, wanted=viewer.wanted, parts=viewer.parts, fed=fed)

    def on_site(self, site: str, call: Call, tensor: Tensor) -> None:
        """A hook fired: tensor [batch, <site axes>]."""
        self.viewer.on_site(site, call, tensor)

    def on_step(self, step: Step) -> None:
        """A step ended: keep the sampler's own sites, as patches [batch, token, feature]."""
        for site in self.viewer.of_sampler:
            branch = self.resolution.branches_of(site)[0]
            if self.resolution.contains(site, step.index, branch):
                tensor = patchify(of_step(site, step), self.resolution.space.grid)
                self.viewer.on_tensor(site, step.index, branch, tensor)

    def _put(self, output: Output, step: int, branch: str, made: Tensor) -> None:
        """Hand one row to each sink: made [batch, <axes of the view>]."""
        steps, branches = self._places[output.site]
        beside = self._copies is not None and made.is_cuda
        made = made.to(DTYPES[output.dtype], copy=beside)  # the model may change its own before it is copied
        if output.site.startswith("rope."):  # one row serves the whole batch
            made = made.expand(len(self.sinks), *made.shape[1:])
        if made.shape[0] != len(self.sinks):
            raise InterpError(f"{output.name} fired with {made.shape[0]} rows in a batch of {len(self.sinks)} runs")
        hand_over = partial(self._hand_over, output.name, steps[step], branches[branch])
        if self._copies is not None and beside:
            self._copies.put(made, hand_over)
        else:
            hand_over(made.cpu())
        cell = (output.name, step, branch)
        self.fired[cell] = self.fired.get(cell, 0) + 1

    def _hand_over(self, name: str, step_index: int, branch_index: int, made: Tensor) -> None:
        for row, sink in zip(made.unbind(), self.sinks, strict=True):
            sink.write(name, step_index, branch_index, row)

    def receipt(self) -> Receipt:
        """What fired.

        Raises:
            InterpError: something selected never fired, or fired more than once.
        """
        if self._copies is not None:
            self._copies.flush()
        wanted = {(output.name, *key) for output in self.plan.outputs for key in self.resolution.keys_of(output.site)}
        missed = sorted(wanted - set(self.fired))
        doubled = sorted(key for key, count in self.fired.items() if count > 1)
        if missed or doubled:
            what = f"{missed[0]} never fired" if missed else f"{doubled[0]} fired {self.fired[doubled[0]]} times"
            raise InterpError(
                f"{len(missed) + len(doubled)} of {len(wanted)} selected tensors were not captured exactly once: {what}"
            )
        return Receipt(dict(self.fired))


class MemoryRecorder(Recorder):
    """Keeps what is selected in memory.

    Args:
        resolution: what is selected.
        samples: the problems of the rows.
        dtype, views: as of `Recorder`.

    Attributes:
        kept: one a row.

    Raises:
        InterpError: it would not fit into the memory of this machine.
    """

    def __init__(
        self, resolution: Resolution, samples: Sequence[Sample], dtype: str, views: Sequence[View] = ()
    ) -> None:
        self.kept = [MemorySink(resolution, len(samples)) for _ in samples]
        super().__init__(resolution, self.kept, dtype, views, samples)
        check_memory([self.plan] * len(samples), dtype)


def _places(resolution: Resolution, site: str) -> tuple[dict[int, int], dict[str, int]]:
    """Positions of a site's steps and branches in what is kept."""
    steps = {step: i for i, step in enumerate(resolution.steps_of(site))}
    return steps, {branch: i for i, branch in enumerate(resolution.branches_of(site))}


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
    uncond = step.velocity_cond if step.velocity_uncond is None else step.velocity_uncond
    tensors = {
        "latents.hook_in": lambda: step.latents,
        "latents.hook_velocity_cond": lambda: step.velocity_cond,
        "latents.hook_velocity_uncond": lambda: uncond,
        "latents.hook_velocity_cfg": lambda: step.velocity,
        "latents.hook_x0_cond": lambda: _clean(step, step.velocity_cond),
        "latents.hook_x0_uncond": lambda: _clean(step, uncond),
        "latents.hook_x0": lambda: step.x0_hat,
        "latents.hook_out": lambda: step.next_latents,
    }
    return tensors[site]()


def _clean(step: Step, velocity: Tensor) -> Tensor:
    return step.latents.float() - step.sigma * velocity.float()
