"""Tensors that no module gives, computed from ones that modules do give.

Rotated queries and keys and gated updates come out bit-equal to the model's own. Scores, patterns, results and the
image part of z are right to rounding: the model never forms them, or only inside a fused kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.address.names import site_named
from interp.address.reading import weight_of
from interp.address.resolution import Part
from interp.errors import InterpError


def recompute(name: str, values: Mapping[str, Tensor], model: nn.Module, part: Part | None = None) -> Tensor:
    """The tensor [batch, <site axes>] of a site of the "recompute" tier.

    Args:
        name: concrete name.
        values: the tensors of ``site_named(name).sources_at(name)``, by concrete name.
        model: the transformer.
        part: tokens and heads to make, for sites too big to keep whole; the rest is never formed.

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
    if part is not None and not site.heavy:
        raise InterpError(f"{name} is made whole; parts are of {', '.join(_HEAVY)}")
    queries_of = Part() if part is None else part
    keys_of = Part(heads=queries_of.heads)
    match name.rsplit("hook_", 1)[1]:
        case "rot_q" | "rot_k":
            return rotate(*given)
        case "attn_scores" | "pattern" as op:
            dots = scores(taken(given[0], _BY_HEAD, queries_of), taken(given[1], _BY_HEAD, keys_of))
            return dots if op == "attn_scores" else dots.softmax(-1)
        case "z_img":
            queries, keys, image_values = given
            return torch.einsum("bhqk,bkhd->bqhd", scores(queries, keys).softmax(-1), image_values.float())
        case "result":
            attention = "attn2" if ".cross_attn." in name else "attn1"
            block = ".".join(name.split(".")[:2])
            weight = output_weight(model.get_submodule(f"{block}.{attention}.to_out.0"), name)
            weight = weight.to(given[0].device).unflatten(1, (given[0].shape[-2], -1))
            if queries_of.heads is not None:
                weight = weight[:, list(queries_of.heads)]
            return by_head(taken(given[0], _BY_HEAD, queries_of), weight.flatten(1))
        case _:
            output, gate = given
            return output.float() * (gate if gate.ndim == output.ndim else gate.unsqueeze(1))


_BY_HEAD = ("token", "head", "d_head")
_HEAVY = ("hook_attn_scores", "hook_pattern", "hook_result")


def taken(tensor: Tensor, axes: Sequence[str], part: Part | None) -> Tensor:
    """A part of [batch, <axes>]; the tensor itself if it is all of it."""
    for axis, positions in () if part is None else (("token", part.tokens), ("head", part.heads)):
        if positions is not None and axis in axes:
            chosen = torch.as_tensor(positions, device=tensor.device)
            tensor = tensor.index_select(1 + axes.index(axis), chosen)
    return tensor


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


def output_weight(projection: nn.Module, site: str) -> Tensor:
    """The weight [d_model, (head d_head)] that results by head are made with.

    Raises:
        InterpError: the weight is offloaded, packed or has adapters beside it, so that it is not what the model uses.
    """
    if hasattr(projection, "base_layer"):
        raise InterpError(f"{site} cannot be split by head while an adapter is loaded; fuse it and unload it first")
    weight = weight_of(projection, "weight")
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise InterpError(f"{site} cannot be split by head: its weight is packed; take hook_z instead")
    return weight


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
