"""Runs without edits, kept in a store that all studies share: latents, velocity and x0_hat of every step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from interp.patches import unpatchify

if TYPE_CHECKING:
    from interp import Lab, RunSpec, Store

X0_SITE = "latents.hook_x0"
CLEAN_SITES = ("latents.hook_in", "latents.hook_velocity_cfg", X0_SITE, "latents.hook_out")
DECODED_AT_ONCE = 16


@dataclass(frozen=True)
class CleanRuns:
    """Finished runs of one kind.

    Attributes:
        lab: the model.
        task: scores videos.
        store: holds the runs.
        specs: [run], in the order asked for.
    """

    lab: Lab
    task: Any
    store: Store
    specs: tuple[RunSpec, ...]

    @cached_property
    def sigmas(self) -> list[float]:
        """Noise level of every step."""
        return [float(s) for s in self.store.schedule([self.specs[0].key])["sigma"]]

    @property
    def steps(self) -> int:
        """Denoising steps."""
        return len(self.sigmas)

    def tokens(self, site: str, step: int, runs: Sequence[int] | None = None) -> np.ndarray:
        """A latent of one step as tokens: float32 [run, token, feature]."""
        keys = [self.specs[i].key for i in (range(len(self.specs)) if runs is None else runs)]
        return np.asarray(self.store.read(site, step=step, runs=keys))

    def latents(self, site: str, step: int, runs: Sequence[int] | None = None) -> Tensor:
        """The same as latents: [run, channel, latent_frame, row, col]."""
        grid = self.lab.grid(self.specs[0].sample)
        return unpatchify(torch.from_numpy(self.tokens(site, step, runs)), grid)

    def videos(self, step: int, site: str = X0_SITE) -> Iterator[np.ndarray]:
        """x0_hat of one step, decoded, run by run: uint8 [frame, row, col, rgb]. At the last step, the result."""
        for first in range(0, len(self.specs), DECODED_AT_ONCE):
            runs = range(first, min(first + DECODED_AT_ONCE, len(self.specs)))
            yield from self.lab.frames(self.latents(site, step, runs))

    def scores(self, step: int) -> list[Any]:
        """The task's score of x0_hat at one step, run by run."""
        return [self.task.score(s.sample, video) for s, video in zip(self.specs, self.videos(step), strict=True)]
