"""A training twin: the forward pass of ``WanTransformer3DModel``, written for speed on CPU over the same parameters.

Same mathematics as diffusers' forward (a test compares them); nothing is copied back or forth because the parameters
are the model's own. What is different: matmul attention in bf16 (CPU scaled-dot-product attention is several times
slower backwards), one fused q-k-v product, patches as a linear layer, and **one zero-padding text token that stands for
all of them**: 512 - n identical tokens attend like one whose logit is raised by log(512 - n).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from interp.mini.text import MAX_TOKENS


@dataclass(frozen=True)
class TextBatch:
    """Prompts of a batch: ``states`` [batch, token, text_dim] and the logit ``bias`` [batch, 1, 1, token]."""

    states: Float[Tensor, "batch text text_dim"]
    bias: Float[Tensor, "batch 1 1 text"]

    def rows(self, numbers: list[int]) -> TextBatch:
        """The prompts of these numbers."""
        index = torch.as_tensor(numbers, device=self.states.device)
        return TextBatch(self.states[index], self.bias[index])


def pack_text(embeds: list[Float[Tensor, "512 text_dim"]], device: torch.device | str = "cpu") -> TextBatch:
    """Collapse zero padding to one token per prompt.

    Args:
        embeds: one [512, text_dim] tensor a prompt, zero past the prompt's length, as ``encode_prompt`` returns it.
        device: where the result is wanted.
    """
    lengths = [int((e.abs().sum(-1) > 0).sum()) for e in embeds]
    width = max(lengths) + 1
    states = torch.stack([e[:width] for e in embeds])
    bias = torch.full((len(embeds), 1, 1, width), float("-inf"))
    for k, length in enumerate(lengths):
        bias[k, ..., :length] = 0.0
        bias[k, ..., length] = math.log(MAX_TOKENS - length)
    return TextBatch(states.to(device), bias.to(device))


def forward(
    model: WanTransformer3DModel,
    x: Float[Tensor, "batch in_channel latent_frame row col"],
    timestep: Float[Tensor, " batch"],
    text: TextBatch,
    block_forward: Callable[..., Tensor] | None = None,
) -> Float[Tensor, "batch out_channel latent_frame row col"]:
    """Velocity [batch, channel, latent_frame, row, col] for x [batch, in_channel, latent_frame, row, col].

    ``block_forward`` is a compiled `forward_block`, if there is one.
    """
    run_block = block_forward or forward_block
    batch, channels, frames, rows, cols = x.shape
    h, w = rows // 2, cols // 2
    patches = (
        x.view(batch, channels, frames, h, 2, w, 2).permute(0, 2, 3, 5, 1, 4, 6).reshape(batch, frames * h * w, -1)
    )
    conv = model.patch_embedding
    stream = functional.linear(patches, conv.weight.flatten(1), conv.bias).float()
    embed = model.condition_embedder
    temb = embed.time_embedder(embed.timesteps_proj(timestep)).float()
    modulation = embed.time_proj(embed.act_fn(temb)).float().unflatten(1, (6, -1))
    context = embed.text_embedder(text.states)
    cos, sin = model.rope(x)
    cos, sin = cos[..., 0::2].transpose(1, 2), sin[..., 1::2].transpose(1, 2)  # [1, 1, token, pair]
    for block in model.blocks:
        stream = run_block(block, stream, context, text.bias, modulation, cos, sin)
    shift, scale = (model.scale_shift_table + temb.unsqueeze(1)).chunk(2, dim=1)
    out = model.proj_out(_norm(stream) * (1 + scale) + shift)
    out = out.view(batch, frames, h, w, 2, 2, -1).permute(0, 6, 1, 2, 4, 3, 5)
    return out.reshape(batch, -1, frames, rows, cols).float()


def _norm(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], eps=1e-6)


def forward_block(
    block: Any, stream: Tensor, context: Tensor, bias: Tensor, modulation: Tensor, cos: Tensor, sin: Tensor
) -> Tensor:
    """One block: the residual stream [batch, token, width] after it."""
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = (block.scale_shift_table + modulation).chunk(6, dim=1)
    stream = stream + gate_a * _self_attention(block.attn1, _norm(stream) * (1 + scale_a) + shift_a, cos, sin)
    normed = functional.layer_norm(stream, stream.shape[-1:], block.norm2.weight, block.norm2.bias, eps=1e-6)
    stream = stream + _cross_attention(block.attn2, normed, context, bias)
    up, down = block.ffn.net[0].proj, block.ffn.net[2]
    hidden = functional.gelu(up(_norm(stream) * (1 + scale_m) + shift_m), approximate="tanh")
    return stream + gate_m * down(hidden)


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _rms(x: Tensor, weight: Tensor) -> Tensor:
    x = x.float()
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """[batch, head, token, head_dim] each; returns [batch, token, head x head_dim]."""
    if q.is_cuda and bias is None:
        return functional.scaled_dot_product_attention(q.to(dtype), k.to(dtype), v.to(dtype)).transpose(1, 2).flatten(2)
    logits = torch.matmul(q.to(dtype) * q.shape[-1] ** -0.5, k.to(dtype).transpose(-1, -2))
    if bias is not None:
        logits = logits + bias.to(logits.dtype)
    return torch.matmul(logits.softmax(-1).to(dtype), v.to(dtype)).transpose(1, 2).flatten(2)


def _matmul_dtype(x: Tensor) -> torch.dtype:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32


def _self_attention(attn: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    layers = (attn.to_q, attn.to_k, attn.to_v)
    weight, bias = torch.cat([m.weight for m in layers]), torch.cat([m.bias for m in layers])
    q, k, v = functional.linear(x, weight, bias).chunk(3, dim=-1)
    q = _rotate(_heads(_rms(q, attn.norm_q.weight), attn.heads), cos, sin)
    k = _rotate(_heads(_rms(k, attn.norm_k.weight), attn.heads), cos, sin)
    return attn.to_out[0](_attend(q, k, _heads(v, attn.heads), None, _matmul_dtype(x)))


def _cross_attention(attn: Any, x: Tensor, context: Tensor, bias: Tensor) -> Tensor:
    q = _heads(_rms(attn.to_q(x), attn.norm_q.weight), attn.heads)
    k = _heads(_rms(attn.to_k(context), attn.norm_k.weight), attn.heads)
    v = _heads(attn.to_v(context), attn.heads)
    return attn.to_out[0](_attend(q, k, v, bias, _matmul_dtype(x)))
