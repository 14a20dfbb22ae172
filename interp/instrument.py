"""Named points inside a Wan block and its attention, for what module hooks cannot write.

The instrumented forward and processor make the same operations in the same order as diffusers 0.42.1
(``transformer_wan.py``), with a named point between them. They are placed only on the layers that ask, only for the
length of a ``with`` block. A source that is not the one they were written against is compared to the bit before
anything runs.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor, nn

from interp.errors import InterpError, SelectionError
from interp.hooks import check_hookable
from interp.sampler import transformer_of
from interp.sites import layer_of, site_named

KNOWN = {"block": "21c15441b009", "processor": "13c09feedcfe"}  # sources of diffusers 0.42.1
_PROCESSOR_OPS = ("rot_q", "rot_k", "attn_scores", "pattern", "z_img")
_BLOCK_OPS = ("attn_update", "resid_mid", "resid_mid_cross", "mlp_update")


@runtime_checkable
class Points(Protocol):
    """Whoever wants to see and change named tensors."""

    def wants(self, site: str) -> bool:
        """Whether a site would be changed now; costly tensors are made only then."""

    def emit(self, site: str, tensor: Tensor) -> Tensor:
        """The tensor that goes on."""

    def closed(self, site: str) -> tuple[Any, ...]:
        """Knock-outs now: objects with ``rows``, ``heads``, ``queries`` and ``keys``."""

    def knocked(self, site: str, closed: tuple[Any, ...], before: Tensor, after: Tensor) -> None:
        """Knock-outs were applied."""


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


# --- attention --------------------------------------------------------------------------------------------------------


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
            query = self.points.emit(f"{self.prefix}.hook_rot_q", rotated(query, *rotary_emb))
            key = self.points.emit(f"{self.prefix}.hook_rot_k", rotated(key, *rotary_emb))
        z_image = None if image is None else self._image(attn, query, image)
        z = self._dispatch(query, key, value, attention_mask, own=encoder_hidden_states is None)
        z = self._edited(query, key, value, z)
        z = z.flatten(2, 3).type_as(query)
        if z_image is not None:
            z = z + z_image
        return attn.to_out[1](attn.to_out[0](z))

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
        scores, pattern = f"{self.prefix}.hook_attn_scores", f"{self.prefix}.hook_pattern"
        closed = self.points.closed(scores)
        if closed:
            knocked = knocked_out(query, key, value, z, closed)
            self.points.knocked(scores, closed, z, knocked)
            z = knocked
        if not (self.points.wants(scores) or self.points.wants(pattern)):
            return z
        if closed:
            raise InterpError(
                f"{self.prefix}: a knock-out and an edit of scores or pattern in one forward are not defined"
            )
        dots = scores_of(query, key)
        before = dots.softmax(-1)
        after = self.points.emit(pattern, self.points.emit(scores, dots).softmax(-1))
        made = torch.einsum("bhqk,bkhd->bqhd", after.float(), value.float()).to(z.dtype)
        changed = (
            (after != before).any(-1).transpose(1, 2).unsqueeze(-1)
        )  # rows of attention that were not edited keep z
        return torch.where(changed, made, z)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of [batch, token, head, d_head], as diffusers computes it."""
    x1, x2 = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    out = torch.empty_like(x)
    out[..., 0::2] = x1 * cos - x2 * sin
    out[..., 1::2] = x1 * sin + x2 * cos
    return out.type_as(x)


def scores_of(query: Tensor, key: Tensor) -> Tensor:
    """Scaled dot products in fp32: [batch, head, query, key]."""
    return torch.einsum("bqhd,bkhd->bhqk", query.float(), key.float()) * query.shape[-1] ** -0.5


