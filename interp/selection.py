"""Selections of addresses: one type for capture, edits, probes and plots. One place to import them from."""

from __future__ import annotations

from interp.address.region import PixelBox, PixelMask
from interp.address.resolution import Part, Resolution
from interp.address.select import Selection, select
from interp.address.space import AddressSpace
from interp.address.term import SigmaRange

__all__ = ["AddressSpace", "Part", "PixelBox", "PixelMask", "Resolution", "Selection", "SigmaRange", "select"]
