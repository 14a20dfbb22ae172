"""Claims as rows of a page: number and interval, what they are compared with, the verdict, and the rule of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from studies.base.claim import NOT, OPEN, SHOWS
from studies.base.signs import SPACE
from studies.base.words import interval, sentence
from studies.drawing.report import Noted

READING = (
    "Verdicts are about this model and these problems; figures of the paper are of another model and of other "
    "problems. Below each number stands its 95 % interval. Chance or bar: what the number would be if the claim were "
    'false, or the bar that the claim sets itself (as in "over 80%"). Placebo: the same number where something was '
    "done that should not matter. n: independent units behind the interval, problems as a rule."
)
RULES = "Each verdict follows from its numbers by the rule below the claim."
SIGNS = {SHOWS: "\u25cf", NOT: "\u25cb", OPEN: "\u25d0"}
"""A disc for each verdict: full, empty, half."""


def claim_row(claim: Mapping[str, Any]) -> dict[str, Any]:
    """One row of a table, from a row of `studies.base.claim.Claim`; numbers may be None, and the rule be left out."""
    value, low, high = (math.nan if claim[name] is None else claim[name] for name in ("value", "low", "high"))
    return {
        "claim": Noted(sentence(claim["claim"]), claim.get("rule", "")),
        "paper": claim["paper"],
        "this model": Noted(*interval(value, low, high)),
        "chance or bar": claim["chance"],
        "placebo": claim["placebo"],
        "n": claim["n"],
        "verdict": f"{SIGNS[claim['verdict']]}{SPACE}{claim['verdict']}",
    }


def counted(verdicts: Sequence[str]) -> str:
    """How many there are of each verdict.

    >>> counted([SHOWS, SHOWS, OPEN])
    '2 show, 0 do not show, 1 cannot be told at this size'
    """
    said = {SHOWS: "show", NOT: "do not show", OPEN: "cannot be told at this size"}
    return ", ".join(f"{list(verdicts).count(verdict)} {words}" for verdict, words in said.items())