def knocked_out(query: Tensor, key: Tensor, value: Tensor, z: Tensor, closed: Sequence[Any]) -> Tensor:
    """z with the closed ways left out before the softmax; only the queries concerned are computed again.

    Args:
        query, key, value: [batch, token, head, d_head].
        z: what attention gives without knock-outs, [batch, token, head, d_head].
        closed: knock-outs; several at the same queries add up.
    """
    closed = [one for one in closed if one.keys]
    if not closed:
        return z
    heads, keys = query.shape[2], key.shape[1]
    rows = sorted({row for one in closed for row in one.rows})
    tokens = sorted({t for one in closed for t in (range(query.shape[1]) if one.queries is None else one.queries)})
    open_ = torch.ones(len(rows), heads, len(tokens), keys, dtype=torch.bool)
    for one in closed:
        at_rows = [rows.index(row) for row in one.rows]
        at_heads = range(heads) if one.heads is None else one.heads
        at_tokens = range(len(tokens)) if one.queries is None else [tokens.index(t) for t in one.queries]
        index = torch.meshgrid(
            *(torch.tensor(list(at)) for at in (at_rows, at_heads, at_tokens, one.keys)), indexing="ij"
        )
        open_[index] = False
    if not bool(open_.any(-1).all()):
        raise InterpError(
            "knock-outs together close every key of some query, and a softmax over nothing is not defined"
        )
    open_ = open_.to(query.device)
    some_rows, some_tokens = (torch.tensor(at, device=query.device) for at in (rows, tokens))
    q, k, v = (t.index_select(0, some_rows).transpose(1, 2) for t in (query, key, value))
    masked = F.scaled_dot_product_attention(q.index_select(2, some_tokens), k, v, attn_mask=open_).transpose(1, 2)
    old = z.index_select(0, some_rows)
    part = old.index_select(1, some_tokens)
    touched = (~open_).any(-1).transpose(1, 2).unsqueeze(-1)
    new = old.index_copy(1, some_tokens, torch.where(touched, masked.to(z.dtype), part))
    return z.index_copy(0, some_rows, new)


@contextlib.contextmanager
def _place_processor(block: Any, layer: int, part: str, points: Points) -> Iterator[None]:
    attn = block.attn1 if part == "attn" else block.attn2
    original = attn.processor
    if not source_is_known("processor", type(original).__call__):
        _same_attention(attn, NamedProcessor(original, "", _Nobody()))
    attn.processor = NamedProcessor(original, f"blocks.{layer}.{part}", points)
    try:
        yield
    finally:
        attn.processor = original


# --- block ------------------------------------------------------------------------------------------------------------


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


@contextlib.contextmanager
def _place_block(block: Any, layer: int, part: str, points: Points) -> Iterator[None]:
    if not source_is_known("block", type(block).forward):
        _same_block(block, named_forward(block, "", _Nobody()))
    owner, name = innermost(block)
    with replaced(owner, name, named_forward(block, f"blocks.{layer}", points)):
        yield


def innermost(block: nn.Module) -> tuple[Any, str]:
    """Where the forward is that does the work, beneath what offloading has wrapped around it: (owner, attribute)."""
    registry = getattr(block, "_diffusers_hook", None)
    if registry is not None and getattr(registry, "_fn_refs", None):
        return registry._fn_refs[0], "forward"
    if getattr(block, "_hf_hook", None) is not None and hasattr(block, "_old_forward"):
        return block, "_old_forward"
    return block, "forward"


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute on one instance for the length of the block."""
    had, original = name in vars(owner), getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if had:
            setattr(owner, name, original)
        else:
            delattr(owner, name)


# --- is it the source we know? ----------------------------------------------------------------------------------------


class _Nobody:
    """Wants nothing."""

    def wants(self, site: str) -> bool:
        return False

    def emit(self, site: str, tensor: Tensor) -> Tensor:
        return tensor

    def closed(self, site: str) -> tuple[Any, ...]:
        return ()

    def knocked(self, site: str, closed: tuple[Any, ...], before: Tensor, after: Tensor) -> None:
        return None


@functools.cache
def source_is_known(what: str, function: Any) -> bool:
    """Whether a function's source is the one this module was written against: ``what`` is "block" or "processor"."""
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        return False
    return hashlib.sha256(source.encode()).hexdigest()[:12] == KNOWN[what]


@torch.no_grad()
def _same_attention(attn: Any, ours: NamedProcessor) -> None:
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
def _same_block(block: Any, ours: Callable[..., Tensor]) -> None:
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


__all__ = [
    "NamedProcessor",
    "Points",
    "instrumented",
    "named_forward",
    "needed",
    "part_of",
    "replaced",
    "source_is_known",
]
