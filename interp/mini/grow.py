"""A deeper model from a bundled one: its blocks, and new ones between them that change nothing until they are trained.

A block whose three output projections are zero adds nothing to the residual stream, so that the deeper model computes
what the shallow one does (Net2Net's identity layers, Chen et al. 2016, arXiv 1511.05641).
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from interp.errors import ModelError
from interp.mini.data import Statistics
from interp.model import bundled_folder


def places(old: int, new: int) -> list[int]:
    """Where the old blocks come among the new number: spread evenly, the first and the last stay at the ends."""
    return [round(k * (new - 1) / (old - 1)) for k in range(old)]


def grow(model: WanTransformer3DModel, name: str) -> None:
    """Give ``model`` the weights of a bundled model of the same width and at most as many blocks, in place.

    Raises:
        ModelError: the shapes differ in more than the number of blocks.
    """
    source = WanTransformer3DModel.from_pretrained(bundled_folder(name) / "transformer")
    where = places(len(source.blocks), len(model.blocks))
    if len(set(where)) < len(where):
        raise ModelError(f"{name} has {len(where)} blocks, more than the {len(model.blocks)} asked for")
    state = {key: value for key, value in source.state_dict().items() if not key.startswith("blocks.")}
    for old, new in enumerate(where):
        for key, value in source.blocks[old].state_dict().items():
            state[f"blocks.{new}.{key}"] = value
    try:
        model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ModelError(f"{name} cannot be grown into this recipe, which has another width: {error}") from error
    with torch.no_grad():
        for number, block in enumerate(model.blocks):
            if number not in where:
                for projection in (block.attn1.to_out[0], block.attn2.to_out[0], block.ffn.net[2]):
                    projection.weight.zero_()
                    projection.bias.zero_()


def statistics_of(name: str) -> Statistics:
    """The statistics of latents that a bundled model was trained with, from its VAE's configuration."""
    config = AutoencoderKLWan.load_config(bundled_folder(name) / "vae")
    mean, std = (np.asarray(config[key], dtype=np.float32) for key in ("latents_mean", "latents_std"))
    return Statistics(mean, std)
