"""Put instrumented blocks and attentions in place for the length of a ``with`` block, on the layers that ask."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from interp.errors import SelectionError
from interp.hooks import check_hookable, replaced
from interp.instrument.attention import NamedProcessor
from interp.instrument.block import innermost, named_forward
from interp.instrument.known import same_attention, same_block, source_is_known
from interp.instrument.points import Nobody, Points
from interp.sampler import transformer_of
from interp.sites import layer_of, site_named

_PROCESSOR_OPS = ("rot_q", "rot_k", "attn_scores", "pattern", "z_img", "result")
_BLOCK_OPS = ("attn_update", "resid_mid", "resid_mid_cross", "mlp_update")


@contextlib.contextmanager
def instrumented(pipe: Any, sites: Sequence[str], points: Points) -> Iterator[None]:
    """Give ``points`` the named tensors of these sites inside the block; both experts are instrumented.

    Args:
        pipe: a supported pipeline.
        sites: concrete names; those that plain hooks can write are left to `interp.hooks.tapped`.
        points: sees and changes the tensors.

    Raises:
        SelectionError: a site that cannot be written so far.
        InterpError: the model's source is not known and does not give the same bits.
    """
    with contextlib.ExitStack() as stack:
        for expert in ("main", "low"):
            model = transformer_of(pipe, expert)
            wanted = needed(sites)
            if model is None or not wanted:
                continue
            check_hookable(model)
            for layer, part in wanted:
                block = model.get_submodule(f"blocks.{layer}")
                place = _place_block if part == "block" else _place_processor
                stack.enter_context(place(block, layer, part, points))
        yield


def needed(sites: Sequence[str]) -> list[tuple[int, str]]:
    """What has to be instrumented: (layer, "block" | "attn" | "cross_attn").

    Raises:
        SelectionError: a site that cannot be written so far.
    """
    found: dict[tuple[int, str], None] = {}
    for name in sites:
        site, inside = site_named(name), part_of(name)
        if inside is not None:
            found[inside] = None
        elif site.write in ("block", "processor"):
            raise SelectionError(
                f"{name} cannot be written; write the sites it is made of: {', '.join(site.sources_at(name))}"
            )
    return list(found)


def part_of(name: str) -> tuple[int, str] | None:
    """What has to be instrumented to write a site, as `needed` says it; None where that does not help, or need not."""
    site, op, layer = site_named(name), name.rsplit(".hook_", 1)[-1], layer_of(name)
    if layer is not None and site.write == "block" and op in _BLOCK_OPS:
        return layer, "block"
    if layer is not None and site.write == "processor" and op in _PROCESSOR_OPS:
        return layer, name.split(".")[2]
    return None


@contextlib.contextmanager
def _place_processor(block: Any, layer: int, part: str, points: Points) -> Iterator[None]:
    attn = block.attn1 if part == "attn" else block.attn2
    original = attn.processor
    if not source_is_known("processor", type(original).__call__):
        same_attention(attn, NamedProcessor(original, "", Nobody()))
    attn.processor = NamedProcessor(original, f"blocks.{layer}.{part}", points)
    try:
        yield
    finally:
        attn.processor = original


@contextlib.contextmanager
def _place_block(block: Any, layer: int, part: str, points: Points) -> Iterator[None]:
    if not source_is_known("block", type(block).forward):
        same_block(block, named_forward(block, "", Nobody()))
    owner, name = innermost(block)
    with replaced(owner, name, named_forward(block, f"blocks.{layer}", points)):
        yield
