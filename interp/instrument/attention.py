"""An attention processor with named points, in the order of ``WanAttnProcessor`` of diffusers 0.42.1."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor

from interp.address.recompute import by_head, output_weight, rotate, scores
from interp.errors import InterpError
from interp.instrument.knockout import knocked_out
from interp.instrument.points import Points


class NamedProcessor:
    """``WanAttnProcessor`` with named points.

    Args:
        original: the processor in use; its backend is kept.
        prefix: "blocks.3.attn" or "blocks.3.cross_attn".
        points: sees and changes the tensors.
    """

    def __init__(self, original: Any, prefix: str, points: Points) -> None:
        self._attention_backend = getattr(original, "_attention_backend", None)
        self._parallel_config = getattr(original, "_parallel_config", None)
        self.prefix, self.points = prefix, points

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """As ``WanAttnProcessor.__call__``."""
        image = None
        if attn.add_k_proj is not None and encoder_hidden_states is not None:
            image = encoder_hidden_states[:, : encoder_hidden_states.shape[1] - 512]
            encoder_hidden_states = encoder_hidden_states[:, encoder_hidden_states.shape[1] - 512 :]
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        query, key = attn.norm_q(query), attn.norm_k(key)
        query, key, value = (t.unflatten(2, (attn.heads, -1)) for t in (query, key, value))
        if rotary_emb is not None:
            cos, sin = (table[:, :, 0] for table in rotary_emb)
            query = self.points.emit(f"{self.prefix}.hook_rot_q", rotate(query, cos, sin))
            key = self.points.emit(f"{self.prefix}.hook_rot_k", rotate(key, cos, sin))
        z_image = None if image is None else self._image(attn, query, image)
        z = self._dispatch(query, key, value, attention_mask, own=encoder_hidden_states is None)
        z = self._edited(query, key, value, z)
        z = z.flatten(2, 3).type_as(query)
        if z_image is not None:
            z = z + z_image
        return attn.to_out[1](self._projected(attn, z))

    def _projected(self, attn: Any, z: Tensor) -> Tensor:
        """The output [batch, token, d_model] with what was asked of each head's share of it."""
        result = f"{self.prefix}.hook_result"
        if not self.points.wants(result):
            return attn.to_out[0](z)
        given: list[Tensor] = []  # z as the projection gets it, edits of hook_z included
        handle = attn.to_out[0].register_forward_pre_hook(lambda module, args: given.append(args[0]))
        try:
            out = attn.to_out[0](z)
        finally:
            handle.remove()
        z = given[0]
        before = by_head(z.unflatten(2, (attn.heads, -1)), output_weight(attn.to_out[0], result))
        after = self.points.emit(result, before)
        changed = (after != before).any(-1).any(-1, keepdim=True)  # tokens that were not edited keep their output
        return torch.where(changed, (out.float() + (after - before).sum(2)).to(out.dtype), out)

    def _image(self, attn: Any, query: Tensor, image: Tensor) -> Tensor:
        key, value = attn.add_k_proj(image), attn.add_v_proj(image)
        key = attn.norm_added_k(key)
        key, value = key.unflatten(2, (attn.heads, -1)), value.unflatten(2, (attn.heads, -1))
        z = self._dispatch(query, key, value, None, own=False)
        return self.points.emit(f"{self.prefix}.hook_z_img", z).flatten(2, 3).type_as(query)

    def _dispatch(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, own: bool) -> Tensor:
        return dispatch_attention_fn(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=0.0,
            is_causal=False,
            backend=self._attention_backend,
            parallel_config=self._parallel_config if own else None,
        )

    def _edited(self, query: Tensor, key: Tensor, value: Tensor, z: Tensor) -> Tensor:
        """z [batch, token, head, d_head] with what was asked of the scores and the pattern."""
        dots_at, pattern = f"{self.prefix}.hook_attn_scores", f"{self.prefix}.hook_pattern"
        if not (self.points.wants(dots_at) or self.points.wants(pattern)):
            closed = self.points.closed(dots_at)
            if not closed:
                return z
            knocked = knocked_out(query, key, value, z, closed)
            self.points.knocked(dots_at, closed, z, knocked)
            return knocked
        dots = scores(query, key)
        before = dots.softmax(-1)
        dots = self.points.emit(dots_at, dots)  # knock-outs included, in their order
        if not bool(dots.amax(-1).isfinite().all()):
            raise InterpError(
                f"{self.prefix}: edits of scores and knock-outs together leave some query no key, or make a score that "
                "is not finite, and a softmax over that is not defined"
            )
        after = self.points.emit(pattern, dots.softmax(-1))
        made = torch.einsum("bhqk,bkhd->bqhd", after.float(), value.float()).to(z.dtype)
        changed = (
            (after != before).any(-1).transpose(1, 2).unsqueeze(-1)
        )  # rows of attention that were not edited keep z
        return torch.where(changed, made, z)
