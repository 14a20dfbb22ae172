"""Latents as tokens and back: patches in row-major order, their features laid out as the transformer's head does."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from einops import rearrange
from torch import Tensor

from interp.grid import TokenGrid

AnyArray = TypeVar("AnyArray", Tensor, np.ndarray)
_LATENTS = "batch channel (frame t) (row h) (col w)"
_TOKENS = "batch (frame row col) (t h w channel)"


def patchify(latents: Tensor, grid: TokenGrid) -> Tensor:
    """Latents [batch, channel, latent_frame, row, col] as tokens [batch, token, feature].

    The feature axis is laid out (patch_t, patch_h, patch_w, channel).
    """
    t, h, w = grid.patch
    sizes = {"frame": grid.frames, "row": grid.rows, "col": grid.cols}
    return rearrange(latents, f"{_LATENTS} -> {_TOKENS}", t=t, h=h, w=w, **sizes)


def unpatchify(tokens: AnyArray, grid: TokenGrid) -> AnyArray:
    """Tokens [..., token, feature] as latents [..., channel, latent_frame, row, col], of PyTorch or NumPy.

    The tokens are those of whole latent frames, all of them or some.
    """
    t, h, w = grid.patch
    flat = tokens.reshape(-1, *tokens.shape[-2:])
    latents = rearrange(flat, f"{_TOKENS} -> {_LATENTS}", t=t, h=h, w=w, row=grid.rows, col=grid.cols)
    return latents.reshape(*tokens.shape[:-2], *latents.shape[1:])
