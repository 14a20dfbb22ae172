"""Every address of a run, from the transformer's configuration and the run's schedule."""

from __future__ import annotations

from typing import Any

from interp.grid import TokenGrid
from interp.selection import AddressSpace
from interp.sites import concrete_sites, site_named, site_shape


def space_of(
    config: Any,
    grid: TokenGrid,
    *,
    sigmas: tuple[float, ...],
    experts: tuple[str, ...],
    branches: tuple[str, ...],
    text_tokens: int,
) -> AddressSpace:
    """What selections are resolved against.

    Args:
        config: of a ``WanTransformer3DModel``.
        grid: the video's tokens.
        sigmas: [step + 1].
        experts: which transformer runs each step.
        branches: passes of one step.
        text_tokens: tokens of the prompt after padding.
    """
    sites = concrete_sites(config.num_layers)
    shapes = {
        name: site_shape(
            site_named(name),
            tokens=grid.tokens,
            d_model=config.num_attention_heads * config.attention_head_dim,
            heads=config.num_attention_heads,
            d_head=config.attention_head_dim,
            ffn=config.ffn_dim,
            text_tokens=text_tokens,
            latent_channels=config.out_channels,
            patch=tuple(config.patch_size),
            grid=grid,
        )
        for name in sites
    }
    return AddressSpace(
        sites=sites,
        steps=len(experts),
        sigmas=sigmas,
        experts=experts,
        branches=branches,
        grid=grid,
        widths=shapes,
    )
