"""Control tasks: random labels that a probe could only memorise, with the structure of the real ones.

A probe with room enough learns by heart which label goes with which kind of row (Hewitt and Liang 2019). A control task
gives every kind its own random label, the same in training and test. What a probe scores there is its own doing; the
real score less that, its selectivity, is the representation's. Shuffles (`probes.shuffles`) ask something else: what
the whole procedure scores when labels say nothing about new groups.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from probes.errors import ProbeError
from probes.known import is_known
from probes.plan import Plan
from probes.source import Source


def control_target(target: Any, *, kinds: Any = None, seed: int = 0) -> NDArray[Any]:
    """A target of the same shape and about the same frequencies, constant for each kind of row; of a target so rare
    that no kind would get it, one does.

    Args:
        target: [run, token], or [row] with ``kinds``; NaN (or None) stays what it is.
        kinds: what a probe could go by, one for each token (the same in all runs) or one for each row; by default the
            token's place in the video.

    Raises:
        ProbeError: a target per row without kinds, kinds that fit nothing, fewer than two kinds, or a target that does
            not vary.
    """
    values = np.asarray(target)
    if kinds is None:
        if values.ndim != 2:
            raise ProbeError(
                "A target per run has no token places to give labels to; say what a probe could go by: kinds=, one per "
                "run (the prompt, the size of the maze ...)."
            )
        kinds = np.arange(values.shape[1])
    given = np.asarray(kinds)
    if given.shape not in (values.shape, values.shape[1:]) or given.ndim == 0:
        raise ProbeError(f"kinds= needs one for each token or each row; got {given.shape} for a target {values.shape}.")
    _, code = np.unique(given, return_inverse=True)
    code = np.broadcast_to(code.reshape(given.shape), values.shape)
    count = int(code.max()) + 1
    if count < 2:
        raise ProbeError("There is one kind of row only, so every control label would be the same.")
    applies = is_known(values)
    # One draw a kind, spread evenly over the target's values so that few kinds keep its frequencies too.
    ordered = np.sort(values[applies])
    if not len(ordered) or ordered[0] == ordered[-1]:
        raise ProbeError("The target does not vary, so neither would a control task's labels.")
    drawn = ordered[((np.arange(count) + 0.5) / count * len(ordered)).astype(np.int64)]
    if drawn[0] == drawn[-1]:  # other labels are rarer than one kind in `count`: a task of one label is none
        others, rows = np.unique(ordered[ordered != drawn[0]], return_counts=True)
        drawn[0] = others[rows.argmax()]
    out = np.random.default_rng(seed).permutation(drawn)[code]
    none: Any = np.nan if values.dtype.kind == "f" else None
    return out if applies.all() else np.where(applies, out, none)


def control_labels(data: Source, plan: Plan, count: int, *, kinds: Any = None, seed: int = 0) -> NDArray[np.float64]:
    """Labels [row, control task] for the rows of a grid; none where nothing is known of kinds of rows.

    Args:
        data, plan: of the grid.
        count: how many tasks.
        kinds: per run or row; the token's place if None.
        seed: of the first task.

    Raises:
        ProbeError: a negative number, or kinds that do not fit.
    """
    if count < 0:
        raise ProbeError(f"controls={count}: need 0 or more.")
    if kinds is not None:
        by = data.per_row(np.asarray(kinds), "kinds")
    elif data.tokens is not None and data.tokens > 1:
        by = np.flatnonzero(data.keep) % data.tokens
    else:
        count, by = 0, data.group
    drawn = [control_target(plan.y, kinds=by, seed=seed + i) for i in range(count)]
    return np.stack(drawn, axis=1) if drawn else plan.y[:, None][:, :0]
