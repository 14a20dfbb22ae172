"""Hook points: every named tensor of the Wan transformer and its sampler. One place to import them from."""

from __future__ import annotations

from interp.address.names import (
    DEFAULT_FAMILIES,
    FAMILIES,
    canonical_name,
    concrete_sites,
    get_act_name,
    site_named,
)
from interp.address.shapes import TEXT_TOKENS, axes_of, site_shape, sizes_of
from interp.address.site import GUIDED, Site, layer_of
from interp.address.table import SITES

__all__ = [
    "DEFAULT_FAMILIES",
    "FAMILIES",
    "GUIDED",
    "SITES",
    "TEXT_TOKENS",
    "Site",
    "axes_of",
    "canonical_name",
    "concrete_sites",
    "get_act_name",
    "layer_of",
    "site_named",
    "site_shape",
    "sizes_of",
]
