"""Attention with ways closed: some queries cannot see some keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interp.errors import InterpError


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
