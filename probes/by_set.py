"""Columns that come training set by training set, and products of each with a matrix of its set.

Shapes: B cells, S training sets, Q columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.factor import times


@dataclass(frozen=True)
class BySet:
    """``which``: the set of each column. ``places``: sets that have columns, and where these are. ``even``: every set
    has as many."""

    which: Int[Tensor, " Q"]
    places: tuple[tuple[int, slice], ...]
    even: bool

    @staticmethod
    def of(which: Int[Tensor, " Q"], sets: int) -> BySet:
        """Columns that come in the order of their sets."""
        counts = torch.bincount(which, minlength=sets).tolist()
        places, start = [], 0
        for s, count in enumerate(counts):
            if count:
                places.append((s, slice(start, start + count)))
            start += count
        return BySet(which, tuple(places), min(counts) == max(counts))

    def times(self, rows: Float[Tensor, "B Q n"], matrices: Float[Tensor, "B S n m"]) -> Float[Tensor, "B Q m"]:
        """Each row times the matrix of its set."""
        b, sets, n, m = matrices.shape
        if self.even and matrices.is_contiguous():
            return times(rows.reshape(b * sets, -1, n), matrices.view(b * sets, n, m)).view(b, -1, m)
        out = rows.new_empty(*rows.shape[:2], m)
        for s, at in self.places:
            out[:, at] = times(rows[:, at], matrices[:, s])
        return out
