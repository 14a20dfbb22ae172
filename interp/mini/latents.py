"""Closed-form Wan latents of block videos.

A video of flat 8-pixel blocks is known from one value per block, colour and frame. Latent frame 0 holds pixel frame 0,
latent frame k the four pixel frames 4k-3 .. 4k; the 16 latent channels are an orthonormal mix of (4 frames x RGB).
`interp.mini.vae` sets the weights of a stock ``AutoencoderKLWan`` to compute exactly this, so training needs no VAE
forward and the VAE is no source of error.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

Z_DIM = 16
SLOTS = 4  # pixel frames in one latent frame; slot 3 is the newest

Blocks = Float[np.ndarray, "batch frame block_row block_col 3"]
Raw = Float[np.ndarray, "batch 16 latent_frame block_row block_col"]
Scaled = Float[torch.Tensor, "batch 16 latent_frame block_row block_col"]
PerChannel = Float[np.ndarray, "16"]


def mixing() -> Float[np.ndarray, "16 12"]:
    """Orthonormal columns [latent channel, slot x rgb], fixed for all models."""
    rng = np.random.RandomState(0)
    return np.linalg.qr(rng.randn(Z_DIM, SLOTS * 3))[0].astype(np.float32)


_MIX = mixing()


def encode_blocks(rgb: Blocks) -> Raw:
    """Block colours in [-1, 1] to raw latents.

    From [batch, frame, block_row, block_col, rgb] to [batch, z, latent_frame, row, col]. There are 4k + 1 frames.
    """
    batch, frames, rows, cols, _ = rgb.shape
    latent_frames = (frames - 1) // SLOTS + 1
    slots = np.zeros((batch, SLOTS, 3, latent_frames, rows, cols), dtype=np.float32)
    moved = np.moveaxis(rgb, -1, 1)
    slots[:, 3, :, 0] = moved[:, :, 0]
    later = moved[:, :, 1:].reshape(batch, 3, latent_frames - 1, SLOTS, rows, cols)
    slots[:, :, :, 1:] = later.transpose(0, 3, 1, 2, 4, 5)
    flat = slots.reshape(batch, SLOTS * 3, -1)
    return np.matmul(_MIX, flat).reshape(batch, Z_DIM, latent_frames, rows, cols)


def decode_blocks(latents: Raw) -> Blocks:
    """Raw latents to block colours: the inverse of `encode_blocks`."""
    batch, _, latent_frames, rows, cols = latents.shape
    flat = np.matmul(_MIX.T, latents.reshape(batch, Z_DIM, -1))
    slots = flat.reshape(batch, SLOTS, 3, latent_frames, rows, cols)
    first = slots[:, 3, :, :1]
    later = slots[:, :, :, 1:].transpose(0, 2, 3, 1, 4, 5).reshape(batch, 3, -1, rows, cols)
    return np.moveaxis(np.concatenate([first, later], axis=2), 1, -1)


def condition(
    rgb: Blocks, mean: PerChannel, std: PerChannel
) -> Float[torch.Tensor, "batch 20 latent_frame block_row block_col"]:
    """What the image-to-video pipeline builds from a first frame: [batch, 4 + z, latent_frame, row, col].

    The mask is 1 on latent frame 0; the latents are those of (first frame, mid-grey ...), normalised.
    """
    still = np.zeros_like(rgb)
    still[:, :1] = rgb[:, :1]
    latents = normalise(encode_blocks(still), mean, std)
    mask = torch.zeros(latents.shape[0], SLOTS, *latents.shape[2:])
    mask[:, :, 0] = 1
    return torch.cat([mask, latents], dim=1)


def normalise(latents: Raw, mean: PerChannel, std: PerChannel) -> Scaled:
    """Raw latents to the model's scale, channel by channel."""
    shape = (1, -1, 1, 1, 1)
    return torch.from_numpy((latents - mean.reshape(shape)) / std.reshape(shape)).float()


def denormalise(latents: Scaled, mean: PerChannel, std: PerChannel) -> Raw:
    """The inverse of `normalise`."""
    shape = (1, -1, 1, 1, 1)
    return latents.float().numpy() * std.reshape(shape) + mean.reshape(shape)
