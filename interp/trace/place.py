"""Addresses in the order in which a run comes past them."""

from __future__ import annotations

from collections.abc import Iterable

from interp.selection import AddressSpace
from interp.sites import layer_of, site_named

IMAGE = ("v_img", "k_img", "z_img")
Address = tuple[str, int, str]  # site, step, branch


def text_of(address: Address) -> str:
    """As a selection prints it: "blocks.3.hook_resid_post[step=2, branch=cond]"."""
    site, step, branch = address
    return site + place_text(step, branch)


def place_text(step: int, branch: str) -> str:
    """One forward: "[step=2, branch=cond]"."""
    return f"[step={step}, branch={branch}]"


def in_order(addresses: Iterable[Address], space: AddressSpace) -> list[Address]:
    """Addresses as they will fire: by step, then by pass, then by the order of hooks within a forward."""
    table = {site: place for place, site in enumerate(space.sites)}
    passes = {branch: 1 + i for i, branch in enumerate(space.branches)}

    def place(address: Address) -> tuple[int | float, ...]:
        name, step, branch = address
        site = site_named(name)
        if site.tier == "sampler":
            number = 0 if name == "latents.hook_in" else passes.get(branch, 1 + len(passes))
            return (step, number, float("inf"), 0, table[name])
        layer = 0 if name == "hook_context" else layer_of(name)  # the context is read off the first block's arguments
        if name.startswith("vace_blocks."):  # all of them before the model's own
            return (step, passes[branch], -0.5, layer or 0, 0 if _at_entry(name) else 1, _late(name, table))
        if layer is None:  # before or after all blocks; the head's modulation comes with the time embedding
            before = site.family != "head" or site.module == "condition_embedder"
            return (step, passes[branch], -1 if before else space.layer_counts["blocks"], 0, _late(name, table))
        return (step, passes[branch], layer, 0 if _at_entry(name) else 1, _late(name, table))

    return sorted(addresses, key=place)


def _at_entry(name: str) -> bool:
    """Whether it is read off a block's arguments, wherever in the block it is used."""
    site = site_named(name)
    return site.module in ("blocks.{layer}", "blocks.0", "vace_blocks.{layer}") and site.port == "input"


def _late(name: str, table: dict[str, int]) -> float:
    """The place in the table, but for what attention computes earlier: values, and the image's part."""
    stem, _, op = name.rpartition(".hook_")
    if stem == "vace_embed":
        return table["patch_embed.hook_out"] + 0.5
    if op == "v":
        return table[f"{stem}.hook_k_pre"] + 0.5
    if op in IMAGE:
        return table[f"{stem}.hook_attn_scores"] - 0.9 + 0.1 * IMAGE.index(op)
    return table[name]
