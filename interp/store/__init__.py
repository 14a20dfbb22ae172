"""The HDF5 store: one self-describing shard per run, read as one table and one array per site."""

from __future__ import annotations

from interp.store.background import BackgroundWriter
from interp.store.backgroundshard import BackgroundShard
from interp.store.cells import Cell
from interp.store.consolidate import consolidate
from interp.store.export import export
from interp.store.info import StoreInfo, info
from interp.store.layout import RunLayout, SiteLayout
from interp.store.merge import merge
from interp.store.shardwriter import ShardWriter
from interp.store.store import Store
from interp.store.verify import Report, verify

__all__ = [
    "BackgroundShard",
    "BackgroundWriter",
    "Cell",
    "Report",
    "RunLayout",
    "ShardWriter",
    "SiteLayout",
    "Store",
    "StoreInfo",
    "consolidate",
    "export",
    "info",
    "merge",
    "verify",
]
