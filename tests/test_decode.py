"""Frames to latents and back."""

from __future__ import annotations

import numpy as np
import torch

import interp
from interp.decode import decode, frames_of, latents_of
from tests.pipelines import tiny_i2v


def test_the_bundled_vae_gives_back_what_a_task_draws() -> None:
    lab, task = interp.load("wan-maze-mini"), interp.tasks.get("maze", size=4)
    videos = np.stack([task.render(sample) for sample in task.sample(2)])
    latents = latents_of(lab.pipe, videos)
    assert latents.shape == (2, 16, 5, 8, 8)
    assert np.abs(frames_of(lab.pipe, latents).astype(int) - videos).max() <= 1


def test_it_is_the_stock_encoding_scaled() -> None:
    pipe = tiny_i2v()
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (1, 9, 32, 32, 3), dtype=np.uint8)
    x = torch.from_numpy(video).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    with torch.no_grad():
        stock = pipe.vae.encode(x).latent_dist.mode()
        again = pipe.vae.decode(stock, return_dict=False)[0]
    torch.testing.assert_close(decode(pipe, latents_of(pipe, video)), again, atol=1e-4, rtol=1e-4)
