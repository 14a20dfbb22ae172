"""What a capture will keep, said before anything runs, and refused with what would fit where it is too much."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from interp.address.resolution import size_text
from interp.errors import InterpError, SelectionError
from interp.views import ViewPlan, parse

SMALLER = (
    "attention_top-8",
    "attention_entropy",
    "attention_mass-frames-to-frames",
    "grid_pool-4x4",
    "grid_pool-2x2",
    "random_projection-64",
    "frame_mean",
    "token_mean",
    "norm",
)
"""Views offered where a capture is too large."""


@dataclass(frozen=True)
class Budget:
    """What a capture will keep.

    Attributes:
        runs: runs still to do.
        tensors: tensors per run of the largest kind.
        nbytes: bytes of all runs still to do, before metadata.
    """

    runs: int
    tensors: int
    nbytes: int

    @classmethod
    def of(cls, plans: Sequence[ViewPlan]) -> Budget:
        """Of runs, given the plan of each."""
        return cls(len(plans), max((plan.tensors for plan in plans), default=0), sum(plan.nbytes for plan in plans))

    def __str__(self) -> str:
        return f"{self.runs} run{'s' * (self.runs != 1)} x up to {self.tensors} tensors = {size_text(self.nbytes)}"


def within(limit: float, plans: Sequence[ViewPlan], dtype: str) -> Budget:
    """The budget of a capture to a store, given the plan of each run.

    Raises:
        InterpError: it is more than ``limit`` bytes; names the views that would fit.
    """
    budget = Budget.of(plans)
    if budget.nbytes > limit:
        raise InterpError(_too_much(budget, f"the limit of {size_text(limit)}", limit, plans, dtype, "raise limit="))
    return budget


def check_disk(to: Path, plans: Sequence[ViewPlan], dtype: str) -> None:
    """Whether a capture to a folder can be kept there, given the plan of each run.

    Raises:
        InterpError: the disk has less space; names the views that would fit.
    """
    budget = Budget.of(plans)
    there = next(folder for folder in (to, *to.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    if budget.nbytes > free:
        said = f"the {size_text(free)} that are free on the disk of {to}"
        raise InterpError(_too_much(budget, said, free, plans, dtype, "free some space"))


def check_memory(plans: Sequence[ViewPlan], dtype: str) -> None:
    """Whether a capture to memory can be kept there, given the plan of each run.

    Raises:
        InterpError: the machine has less; names the views that would fit.
    """
    budget, limit = Budget.of(plans), memory()
    if budget.nbytes > limit:
        there = f"the {size_text(limit)} of memory there are"
        raise InterpError(_too_much(budget, there, limit, plans, dtype, "write to a disk with lab.capture(..., to=)"))


def memory() -> int:
    """Bytes of memory in this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _too_much(budget: Budget, there: str, limit: float, plans: Sequence[ViewPlan], dtype: str, remedy: str) -> str:
    return (
        f"this capture would keep {budget}, more than {there}; {_that_fit(limit, plans, dtype)}select fewer steps, "
        f"layers or tokens (frames=-1 keeps the last latent frame), or {remedy}"
    )


def _that_fit(limit: float, plans: Sequence[ViewPlan], dtype: str) -> str:
    """Views that every selected hook point has and that would stay within the limit, as part of a sentence."""
    kinds, counts, found = {id(plan): plan for plan in plans}, Counter(map(id, plans)), []
    for name in SMALLER:
        try:
            smaller = {kind: ViewPlan.of(plan.resolution, [parse(name)], dtype) for kind, plan in kinds.items()}
        except SelectionError:
            continue
        nbytes = sum(plan.nbytes * counts[kind] for kind, plan in smaller.items())
        if nbytes <= limit:
            found.append(f'"{name}" ({size_text(nbytes)})')
    return f"views=[...] with one of these would fit: {', '.join(found)}; or " if found else ""
