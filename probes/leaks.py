"""Leaks that the data itself shows: one run under two names, and the target among the features.

Neither can be seen from groups or folds. Both give a perfect score that means nothing, so both are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probes.errors import LeakageError, ProbeError
from probes.plan import Plan
from probes.space import check_finite


class Watch:
    """Looks at cells one after the other. Runs are compared in the first cell that tells any two of them apart.

    Args:
        plan: of the cells.
        run: number of the run of each row [row]. None: features may be the target, and runs the same (a baseline shows
            what was given).
    """

    def __init__(self, plan: Plan, run: NDArray[np.int64] | None) -> None:
        self.plan, self.run = plan, run
        self.twins = run is not None

    def see(self, x: Float[Tensor, "row ..."]) -> None:
        """Take a cell's features.

        Raises:
            LeakageError: one of them is the target, or a run is there under two names.
            ProbeError: they are not finite.
        """
        flat = x.flatten(1)
        check_finite(flat)
        if self.run is None:
            return
        check_target(flat, self.plan.y, len(self.plan.classes))
        if self.twins:
            self.twins = not check_twins(flat, self.run, self.plan.folds.group)


@contextmanager
def named(name: str) -> Iterator[None]:
    """What goes wrong is said with the name of the cell."""
    try:
        yield
    except ProbeError as error:
        raise type(error)(f"{name}: {error}") from error


def check_target(x: Float[Tensor, "row feature"], y: NDArray[np.float64], classes: int) -> None:
    """Refuse features of which one is the target: the same value throughout each class and another in each, or the
    target's values times a factor.

    Raises:
        LeakageError: says which feature.
    """
    target = torch.from_numpy(y).to(x.device)
    low, high = x.amin(dim=0), x.amax(dim=0)
    varies = high > low
    if classes:
        parts = [x[target == k] for k in range(classes)]
        parts = [part for part in parts if len(part)]
        within = torch.stack([part.amax(dim=0) - part.amin(dim=0) for part in parts]).amax(dim=0)
        values = torch.stack([part[0] for part in parts]).sort(dim=0).values
        same = varies & (within == 0) & (values.diff(dim=0) > 0).all(dim=0)
    else:
        centred, values = x - x.mean(dim=0), (target - target.mean()).to(x.dtype)
        slope = values @ centred / (values @ values)
        left = (centred - values[:, None] * slope).abs().amax(dim=0)
        same = varies & (left <= 1e-5 * (high - low))
    if bool(same.any()):
        raise LeakageError(
            f"Feature {int(same.nonzero()[0])} of {x.shape[1]} is the target itself: it has one value for each of the "
            "target's. Leave it out of the features, or name another target."
        )


def check_twins(x: Float[Tensor, "row feature"], run: NDArray[np.int64], group: NDArray[np.int64]) -> bool:
    """Refuse a run whose features are, to the bit, those of a run in another group: one run under two names.

    Returns whether runs differ at all; where all are alike (features that do not depend on the sample) nothing can be
    said.

    Raises:
        LeakageError: names two such runs.
    """
    first = np.flatnonzero(np.r_[True, run[1:] != run[:-1]])
    marks = _marks(x, np.diff(np.r_[first, len(run)]))
    _, code, counts = np.unique(marks, return_inverse=True, return_counts=True)
    if len(counts) == 1:
        return False
    for twin in np.flatnonzero(counts > 1):
        members = first[code == twin]
        other = members[group[members] != group[members[0]]]
        if len(other):
            a, b = int(members[0]), int(other[0])
            raise LeakageError(
                f"Runs {run[a]} and {run[b]} have the same features to the bit but lie in different groups: one run "
                "under two names, or two stores that hold it. Leave one out, or give both the same key in groups=."
            )
    return True


def _marks(x: Float[Tensor, "row feature"], sizes: NDArray[np.int64]) -> list[str]:
    """A digest of each run's rows."""
    import hashlib

    values = np.ascontiguousarray(x.detach().cpu().numpy())
    parts = np.split(values, np.cumsum(sizes)[:-1])
    return [hashlib.blake2b(part.tobytes(), digest_size=12).hexdigest() for part in parts]
