"""Is the model's source the one that the instrumented code was written against? If not, does it give the same bits?"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from interp.errors import InterpError
from interp.instrument.attention import NamedProcessor

KNOWN = {"block": "21c15441b009", "processor": "13c09feedcfe"}  # sources of diffusers 0.42.1


@functools.cache
def source_is_known(what: str, function: Any) -> bool:
    """Whether a function's source is the one this package was written against: ``what`` is "block" or "processor"."""
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        return False
    return hashlib.sha256(source.encode()).hexdigest()[:12] == KNOWN[what]


@torch.no_grad()
def same_attention(attn: Any, ours: NamedProcessor) -> None:
    weight = attn.to_q.weight
    _refuse_meta(weight)
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw).to(weight)

    x, width = random(1, 4, weight.shape[1]), weight.shape[0] // attn.heads
    rotary = (random(1, 4, 1, width).float(), random(1, 4, 1, width).float())
    arguments: tuple[Any, ...] = (x, None, None, rotary)
    if attn.is_cross_attention:
        arguments = (x, random(1, 512 + 5 * (attn.add_k_proj is not None), attn.to_k.weight.shape[1]), None, None)
    if not torch.equal(attn.processor(attn, *arguments), ours(attn, *arguments)):
        raise InterpError(_stranger(type(attn.processor), "q_rot, k_rot, scores and pattern"))


@torch.no_grad()
def same_block(block: Any, ours: Callable[..., Tensor]) -> None:
    table, dtype = block.scale_shift_table, block.ffn.net[2].weight.dtype
    _refuse_meta(table)
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw).to(table.device, dtype)

    width = table.shape[-1]
    head = width // block.attn1.heads
    rotary = (random(1, 4, 1, head).float(), random(1, 4, 1, head).float())
    context = random(1, 512 + 5 * (block.attn2.add_k_proj is not None), width)
    arguments = (random(1, 4, width), context, random(1, 6, width), rotary)
    if not torch.equal(block(*arguments), ours(*arguments)):
        raise InterpError(_stranger(type(block), "resid_mid, resid_mid_cross and the gated updates"))


def _refuse_meta(weight: Tensor) -> None:
    if weight.is_meta:
        raise InterpError(
            "the model's source is not the one this version knows, and its weights are offloaded, so the two cannot "
            "be compared; load the model without sequential offloading, or install diffusers 0.42.1"
        )


def _stranger(kind: type, sites: str) -> str:
    return (
        f"{kind.__module__}.{kind.__qualname__} does not compute what diffusers 0.42.1 does, so {sites} cannot be "
        "written in this model; sites that plain hooks write still can"
    )
