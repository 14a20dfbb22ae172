"""Shapes of hook points from the sizes of a model and a video: budgets and file layouts before anything has run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from interp.address.site import Site
from interp.errors import InterpError
from interp.grid import TokenGrid

TEXT_TOKENS = 512  # diffusers' Wan cuts the context at "the last 512 are text"


def site_shape(
    site: Site,
    *,
    tokens: int,
    d_model: int,
    heads: int,
    d_head: int,
    ffn: int,
    text_tokens: int = TEXT_TOKENS,
    image_tokens: int = 0,
    latent_channels: int = 16,
    in_channels: int | None = None,
    patch: tuple[int, int, int] = (1, 2, 2),
    grid: TokenGrid | None = None,
    text_dim: int = 4096,
    image_dim: int | None = None,
    freq_dim: int = 256,
    per_token_time: bool = False,
) -> tuple[int, ...]:
    """Shape of a site without the batch.

    Args:
        site: the hook point.
        tokens: tokens of the video.
        d_model, heads, d_head, ffn: widths of the transformer.
        text_tokens: text tokens after padding.
        image_tokens: tokens of the image encoder, 0 without one.
        latent_channels: channels of the VAE's latents, and of the velocity.
        in_channels: channels the transformer is given, 36 for Wan2.2-I2V; ``latent_channels`` if None.
        patch: latent frames, rows and columns in a token.
        grid: the token grid; only whole videos ("hook_latent_in", "hook_velocity") need it.
        text_dim, image_dim, freq_dim: widths of the text states, image states and timestep sinusoids.
        per_token_time: every token has its own timestep (TI2V).

    Raises:
        InterpError: a size that this site needs was not given.
    """
    channels = latent_channels
    if site.name == "hook_latent_in":
        channels = latent_channels if in_channels is None else in_channels
    frames, rows, cols = (None, None, None) if grid is None else grid.latent_shape
    sizes: dict[str, int | None] = {
        "token": tokens,
        "key_token": tokens,
        "text_token": text_tokens,
        "image_token": image_tokens or None,
        "context_token": text_tokens + image_tokens,
        "d_model": d_model,
        "head": heads,
        "d_head": d_head,
        "d_mlp": ffn,
        "d_text": text_dim,
        "d_image": image_dim,
        "d_freq": freq_dim,
        "modulation": 6,
        "feature": math.prod(patch) * latent_channels,
        "channel": channels,
        "latent_frame": frames,
        "latent_row": rows,
        "latent_col": cols,
    }
    shape = []
    for axis in axes_of(site, per_token_time=per_token_time):
        size = sizes[axis]
        if size is None:
            raise InterpError(f"the shape of {site.name} needs the size of its axis {axis!r}, which was not given")
        shape.append(size)
    return tuple(shape)


def axes_of(site: Site, *, per_token_time: bool = False) -> tuple[str, ...]:
    """Axes of a site without the batch; see `Site.per_token_time`."""
    return ("token", *site.axes) if per_token_time and site.per_token_time else site.axes


def sizes_of(
    config: Mapping[str, Any] | Any,
    grid: TokenGrid,
    *,
    text_tokens: int = TEXT_TOKENS,
    image_tokens: int = 257,
    per_token_time: bool = False,
) -> dict[str, Any]:
    """Keyword arguments of `site_shape` from a transformer's config (``model.config``, or a dict of it).

    Args:
        config: of a ``WanTransformer3DModel``.
        grid: the token grid of the video.
        text_tokens: text tokens after padding.
        image_tokens: tokens of the image encoder, ignored for models without one; 514 for first-last-frame.
        per_token_time: every token has its own timestep (TI2V).
    """
    get = partial(setting, config)
    heads, d_head = get("num_attention_heads"), get("attention_head_dim")
    return {
        "tokens": grid.tokens,
        "d_model": heads * d_head,
        "heads": heads,
        "d_head": d_head,
        "ffn": get("ffn_dim"),
        "text_tokens": text_tokens,
        "image_tokens": image_tokens if get("image_dim") else 0,
        "latent_channels": get("out_channels") or get("in_channels"),
        "in_channels": get("in_channels"),
        "patch": tuple(get("patch_size")),
        "grid": grid,
        "text_dim": get("text_dim"),
        "image_dim": get("image_dim"),
        "freq_dim": get("freq_dim"),
        "per_token_time": per_token_time,
    }


def setting(config: Mapping[str, Any] | Any, name: str) -> Any:
    """An entry of a transformer's config; None if it has none."""
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
