"""A quick look at a model in training: sample with the twin, score with the task. Not the figure in the card."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from interp.mini import twin
from interp.mini.data import Statistics, as_rgb
from interp.mini.latents import condition, decode_blocks, denormalise
from interp.tasks.maze.maze import draw_maze
from interp.tasks.maze.render import render_symbols
from interp.tasks.maze.score import score_symbols, symbols_from_blocks

QUICK_STREAM = 7002


@torch.no_grad()
def quick_solve_rate(
    model: WanTransformer3DModel, statistics: Statistics, prompt: Tensor, size: int, n: int = 64, steps: int = 8
) -> float:
    """Share of ``n`` fixed mazes whose last frame shows one exact open path from start to goal (Euler, shift 5)."""
    mazes = [draw_maze(np.random.default_rng((QUICK_STREAM, size, k)), size) for k in range(n)]
    rgb = as_rgb(np.stack([render_symbols(m, (m.start,)) for m in mazes]))
    cond = condition(rgb, statistics.mean, statistics.std)
    text = twin.pack_text([prompt], [0] * n)
    x = torch.randn(n, 16, *cond.shape[2:], generator=torch.Generator().manual_seed(0))
    u = torch.linspace(1, 0, steps + 1)
    sigmas = 5 * u / (1 + 4 * u)
    for now, then in pairwise(sigmas):
        x = x + (then - now) * twin.forward(model, torch.cat([x, cond], 1), (now * 1000).expand(n), text)
    blocks = decode_blocks(denormalise(x, statistics.mean, statistics.std))
    symbols = symbols_from_blocks((blocks + 1) * 127.5)
    return float(np.mean([score_symbols(m, s).valid for m, s in zip(mazes, symbols, strict=True)]))
