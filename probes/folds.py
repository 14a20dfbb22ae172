"""Cross-validation folds in which whatever belongs together stays together.

A *group* is a set of rows that share what the probe could memorise: all tokens of a sample, all seeds of a maze. Folds
are drawn once per grid, so that every cell is scored on the same split and cells can be compared pairwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from probes.errors import LeakageError, ProbeError
from probes.known import is_known

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Folds:
    """One fold number and one group number per row.

    ``fold`` [row] in ``0..k-1`` is the fold in which the row is tested; ``group`` [row] in ``0..groups-1``.
    """

    fold: Ints
    group: Ints
    k: int
    groups: int

    def train(self, *left_out: int) -> NDArray[np.bool_]:
        """Mask [row] of the rows to train on when these folds are left out."""
        return ~np.isin(self.fold, left_out)


def merge_groups(*keys: ArrayLike) -> Ints:
    """Group numbers [row] such that two rows sharing *any* of the keys share a group.

    ``merge_groups(maze, seed)`` keeps a maze on one side and, at once, a noise seed on one side: groups are the
    connected components of "has a key in common".

    >>> merge_groups(["a", "a", "b", "c"], [1, 2, 2, 3]).tolist()
    [0, 0, 0, 1]
    """
    if not keys:
        raise ProbeError(
            "Groups were asked for without a key. Give one array of keys per row, such as the sample's key."
        )
    columns = [np.asarray(key) for key in keys]
    rows = len(columns[0])
    for column in columns:
        if column.ndim != 1 or len(column) != rows:
            shapes = [c.shape for c in columns]
            raise ProbeError(f"Group keys need one value per row each; got arrays of shapes {shapes}.")
        if not is_known(column).all():
            raise ProbeError(
                "A group key is NaN or None: it is not known where that row belongs. Give every row a key."
            )
    if rows == 0:
        raise ProbeError("There are no rows to group.")
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    nodes, start, ends = np.arange(rows), rows, []
    for column in columns:
        _, codes = np.unique(column, return_inverse=True)
        ends.append(codes.reshape(-1) + start)
        start += int(codes.max()) + 1
    source, target = np.tile(nodes, len(ends)), np.concatenate(ends)
    graph = coo_matrix((np.ones(len(source), dtype=np.int8), (source, target)), shape=(start, start))
    _, component = connected_components(graph, directed=False)
    # Number groups by first appearance: the numbering then does not depend on how keys are spelt.
    _, first, inverse = np.unique(component[:rows], return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    return np.asarray(rank[inverse.reshape(-1)], dtype=np.int64)


def draw_folds(group: Ints, k: int = 5, *, strata: NDArray[np.int64] | None = None, seed: int = 0) -> Folds:
    """Deal whole groups into ``k`` folds: seeded, balanced in rows and, where ``strata`` [row] is given, in classes.

    Groups are dealt largest first, each to the fold where it leaves class counts most even.

    Raises:
        ProbeError: fewer groups than folds.
    """
    group = np.asarray(group, dtype=np.int64)
    groups = int(group.max()) + 1
    if k < 2:
        raise ProbeError(f"Cross-validation needs at least 2 folds; {k} asked.")
    if groups < k:
        raise ProbeError(
            f"{k} folds were asked of {groups} group{'s' * (groups != 1)}; a group lies in one fold, so there must be "
            f"at least as many groups as folds. Capture more samples, or ask for folds={max(2, groups)}."
        )
    kinds = np.zeros(len(group), dtype=np.int64) if strata is None else np.asarray(strata, dtype=np.int64)
    counts = np.zeros((groups, int(kinds.max()) + 1))
    np.add.at(counts, (group, kinds), 1)
    rng = np.random.default_rng(seed)
    order = rng.permutation(groups)
    order = order[np.argsort(-counts[order].max(axis=1), kind="stable")]
    share = counts / np.maximum(counts.sum(axis=0), 1)
    rows = counts.sum(axis=1) / counts.sum()
    held, held_rows = np.zeros((k, counts.shape[1])), np.zeros(k)
    fold_of = np.empty(groups, dtype=np.int64)
    for g in order:
        # Spread after giving g to each fold, per class and over rows. Only the receiving fold changes, and
        # (h+s)^2 - h^2 = s(2h+s), so the best fold is the one with the least of it.
        cost = (share[g] * (2 * held + share[g])).sum(axis=1) + rows[g] * (2 * held_rows + rows[g])
        best = int(np.argmin(cost))
        fold_of[g] = best
        held[best] += share[g]
        held_rows[best] += rows[g]
    return Folds(fold_of[group], group, k, groups)


def check_folds(fold: ArrayLike, group: Ints) -> Folds:
    """Folds the user drew, taken only if no group lies in two of them.

    Raises:
        LeakageError: a group is on both sides of a split.
    """
    given = np.asarray(fold)
    if given.shape != group.shape:
        raise ProbeError(
            f"folds= needs one fold number per row: {group.shape[0]} rows, got an array of shape {given.shape}."
        )
    if given.dtype.kind not in "iu":
        raise ProbeError(f"folds= needs integer fold numbers; got {given.dtype}.")
    names, codes = np.unique(given, return_inverse=True)
    codes = codes.reshape(-1).astype(np.int64)
    if len(names) < 2:
        raise ProbeError(
            "folds= puts every row into one fold, which leaves nothing to train on. Give at least 2 folds."
        )
    groups = int(group.max()) + 1
    low, high = np.full(groups, len(names)), np.full(groups, -1)
    np.minimum.at(low, group, codes)
    np.maximum.at(high, group, codes)
    split = np.flatnonzero(low != high)
    if len(split):
        g = int(split[0])
        rows = np.flatnonzero(group == g)
        a, b = rows[codes[rows] == low[g]][0], rows[codes[rows] == high[g]][0]
        raise LeakageError(
            f"{len(split)} of {groups} groups lie in more than one fold: rows {a} and {b} share a group but are "
            "tested in folds "
            f"{names[low[g]]} and {names[high[g]]}, so a probe could recognise the sample and not the answer. Deal "
            "whole groups (leave folds= to a number), or correct groups=."
        )
    return Folds(codes, group, len(names), groups)


def group_keys(groups: ArrayLike | Sequence[ArrayLike], rows: int) -> Ints:
    """Group numbers from one key per row, or from a tuple/list of such arrays (rows sharing any key are merged)."""
    if isinstance(groups, (tuple, list)) and len(groups) and np.ndim(groups[0]) == 1:
        keys = [np.asarray(key) for key in groups]
    else:
        keys = [np.asarray(groups)]
    for key in keys:
        if key.shape != (rows,):
            raise ProbeError(
                f"groups= needs one key per row ({rows} rows); got shape {key.shape}. "
                "Rows of one sample share its key; give tuple(keys, ...) to keep several things on one side at once."
            )
    return merge_groups(*keys)
