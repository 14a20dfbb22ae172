"""Minimum description length of a target given features: how many bits does it take to tell the labels?

Online code (Voita and Titov 2020): labels are sent in blocks of groups; each block is coded by a probe fitted on the
blocks before it, the first by the uniform code. A code is short if the target is easy to read off *and* takes few
samples to learn; unlike accuracy it is not fooled by a probe that needs thousands of rows to fit random labels. Blocks
are nested training sets of the same rows, so a whole code is one batched solve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from probes.errors import ProbeError
from probes.folds import group_keys
from probes.logistic import Columns, class_counts, solve_logistic
from probes.plan import encode
from probes.space import blocks
from probes.tensor import tensor

FRACTIONS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.55, 0.8, 1.0)


@dataclass(frozen=True)
class OnlineCode:
    """``bits`` of the online code; ``uniform`` bits of telling every label without features or frequencies; ``entropy``
    bits of telling them by their frequencies alone (learnt online, too); ``compression`` = uniform / bits; ``table``
    per block: trained_rows, rows, bits, accuracy."""

    bits: float
    uniform: float
    entropy: float
    table: pl.DataFrame

    @property
    def compression(self) -> float:
        return self.uniform / self.bits


def online_code(
    x: Any,
    target: Any,
    *,
    groups: Any,
    fractions: Sequence[float] = FRACTIONS,
    path: float = 0.1,
    seed: int = 0,
    standardise: bool = True,
    dtype: str = "float64",
) -> OnlineCode:
    """Code length of classes ``target`` [row] given features ``x`` [row, feature].

    Args:
        groups: key(s) per row; groups are sent whole, in random order.
        fractions: of the groups that each block ends at; the last is 1.
        path: C of the logistic probes.
        seed: of the order of groups.

    A block's probe cannot know classes that no earlier block held; so 1 % of probability is kept for the uniform code,
    and no label costs infinitely many bits.

    Raises:
        ProbeError: features that are no finite matrix of a row a label, fractions that do not rise to 1, or groups that
            all fall into one block.
    """
    y, classes = encode(np.asarray(target), "logistic", "classification")
    features = tensor(x).to(torch.float64 if dtype == "float64" else torch.float32)
    if features.ndim != 2 or len(features) != len(y):
        raise ProbeError(f"Features must be [row, feature] with {len(y)} rows; got shape {tuple(features.shape)}.")
    ends = np.asarray(fractions, dtype=np.float64)
    if not len(ends) or (np.diff(ends) <= 0).any() or ends[0] <= 0 or ends[-1] != 1:
        raise ProbeError(f"fractions= must rise to 1; got {tuple(fractions)}.")
    if not path > 0:
        raise ProbeError(f"path={path}: C of the probes must be positive.")
    block = _blocks_of(group_keys(groups, len(y)), ends, seed)
    used = np.unique(block)
    if len(used) < 2:
        raise ProbeError("All rows fall into one block, so no probe is ever fitted. Give more groups, or fractions=.")
    code = y.astype(np.int64)
    count = len(classes)
    train = np.stack([block < b for b in used[1:]], axis=1)
    probability = np.full((len(y), count), 1 / count)
    _predict(features, code, train, block, used, probability, path, count, standardise)
    uniform = np.log2(count)
    chosen = probability[np.arange(len(y)), code]
    cost = -np.log2(0.99 * chosen + 0.01 / count)
    cost[block == used[0]] = uniform
    rows = []
    for b in used:
        mask = block == b
        right = float((probability[mask].argmax(axis=1) == code[mask]).mean()) if b > used[0] else None
        rows.append((int((block < b).sum()), int(mask.sum()), float(cost[mask].sum()), right))
    schema = {"trained_rows": pl.Int64, "rows": pl.Int64, "bits": pl.Float64, "accuracy": pl.Float64}
    table = pl.DataFrame(rows, schema=schema, orient="row")
    return OnlineCode(float(cost.sum()), uniform * len(y), _frequency_bits(code, block, used, count), table)


def _blocks_of(group: NDArray[np.int64], ends: NDArray[np.float64], seed: int) -> NDArray[np.int64]:
    """Block number [row]: groups in random order, cut at the fractions."""
    groups = int(group.max()) + 1
    place = np.empty(groups, dtype=np.int64)
    place[np.random.default_rng(seed).permutation(groups)] = np.arange(groups)
    return np.searchsorted(np.ceil(ends * groups - 1e-9), place, side="right")[group]


def _predict(
    features: torch.Tensor,
    code: NDArray[np.int64],
    train: NDArray[np.bool_],
    block: NDArray[np.int64],
    used: NDArray[np.int64],
    probability: NDArray[np.float64],
    c: float,
    count: int,
    standardise: bool,
) -> None:
    """Fill in what each block's probe gives its rows [row, class]."""
    labels, mask = torch.from_numpy(code)[:, None], torch.from_numpy(train)
    single = (class_counts(labels, mask, count)[:, 0] > 0).sum(dim=1) < 2
    for part in blocks(features, mask, standardise=standardise, dual=True):
        sets = torch.tensor(part.sets)
        columns = Columns(sets, torch.zeros_like(sets), torch.full(sets.shape, c, dtype=features.dtype))
        (fitted,) = solve_logistic([part], labels, mask, [columns], classes=count, tol=1e-5)
        for j, s in enumerate(part.sets):
            rows = block == used[s + 1]
            decision = fitted.decision[torch.from_numpy(rows), j].to(torch.float64)
            if bool(single[s]):  # one class so far: its probe is certain, a code must not be
                seen = np.bincount(code[train[:, s]], minlength=count) + 1.0
                probability[rows] = seen / seen.sum()
            elif decision.shape[1] == 1:
                p = torch.sigmoid(decision[:, 0]).numpy()
                probability[rows] = np.stack([1 - p, p], axis=1)
            else:
                probability[rows] = torch.softmax(decision, dim=1).numpy()


def _frequency_bits(code: NDArray[np.int64], block: NDArray[np.int64], used: NDArray[np.int64], count: int) -> float:
    """Bits of the same code with frequencies in place of probes."""
    bits = float((block == used[0]).sum() * np.log2(count))
    for b in used[1:]:
        seen = np.bincount(code[block < b], minlength=count) + 1.0
        bits -= float(np.log2((seen / seen.sum())[code[block == b]]).sum())
    return bits
