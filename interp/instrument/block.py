"""A block's forward with named points, in the order of ``WanTransformerBlock`` of diffusers 0.42.1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from interp.instrument.points import Points


def named_forward(block: Any, prefix: str, points: Points) -> Callable[..., Tensor]:
    """``WanTransformerBlock.forward`` with named points.

    Args:
        block: the block.
        prefix: "blocks.3".
        points: sees and changes the tensors.
    """

    def forward(hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, rotary_emb: Any) -> Tensor:
        x, per_token = hidden_states, temb.ndim == 4
        table = block.scale_shift_table.unsqueeze(0) if per_token else block.scale_shift_table
        modulation = (table + temb.float()).chunk(6, dim=2 if per_token else 1)
        if per_token:
            modulation = tuple(row.squeeze(2) for row in modulation)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation
        normed = (block.norm1(x.float()) * (1 + scale) + shift).type_as(x)
        update = points.emit(f"{prefix}.hook_attn_update", block.attn1(normed, None, None, rotary_emb) * gate)
        x = points.emit(f"{prefix}.hook_resid_mid", (x.float() + update).type_as(x))
        normed = block.norm2(x.float()).type_as(x)
        x = x + block.attn2(normed, encoder_hidden_states, None, None)
        x = points.emit(f"{prefix}.hook_resid_mid_cross", x)
        normed = (block.norm3(x.float()) * (1 + mlp_scale) + mlp_shift).type_as(x)
        update = points.emit(f"{prefix}.hook_mlp_update", block.ffn(normed).float() * mlp_gate)
        return (x.float() + update).type_as(x)

    return forward


def innermost(block: nn.Module) -> tuple[Any, str]:
    """Where the forward is that does the work, beneath what offloading has wrapped around it: (owner, attribute)."""
    registry = getattr(block, "_diffusers_hook", None)
    if registry is not None and getattr(registry, "_fn_refs", None):
        return registry._fn_refs[0], "forward"
    if getattr(block, "_hf_hook", None) is not None and hasattr(block, "_old_forward"):
        return block, "_old_forward"
    return block, "forward"
