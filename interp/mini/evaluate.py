"""A quick look at a model in training: sample with the twin, score with the task. Not the figure in the card."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from diffusers import WanTransformer3DModel

from interp import tasks
from interp.errors import TaskError
from interp.mini import twin
from interp.mini.data import Encoder
from interp.mini.latents import decode_blocks
from interp.mini.recipe import HIGH, LOW, MAIN, PuzzleRecipe, Recipe
from interp.tasks.blocks import PALETTE, nearest
from interp.tasks.sample import Sample

QUICK_SEED = 7002


@dataclass(frozen=True)
class Look:
    """Means over a few problems of one kind.

    Attributes:
        solved: share of problems with the right answer.
        near: what rises before that does: share of mazes in which start and goal are joined; of the other tasks' blocks
            that ever change, the share that is right.
    """

    solved: float
    near: float

    def __str__(self) -> str:
        return f"{self.solved:.2f} ({self.near:.2f})"


def task_of(part: str) -> Any:
    """The task that a board's part names, such as "maze-6"."""
    return tasks.get("maze", size=int(part.removeprefix("maze-"))) if part.startswith("maze-") else tasks.get(part)


@lru_cache(maxsize=32)
def held_out_samples(part: str, n: int, seed: int) -> tuple[Sample, ...]:
    """``n`` different samples that no training saw."""
    task, wanted = task_of(part), 12 * n + 50
    found = [sample for sample in task.sample(wanted, seed=seed) if sample.held_out]
    if len(found) < n:
        raise TaskError(f"{wanted} samples of {part} hold {len(found)} that were kept out of training, not {n}")
    return tuple(found[:n])


@torch.no_grad()
def quick_look(
    models: dict[str, WanTransformer3DModel],
    recipe: Recipe | PuzzleRecipe,
    encoder: Encoder,
    text: twin.TextBatch,
    part: str,
    n: int = 64,
    steps: int = 8,
    **autocast: Any,
) -> Look:
    """How ``n`` fixed held-out problems come out (Euler, the recipe's shift).

    Args:
        models: by expert: "main" alone, or "high" and "low".
        recipe: for the shift and the boundary.
        encoder: on the models' device.
        text: the recipe's prompts.
        part: see `task_of`.
        n: problems.
        steps: of the sampler.
        autocast: of ``torch.autocast``, if wanted.
    """
    samples = held_out_samples(part, n, QUICK_SEED)
    pixels = np.stack([np.asarray(sample.image)[::8, ::8] for sample in samples])
    first = nearest(pixels.astype(np.float32), PALETTE)
    _, cond = encoder.encode(np.repeat(first[:, None], recipe.num_frames, axis=1))
    rows = text.rows([recipe.prompts.index(sample.prompt) for sample in samples])
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(samples), 16, *cond.shape[2:], generator=generator).to(cond.device)
    u = torch.linspace(1, 0, steps + 1).tolist()
    sigmas = [recipe.shift * v / (1 + (recipe.shift - 1) * v) for v in u]
    boundary = getattr(recipe, "boundary", 0.0)
    for now, then in pairwise(sigmas):
        model = models[MAIN] if MAIN in models else models[HIGH if now >= boundary else LOW]
        time = torch.full((len(samples),), now * 1000, device=x.device)
        with torch.autocast(x.device.type, **(autocast or {"enabled": False})):
            x = x + (then - now) * twin.forward(model, torch.cat([x, cond], 1), time, rows)
    raw = x.float() * encoder.std + encoder.mean
    blocks = np.clip((decode_blocks(raw.cpu().numpy()) + 1) / 2, 0, 1)
    scores = task_of(part).score_many(samples, blocks)
    near = [score.reached if part.startswith("maze-") else score.accuracy for score in scores]
    return Look(float(np.mean([score.solved for score in scores])), float(np.mean(near)))
