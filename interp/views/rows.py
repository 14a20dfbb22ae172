"""Rows of attention without a pattern: scores of a block of queries at a time, reduced before the next block."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

BLOCK = 1 << 24  # scores in memory at a time, fp32: 64 MiB, about three times that with what a reduction makes of them
_QUERIES = 512  # rows of one head in a block, where they fit: enough for a matrix product to run at speed

Reduce = Callable[[Tensor, Tensor], Tensor]


def reduced_rows(
    queries: Float[Tensor, "batch query head d_head"],
    keys: Float[Tensor, "batch key head d_head"],
    reduce: Reduce,
) -> Float[Tensor, "batch head query ..."]:
    """What a reduction makes of every row of scaled dot products.

    Scores are fp32 whatever the model computes in, and every row comes whole, so a softmax over it is the exact one.
    Memory: about three times `BLOCK` numbers beside the result, whatever the number of tokens (a row longer than
    `BLOCK` is a block of its own).

    Args:
        queries, keys: after rotation, in any float format.
        reduce: (scores [row, query, key], batch number of each row [row]) to [row, query, ...]. A "row" is one head of
            one batch row.
    """
    batch, count, heads, width = queries.shape
    q = queries.transpose(1, 2).flatten(0, 1)
    k = keys.transpose(1, 2).flatten(0, 1)
    number = torch.arange(batch, device=q.device).repeat_interleave(heads)
    per_block = max(1, min(_QUERIES, count, BLOCK // k.shape[1]))
    together = max(1, BLOCK // (per_block * k.shape[1]))
    result: Tensor | None = None
    for row in range(0, len(q), together):
        transposed = k[row : row + together].float().mT * width**-0.5
        for start in range(0, count, per_block):
            block = q[row : row + together, start : start + per_block].float() @ transposed
            made = reduce(block, number[row : row + together])
            if result is None:
                result = made.new_empty((len(q), count, *made.shape[2:]))
            result[row : row + together, start : start + per_block] = made
    assert result is not None
    return result.unflatten(0, (batch, heads))
