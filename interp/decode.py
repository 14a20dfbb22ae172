"""Latents to frames: the pipeline's VAE, or closed form where the bundled VAE is known to equal it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def frames_of(pipe: Any, latents: Tensor, *, use_vae: bool = False, blocks: bool = False) -> np.ndarray:
    """Frames of a batch of latents.

    Args:
        pipe: the pipeline whose VAE made the latents.
        latents: [batch, channel, latent_frame, row, col], at the model's scale.
        use_vae: run the VAE even where closed form gives the same frames to about 1e-4.
        blocks: where closed form will do, one pixel for each flat block of pixels, which is all that there is to see
            in them; tasks of blocks score such frames as they score whole ones, and much faster.

    Returns:
        uint8 [batch, frame, row, col, rgb].
    """
    from interp.mini.vae import is_block_exact
    from interp.tasks.blocks import to_pixels

    if use_vae or not is_block_exact(pipe.vae):
        video = decode(pipe, latents).float().clamp(-1, 1)
        return _to_uint8(video.permute(0, 2, 3, 4, 1).cpu().numpy())
    found = _closed_form(pipe, latents)
    return found if blocks else to_pixels(found)


@torch.no_grad()
def decode(pipe: Any, latents: Tensor) -> Tensor:
    """Decode with the pipeline's VAE.

    From [batch, channel, latent_frame, row, col] to [batch, rgb, frame, row, col] in -1..1.
    """
    vae = pipe.vae
    z = latents.to(device=vae.device, dtype=vae.dtype)
    shape = (1, vae.config.z_dim, 1, 1, 1)
    mean = torch.tensor(vae.config.latents_mean).view(shape).to(z.device, z.dtype)
    std = 1.0 / torch.tensor(vae.config.latents_std).view(shape).to(z.device, z.dtype)
    return vae.decode(z / std + mean, return_dict=False)[0]


@torch.no_grad()
def latents_of(pipe: Any, videos: np.ndarray) -> Tensor:
    """Latents of videos, at the model's scale: what `frames_of` undoes, as far as the VAE can.

    Args:
        pipe: the pipeline whose VAE is meant.
        videos: uint8 [batch, frame, row, col, rgb].

    Returns:
        The mode of the posterior: float32 [batch, channel, latent_frame, row, col].
    """
    vae = pipe.vae
    x = torch.from_numpy(videos).to(vae.device).to(vae.dtype).permute(0, 4, 1, 2, 3) / 127.5 - 1
    shape = (1, vae.config.z_dim, 1, 1, 1)
    mean, std = (torch.tensor(getattr(vae.config, f"latents_{s}")).view(shape).to(x) for s in ("mean", "std"))
    return ((vae.encode(x).latent_dist.mode() - mean) / std).float().cpu()


def _closed_form(pipe: Any, latents: Tensor) -> np.ndarray:
    """One pixel a block: uint8 [batch, frame, block_row, block_col, rgb]."""
    from interp.mini.latents import decode_blocks, denormalise

    mean, std = (np.asarray(getattr(pipe.vae.config, f"latents_{s}"), dtype=np.float32) for s in ("mean", "std"))
    return _to_uint8(decode_blocks(denormalise(latents.detach().to("cpu", torch.float32), mean, std)))


def _to_uint8(video: np.ndarray) -> np.ndarray:
    return np.rint((np.clip(video, -1, 1) + 1) * 127.5).astype(np.uint8)
