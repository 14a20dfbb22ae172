"""Tensors that no module gives, computed from ones that modules do give.

Rotated queries and keys and gated updates come out bit-equal to the model's own. Scores, patterns, results and the
image part of z are right to rounding: the model never forms them, or only inside a fused kernel.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.address.names import site_named
from interp.address.site import layer_of
from interp.errors import InterpError


def recompute(name: str, values: Mapping[str, Tensor], model: nn.Module) -> Tensor:
    """The tensor [batch, <site axes>] of a site of the "recompute" tier.

    Args:
        name: concrete name.
        values: the tensors of ``site_named(name).sources_at(name)``, by concrete name.
        model: the transformer.

    Raises:
        InterpError: the site is not of that tier, or a source is missing.
    """
    site = site_named(name)
    sources = site.sources_at(name)
    missing = [source for source in sources if source not in values]
    if site.tier != "recompute" or missing:
        why = f"needs {missing[0]}" if missing else f"is of the {site.tier} tier"
        raise InterpError(f"{name} cannot be recomputed: it {why}")
    given = [values[source] for source in sources]
    match name.rsplit("hook_", 1)[1]:
        case "rot_q" | "rot_k":
            return rotate(*given)
        case "attn_scores":
            return scores(*given)
        case "pattern":
            return scores(*given).softmax(-1)
        case "z_img":
            queries, keys, image_values = given
            return torch.einsum("bhqk,bkhd->bqhd", scores(queries, keys).softmax(-1), image_values.float())
        case "result":
            attention = "attn2" if ".cross_attn." in name else "attn1"
            return by_head(given[0], model.blocks[layer_of(name)].get_submodule(attention).to_out[0].weight)
        case _:
            output, gate = given
            return output.float() * (gate if gate.ndim == output.ndim else gate.unsqueeze(1))


def rotate(
    heads: Float[Tensor, "batch token head d_head"],
    cos: Float[Tensor, "1 token d_head"],
    sin: Float[Tensor, "1 token d_head"],
) -> Float[Tensor, "batch token head d_head"]:
    """Rotary embedding as Wan applies it: pairs of neighbouring features.

    Args:
        heads: [batch, token, head, d_head].
        cos, sin: [1, token, d_head], each value twice.
    """
    even, odd = heads.unflatten(-1, (-1, 2)).unbind(-1)
    c, s = cos.unsqueeze(2)[..., 0::2], sin.unsqueeze(2)[..., 1::2]
    out = torch.empty_like(heads)
    out[..., 0::2] = even * c - odd * s
    out[..., 1::2] = even * s + odd * c
    return out


def scores(
    queries: Float[Tensor, "batch query head d_head"], keys: Float[Tensor, "batch key head d_head"]
) -> Float[Tensor, "batch head query key"]:
    """Scaled dot products in fp32 [batch, head, query, key], of queries and keys [batch, token, head, d_head]."""
    scale = queries.shape[-1] ** -0.5
    return torch.einsum("bqhd,bkhd->bhqk", queries.float() * scale, keys.float())


def by_head(
    z: Float[Tensor, "batch token head d_head"], weight: Float[Tensor, "d_model head*d_head"]
) -> Float[Tensor, "batch token head d_model"]:
    """What each head adds to the attention's output, in fp32 and without the bias: [batch, token, head, d_model].

    Args:
        z: [batch, token, head, d_head].
        weight: of the output projection, [d_model, (head d_head)].
    """
    per_head = weight.float().unflatten(1, (z.shape[-2], -1))
    return torch.einsum("bthd,mhd->bthm", z.float(), per_head)
