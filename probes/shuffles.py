"""Label shuffles: what a probe scores when labels say nothing, with everything else about the data kept.

The null must keep what makes rows alike. Labels that are constant within a group (the route of a maze, over its tokens)
are moved between groups as a whole; labels that vary within groups are permuted inside each group, which keeps every
group's share of each label, so that a probe that only tells groups apart gains nothing over chance.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from probes.errors import ProbeError


def varying(labels: NDArray[np.float64], group: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mask [group]: does the label vary within the group?"""
    groups = int(group.max()) + 1
    low, high = np.full(groups, np.inf), np.full(groups, -np.inf)
    np.minimum.at(low, group, labels)
    np.maximum.at(high, group, labels)
    return np.asarray(low != high)


def choose_scheme(labels: NDArray[np.float64], group: NDArray[np.int64]) -> str:
    """``between`` if no group varies; ``within`` if at least 9 of 10 rows lie in groups that do; else ``both``.

    ``both`` matters for mixed data, such as two seeds of each fork maze of which some took the same route: permuting
    inside groups alone would leave the constant ones as they are, and call what the probe reads there "chance".
    """
    mask = varying(labels, group)
    if not mask.any():
        return "between"
    return "within" if mask[group].mean() >= 0.9 else "both"


def shuffle_labels(
    labels: NDArray[np.float64], group: NDArray[np.int64], count: int, *, scheme: str = "auto", seed: int = 0
) -> NDArray[np.float64]:
    """Shuffled labels [row, shuffle].

    Args:
        labels: [row], class numbers or values.
        group: [row], group numbers.
        scheme: ``between`` moves the labels of whole groups between groups (of one size where labels vary inside them);
            ``within`` permutes inside each group; ``both`` does one after the other; ``auto`` as in `choose_scheme`.

    Raises:
        ProbeError: the scheme would leave the labels as they are.
    """
    if scheme not in ("auto", "between", "within", "both"):
        raise ProbeError(f"shuffle={scheme!r} is not known; use 'auto', 'between', 'within' or 'both'.")
    mask = varying(labels, group)
    if scheme == "auto":
        scheme = choose_scheme(labels, group)
    if scheme == "within" and not mask.any():
        raise ProbeError(
            "shuffle='within' was asked, but no label varies within its group, so nothing would be shuffled. Use "
            "'between'."
        )
    rng = np.random.default_rng(seed)
    out = np.empty((len(labels), count))
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    constant = not mask.any()
    if scheme != "within" and not constant and all((sizes == size).sum() < 2 for size in np.unique(sizes)):
        raise ProbeError(
            "Labels vary within groups and no two groups have the same number of rows, so they cannot be exchanged "
            "between groups. Use shuffle='within'."
        )
    for j in range(count):
        current = labels[order]
        if scheme != "within":
            current = _exchange(current, sizes, starts, constant, rng)
        if scheme != "between":
            # A random key per row, sorted inside each group, is a uniform permutation of every group at once.
            blocks = np.repeat(np.arange(len(sizes)), sizes)
            current = current[np.lexsort((rng.random(len(labels)), blocks))]
        out[order, j] = current
    return out


def _exchange(
    current: NDArray[np.float64],
    sizes: NDArray[np.int64],
    starts: NDArray[np.int64],
    constant: bool,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Labels [row, sorted by group] after whole groups swapped theirs."""
    if constant:  # one label per group: any group may take any other's, whatever the sizes
        return np.repeat(current[starts][rng.permutation(len(sizes))], sizes)
    out = current.copy()
    for size in np.unique(sizes):
        members = np.flatnonzero(sizes == size)
        rows = starts[members][:, None] + np.arange(size)
        out[rows] = current[rows[rng.permutation(len(members))]]
    return out
