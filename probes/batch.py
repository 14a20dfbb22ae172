"""How many cells are fitted at once, and the memory that takes."""

from __future__ import annotations

import torch

from probes.errors import ProbeError
from probes.plan import Plan
from probes.shares import shares
from probes.space import KERNEL_BYTES, KERNEL_FROM

BATCH_BYTES = 256 * 2**20
"""Decision values of one cell solved at once; keeps the memory of token-level cells bounded."""

BATCH_VALUES = 2**18
"""Decision values worth solving at once: smaller cells are stacked, so that the cost of a call is shared."""

BATCH_FEATURES = 2**20
"""Features held at once by stacked cells: more would not stay in the cache from one iteration to the next. What the
kernel form holds instead counts as ``KERNEL_WIDTH`` features per row, at most."""

KERNEL_WIDTH = 4


def stack_size(rows: int, features: int, fits: int) -> int:
    """How many cells share the cost of a call well; every output of a fit counts."""
    width = min(max(features, 1), KERNEL_WIDTH * rows)
    return max(1, min(BATCH_VALUES // (rows * fits), BATCH_FEATURES // (rows * width)))


def batch_size(plan: Plan, features: int, memory: float | None = None) -> int:
    """How many cells to fit at once: as many as share the cost of a call well, within ``memory`` bytes.

    Raises:
        ProbeError: one cell needs more.
    """
    rows = len(plan.y)
    fits = max(len(plan.pairs) * len(plan.path), plan.folds.k * plan.tensors.labels.shape[1])
    best = stack_size(rows, features, fits * plan.outputs)
    if memory is None:
        return best
    one = needed_bytes(plan, features)
    if one > memory:
        raise ProbeError(
            f"One cell of {rows} rows and {features} features needs about {one / 1e6:.0f} MB, more than memory="
            f"{memory / 1e6:.0f} MB. Raise memory=, thin the rows (max_rows=), keep a smaller view, or ask for fewer "
            "shuffles."
        )
    # A third for fits: reading a store and what allocators keep of freed memory take the rest.
    return max(1, min(best, int(memory // (3 * one))))


def needed_bytes(plan: Plan, features: int) -> int:
    """What fitting one cell takes at its height, its features included: no less, and seldom more than twice as much.

    How many times a thing is held was measured (``tests/probes/test_memory.py``).
    """
    rows, item = len(plan.y), torch.finfo(plan.dtype).bits // 8
    kernel = plan.model != "means" and features > KERNEL_FROM * shares(plan.tensors.train).most
    unknowns = (rows if kernel else features) + 1
    held = (4 if plan.weights is None else 6) * rows * features
    if kernel:
        held += _kernel_values(plan)
    if plan.model != "means":
        held += (2 + 2 * len(plan.path)) * unknowns**2
    return item * (held + _fit_values(plan, unknowns))


def _kernel_values(plan: Plan) -> int:
    """Numbers in products of rows."""
    rows, k, pairs = len(plan.y), plan.folds.k, len(plan.pairs)
    if plan.model == "lda":  # those of one training set at a time, in float64
        return 24 * rows**2
    sets = pairs + k
    held = max(1, min(sets, KERNEL_BYTES // (rows**2 * torch.finfo(plan.dtype).bits // 8)))
    if held < sets:  # in several blocks: one is made while there still is the last
        held *= 2
    elif plan.model == "logistic":  # solved in one piece, which is a copy
        held += max(pairs, k)
    if plan.model == "logistic" and plan.outputs == 1:  # inverses of what sets leave out, and what makes them
        left_out = max(pairs * (2 * rows / k) ** 2, rows**2 / k)
        return held * rows**2 + int((len(plan.path) + 6) * left_out)
    return held * rows**2


def _fit_values(plan: Plan, unknowns: int) -> int:
    """Numbers in coefficients, decisions and what else there is of every fit."""
    rows, k, inner, labels = len(plan.y), plan.folds.k, len(plan.pairs) * len(plan.path), plan.tensors.labels.shape[1]
    choices = inner * (labels if plan.nested else 1)
    if plan.model == "logistic":
        fits = max(choices, k * labels) * plan.outputs
        most = max(max(inner, k) * plan.outputs, BATCH_BYTES // (4 * rows))  # one labelling at least
        return min(fits, most) * (15 * rows + 24 * unknowns)
    decisions = (choices + len(plan.path) * labels) * plan.outputs
    coefficients = max(choices, k * len(plan.path) * labels) * max(1, len(plan.classes))
    return 4 * rows * decisions + 8 * unknowns * coefficients
