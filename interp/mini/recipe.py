"""What ``wan-maze-mini`` is trained on and how: all of it data, all of it in the model card."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Stage:
    """A run of batches whose mazes take the sizes in turn."""

    sizes: tuple[int, ...]
    batches: int


@dataclass(frozen=True)
class Recipe:
    """The whole recipe. Sample counts, not minutes, so that it means the same on every machine."""

    name: str = "wan-maze-mini"
    width: int = 128
    layers: int = 6
    head_dim: int = 32
    ffn: int = 512
    batch: int = 64
    stages: tuple[Stage, ...] = (Stage((4,), 900), Stage((6, 5, 4, 6), 1300))
    decay_from: float = 0.55  # share of batches after which the learning rate falls linearly
    floor: float = 0.03  # last learning rate as a share of the first
    warmup: int = 60  # batches
    muon_lr: float = 0.006
    adam_lr: float = 0.002
    ema: float = 0.998
    shift: float = 5.0  # sigma = shift u / (1 + (shift - 1) u), u stratified uniform
    openings: tuple[float, float] = (0.0, 0.3)  # drawn uniformly per maze
    trail_share: float = 0.65  # prompts that ask for a trail
    plain_share: float = 0.25  # prompts that ask for none; the rest is the empty prompt (dropout)
    num_frames: int = 17
    seed: int = 10
    dtype: str = field(default="auto")  # "bfloat16" where the CPU multiplies it natively, else "float32"

    @property
    def batches(self) -> int:
        """Batches of all stages."""
        return sum(stage.batches for stage in self.stages)

    def size_at(self, batch: int) -> int:
        """Cells per side of the mazes in one batch."""
        for stage in self.stages:
            if batch < stage.batches:
                return stage.sizes[batch % len(stage.sizes)]
            batch -= stage.batches
        raise IndexError(f"the recipe has {self.batches} batches")

    def rate(self, batch: int) -> float:
        """Learning-rate factor: linear warm-up, flat, linear decay to the floor."""
        done = batch / self.batches
        decay = 1.0 if done < self.decay_from else max(self.floor, (1 - done) / (1 - self.decay_from))
        return min(1.0, (batch + 1) / self.warmup) * decay

    def as_dict(self) -> dict[str, object]:
        """For the model card and the checkpoint."""
        return dataclasses.asdict(self)
