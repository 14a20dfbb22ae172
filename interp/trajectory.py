"""What one run went through: latents, velocity and x0_hat of every step, with the solver's state to restart from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """The steps of a run.

    Attributes:
        sigmas: noise level before each step and, last, after the final one: [step + 1].
        timesteps: what the transformer is told, in diffusers' units (about 1000 sigma): [step].
        experts: which transformer runs each step: "high", "low", or "main" when there is one.
    """

    sigmas: tuple[float, ...]
    timesteps: tuple[float, ...]
    experts: tuple[str, ...]

    @property
    def steps(self) -> int:
        """Number of denoising steps."""
        return len(self.timesteps)


@dataclass(frozen=True)
class Trajectory:
    """One run, step by step. All tensors are on the CPU.

    Attributes:
        schedule: sigmas, timesteps and experts.
        latents: x_t before each step and the result: [step + 1, channel, latent_frame, row, col].
        velocity: the guided velocity of each step: [step, channel, latent_frame, row, col].
        x0_hat: the clean estimate x_t - sigma * velocity of each step: [step, channel, latent_frame, row, col].
    """

    schedule: Schedule
    latents: Tensor
    velocity: Tensor
    x0_hat: Tensor

    @property
    def result(self) -> Tensor:
        """Latents of the finished video: [channel, latent_frame, row, col]."""
        return self.latents[-1]


@dataclass
class SolverState:
    """Enough to go on from the start of ``step``, bit for bit: the batch's latents and a copy of the scheduler."""

    step: int
    latents: Tensor
    scheduler: Any = field(repr=False)
