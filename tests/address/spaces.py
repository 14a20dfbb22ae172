"""Small address spaces that the tests of this folder share."""

from __future__ import annotations

from interp.grid import TokenGrid
from interp.selection import AddressSpace

A14B = {
    "num_layers": 40,
    "num_attention_heads": 40,
    "attention_head_dim": 128,
    "ffn_dim": 13824,
    "in_channels": 36,
    "out_channels": 16,
    "patch_size": (1, 2, 2),
    "text_dim": 4096,
    "freq_dim": 256,
    "image_dim": None,
}
SMALL = A14B | {"num_layers": 3, "num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "text_dim": 64}


def small_space(*, guidance: bool = True, image: bool = False, per_token_time: bool = False) -> AddressSpace:
    """3 layers of 2 heads, 5 steps over two experts, 3 x 2 x 4 tokens."""
    return AddressSpace.of_model(
        SMALL | ({"image_dim": 16} if image else {}),
        TokenGrid(3, 2, 4),
        sigmas=(1.0, 0.9, 0.7, 0.4, 0.1),
        experts=("high", "high", "low", "low", "low"),
        branches=("cond", "uncond") if guidance else ("cond",),
        text_tokens=7,
        per_token_time=per_token_time,
    )
