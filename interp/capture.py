"""From live tensors to kept ones: pick tokens, change dtype, hand each row to its run's sink, and keep the receipt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from interp.errors import InterpError
from interp.grid import TokenGrid
from interp.sampler import Call, Step
from interp.selection import Resolution
from interp.sites import site_named

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}


class Sink(Protocol):
    """Where one run's tensors go."""

    def write(self, site: str, step_index: int, branch_index: int, tensor: Tensor) -> None:
        """Take [<site axes>] at a position of the selection's steps and branches."""


@dataclass(frozen=True)
class Receipt:
    """What fired: how often each (site, step, branch) of the selection was seen. Once each, or the run is an error."""

    fired: dict[tuple[str, int, str], int]

    @property
    def tensors(self) -> int:
        """Tensors kept per run."""
        return len(self.fired)


@dataclass
class MemorySink:
    """Keeps a run's tensors in memory: site to [step, branch, <site axes>]."""

    steps: int
    branches: dict[str, int]
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def write(self, site: str, step_index: int, branch_index: int, tensor: Tensor) -> None:
        """See `Sink`."""
        if site not in self.tensors:
            self.tensors[site] = tensor.new_empty((self.steps, self.branches[site], *tensor.shape))
        self.tensors[site][step_index, branch_index] = tensor


class Recorder:
    """Receives every hooked tensor of a batch and keeps what the selection names.

    Args:
        resolution: what is selected.
        sinks: one a row of the batch.
        grid: tokens of this batch's videos.
        dtype: "bfloat16", "float32" or "float16".
    """

    def __init__(self, resolution: Resolution, sinks: Sequence[Sink], grid: TokenGrid, dtype: str) -> None:
        self.resolution, self.sinks, self.grid = resolution, sinks, grid
        self.dtype = DTYPES[dtype]
        self.fired: Counter[tuple[str, int, str]] = Counter()
        self._steps = {step: i for i, step in enumerate(resolution.steps)}
        self._tokens = None if resolution.tokens is None else torch.as_tensor(resolution.tokens)

    def on_site(self, site: str, call: Call, tensor: Tensor) -> None:
        """A module hook fired: tensor [batch, <site axes>]."""
        if self.resolution.contains(site, call.step, call.branch):
            self._keep(site, call.step, call.branch, tensor)

    def on_step(self, step: Step) -> None:
        """A step ended: keep the sampler's own sites, as patches [batch, token, feature]."""
        for site in self.resolution.sites:
            if site.startswith("latents.") and step.index in self._steps:
                tensor = _of_step(site, step)
                if tensor is None:
                    raise InterpError(f"{site} does not exist in a run without guidance; set guidance_scale above 1")
                self._keep(site, step.index, self.resolution.branches_of(site)[0], patchify(tensor, self.grid))

    def _keep(self, site: str, step: int, branch: str, tensor: Tensor) -> None:
        if self._tokens is not None and site_named(site).axes[0] == "token":
            tensor = tensor.index_select(1, self._tokens.to(tensor.device))
        kept = tensor.to(self.dtype).cpu()
        if len(kept) != len(self.sinks):
            raise InterpError(f"{site} fired with {len(kept)} rows in a batch of {len(self.sinks)} runs")
        branch_index = self.resolution.branches_of(site).index(branch)
        for row, sink in zip(kept, self.sinks, strict=True):
            sink.write(site, self._steps[step], branch_index, row)
        self.fired[(site, step, branch)] += 1

    def receipt(self) -> Receipt:
        """What fired.

        Raises:
            InterpError: something selected never fired, or fired more than once.
        """
        wanted = {
            (site, step, branch)
            for site in self.resolution.sites
            for step in self.resolution.steps
            for branch in self.resolution.branches_of(site)
        }
        missed = sorted(wanted - set(self.fired))
        doubled = sorted(key for key, count in self.fired.items() if count > 1)
        if missed or doubled:
            what = f"{missed[0]} never fired" if missed else f"{doubled[0]} fired {self.fired[doubled[0]]} times"
            raise InterpError(
                f"{len(missed) + len(doubled)} of {len(wanted)} selected tensors were not captured exactly once: {what}"
            )
        return Receipt(dict(self.fired))


def _of_step(site: str, step: Step) -> Tensor | None:
    return {
        "latents.hook_in": step.latents,
        "latents.hook_velocity_cond": step.velocity_cond,
        "latents.hook_velocity_uncond": step.velocity_uncond,
        "latents.hook_velocity_cfg": step.velocity,
        "latents.hook_x0": step.x0_hat,
        "latents.hook_out": step.next_latents,
    }[site]


def patchify(latents: Tensor, grid: TokenGrid) -> Tensor:
    """[batch, channel, latent_frame, row, col] to [batch, token, feature], feature = (patch_t, patch_h, patch_w, channel)."""
    t, h, w = grid.patch
    batch, channels = latents.shape[:2]
    split = latents.reshape(batch, channels, grid.frames, t, grid.rows, h, grid.cols, w)
    return split.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(batch, grid.tokens, t * h * w * channels)
