"""Lossy storage in one byte a number: each channel (the last axis) of each cell has its own scale.

A number x of channel c becomes ``round(x / scale[c])`` with ``scale[c] = max |x[..., c]| / 127``, so that none is off
by more than half its channel's scale (symmetric quantisation; Jacob et al. 2018, arXiv:1712.05877). Scales and the
error that was made are sites of their own beside the numbers, and go the way of all sites.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.errors import StoreError

if TYPE_CHECKING:
    from torch import Tensor

    from interp.store.layout import SiteLayout

SCALE, ERROR = ".int8_scale", ".int8_error"
LARGEST = 127


def beside(site: SiteLayout) -> tuple[SiteLayout, SiteLayout]:
    """The sites that go with a coded one: scales [step, branch, channel]; error [step, branch], |x - x'| / |x|."""
    bare = replace(site, dtype="float32", tokens=None, codec=None)
    axes, shape = site.axes[:2], site.shape[:2]
    return (
        replace(bare, site=site.site + SCALE, axes=(*axes, "channel"), shape=(*shape, site.shape[-1])),
        replace(bare, site=site.site + ERROR, axes=axes, shape=shape),
    )


def is_beside(name: str, sites: Mapping[str, Any]) -> bool:
    """Does a site of that name hold scales or errors of another among ``sites``?"""
    return any(name.endswith(end) and name.removesuffix(end) in sites for end in (SCALE, ERROR))


def coded(site: str, tensor: Tensor) -> dict[str, Tensor]:
    """A cell [<site axes>] as the cells of its sites, on its device.

    Raises:
        StoreError: it holds numbers that are not finite.
    """
    import torch

    values = tensor.detach().float()
    scale = values.reshape(-1, values.shape[-1]).abs().amax(0) / LARGEST
    if not bool(torch.isfinite(scale).all()):
        raise StoreError(f"site {site} holds numbers that are not finite, which codec 'int8' cannot keep")
    codes = torch.round(values / torch.where(scale == 0, 1, scale))
    size = torch.linalg.vector_norm(values)
    error = torch.linalg.vector_norm(values - codes * scale) / torch.where(size == 0, 1, size)
    return {site: codes.to(torch.int8), site + SCALE: scale, site + ERROR: error}


def restored(codes: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Values float32 [..., <site axes>] from codes int8 of that shape and scales float32 [..., channel]."""
    lead, between = scale.shape[:-1], (1,) * (codes.ndim - scale.ndim)
    return codes * scale.reshape(*lead, *between, scale.shape[-1])
