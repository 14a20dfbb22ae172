"""Attention with ways closed: some queries cannot see some keys.

A mask for all queries, keys and heads of a large model does not fit in memory, so there only the queries concerned are
computed again. How many queries a kernel is given at once can change the last bits of each, so where the mask is small
all of them are computed, and the closed ones are then bit-equal to attention with a dense mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interp.errors import InterpError

DENSE = 2**24  # entries of a mask, up to which all queries are computed


def knocked_out(query: Tensor, key: Tensor, value: Tensor, z: Tensor, closed: Sequence[Any]) -> Tensor:
    """z with the closed ways left out before the softmax; queries that are not concerned keep theirs.

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
    every = range(query.shape[1])
    tokens = sorted({t for one in closed for t in (every if one.queries is None else one.queries)})
    if len(rows) * heads * len(every) * keys <= DENSE:
        tokens = list(every)
    place = {token: i for i, token in enumerate(tokens)}
    open_ = torch.ones(len(rows), heads, len(tokens), keys, dtype=torch.bool)
    for one in closed:
        at_rows = [rows.index(row) for row in one.rows]
        at_tokens = None if one.queries is None else [place[t] for t in one.queries]
        open_[_ways(open_, (at_rows, one.heads, at_tokens, one.keys))] = False
    if not bool(open_.any(-1).all()):
        raise InterpError(
            "knock-outs together close every key of some query, and a softmax over nothing is not defined"
        )
    open_ = open_.to(query.device)
    some_rows, some_tokens = (torch.tensor(at, device=query.device) for at in (rows, tokens))
    q, k, v = (t.index_select(0, some_rows).transpose(1, 2) for t in (query.index_select(1, some_tokens), key, value))
    masked = F.scaled_dot_product_attention(q, k, v, attn_mask=open_).transpose(1, 2)
    old = z.index_select(0, some_rows)
    part = old.index_select(1, some_tokens)
    touched = (~open_).any(-1).transpose(1, 2).unsqueeze(-1)
    new = old.index_copy(1, some_tokens, torch.where(touched, masked.to(z.dtype), part))
    return z.index_copy(0, some_rows, new)


def closed_scores(scores: Tensor, closed: Sequence[Any]) -> Tensor:
    """Scores with minus infinity where a way is closed.

    Args:
        scores: [batch, head, query, key]; not changed.
        closed: see `knocked_out`.
    """
    new = scores.clone()
    for one in closed:
        new[_ways(new, (one.rows, one.heads, one.queries, one.keys))] = -torch.inf
    return new


def _ways(table: Tensor, chosen: Sequence[Sequence[int] | None]) -> tuple[Tensor, ...]:
    """An index of the product of positions along each axis, None for all."""
    sizes = zip(chosen, table.shape, strict=True)
    at = (torch.tensor(range(size) if some is None else some, dtype=torch.long) for some, size in sizes)
    return torch.meshgrid(*at, indexing="ij")
