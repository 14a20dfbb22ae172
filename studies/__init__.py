"""Studies: scripts that ask one question each and leave tables, figures and a report."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from studies.frame.study import Study

NAMES = (
    "decodability",
    "chain_of_steps",
    "noise",
    "propagation",
    "layers",
    "swap",
    "ensemble",
    "frames",
    "distilled",
    "early_plan",
    "self_correction",
    "memory",
    "perception_before_action",
    "blog_claims",
)


def study_named(name: str) -> Study:
    """The study of that name, one of `NAMES`."""
    found: Study = importlib.import_module(f"studies.{name}").STUDY
    return found


__all__ = ["NAMES", "study_named"]
