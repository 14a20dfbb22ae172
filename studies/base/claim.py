"""Claims: a number with its interval, what it is compared with, and a verdict that follows by a stated rule.

There are three verdicts. They are about this model and this many problems, never about the paper's model.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from interp.errors import InterpError
from interp.intervals import cluster_mean

SHOWS = "shows"
NOT = "does not show"
OPEN = "cannot tell at this size"
VERDICTS = (SHOWS, NOT, OPEN)


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval and how many independent units (problems, as a rule) stand behind it."""

    value: float
    low: float
    high: float
    n: int

    @staticmethod
    def of(values: np.ndarray, groups: np.ndarray, ends: tuple[float, float] | None = None) -> Estimate:
        """Mean with a bootstrap interval over groups.

        Args:
            values: [row]; those that are not finite do not count.
            groups: [row], what is drawn together: problems, as a rule.
            ends: of the scale, see `interp.intervals.cluster_mean`.
        """
        known = np.isfinite(values)
        if not known.any():
            return Estimate(float("nan"), float("nan"), float("nan"), 0)
        mean, low, high = cluster_mean(values[known][:, None], groups[known], ends=ends)
        return Estimate(float(mean[0]), float(low[0]), float(high[0]), len(set(groups[known])))

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f}, n = {self.n})"


@dataclass(frozen=True)
class Claim:
    """One claim, its number here and whether it shows.

    Attributes:
        claim: in one sentence.
        paper: what was published, or None where the paper gives no figure.
        value, low, high: the number and its 95 % interval.
        chance: what the number would be if the claim were false, or the bar that the claim sets itself ("over 80 %").
        placebo: the same number for a manipulation that should do nothing; None where there is none.
        n: independent units behind the interval.
        verdict: one of `VERDICTS`.
        rule: how the verdict follows from the numbers.
    """

    claim: str
    paper: str | None
    value: float
    low: float
    high: float
    chance: float
    placebo: float | None
    n: int
    verdict: str
    rule: str

    def row(self) -> dict[str, Any]:
        """For ``summary.json``."""
        return asdict(self)


def above(
    claim: str,
    estimate: Estimate,
    reference: float,
    *,
    matters: float,
    paper: str | None = None,
    placebo: float | None = None,
    measure: str = "the number",
) -> Claim:
    """A claim that a number is greater than a reference.

    It shows when the whole interval lies above the reference, and above the placebo if there is one. It does not show
    when the interval rules out an excess that would matter. Otherwise these runs cannot tell.

    Args:
        claim: in one sentence.
        estimate: the number.
        reference: what it would be if the claim were false.
        matters: the smallest excess over the reference that would matter, in the number's own unit.
        paper: the published figure.
        placebo: see `Claim`.
        measure: what the number is, for the rule.

    Raises:
        InterpError: ``matters`` is not positive.
    """
    if not matters > 0:
        raise InterpError(f"matters={matters} is the smallest excess that counts; give a number above 0")
    bar = reference if placebo is None else max(reference, placebo)
    if estimate.low > bar:
        verdict = SHOWS
    elif estimate.high < reference + matters:
        verdict = NOT
    else:
        verdict = OPEN
    also = "" if placebo is None else " and above the placebo"
    rule = (
        f"{SHOWS}: the interval of {measure} lies above {reference:g}{also}; {NOT}: it lies below "
        f"{reference + matters:g}; otherwise {OPEN}"
    )
    return Claim(
        claim, paper, estimate.value, estimate.low, estimate.high, reference, placebo, estimate.n, verdict, rule
    )


def exceeds(
    claim: str,
    later: Estimate,
    earlier: Estimate,
    *,
    chance: float,
    paper: str | None = None,
    placebo: float | None = None,
    names: tuple[str, str] = ("the first number", "the second"),
) -> Claim:
    """A claim that one number is greater than another, and than chance, from their two intervals.

    It shows when its whole interval lies above the other's and above chance. It does not show when the number itself
    is not greater than the other. Intervals that overlap cannot tell. (Paired differences, where there are pairs, say
    more: use `above` with them.)

    Args:
        claim: in one sentence.
        later: the number claimed to be greater; the claim's value.
        earlier: the other.
        chance: see `Claim`.
        paper, placebo: see `Claim`.
        names: of the two numbers, for the rule.
    """
    bar = max([earlier.high] + [c for c in (chance,) if c == c])
    if later.low > bar:
        verdict = SHOWS
    elif later.value <= earlier.value:
        verdict = NOT
    else:
        verdict = OPEN
    rule = (
        f"{SHOWS}: the interval of {names[0]} lies above that of {names[1]} and above chance; {NOT}: "
        f"{names[0]} is not greater than {names[1]}; otherwise {OPEN}"
    )
    return Claim(claim, paper, later.value, later.low, later.high, chance, placebo, later.n, verdict, rule)


def between(
    claim: str,
    estimate: Estimate,
    low: float,
    high: float,
    *,
    paper: str | None = None,
    chance: float = float("nan"),
    measure: str = "the number",
) -> Claim:
    """A claim that a number lies within bounds, such as those around a published one.

    It shows when the whole interval lies within them, and does not show when it lies outside. Otherwise these runs
    cannot tell.

    Args:
        claim: in one sentence.
        estimate: the number.
        low, high: the bounds.
        paper, chance: see `Claim`.
        measure: what the number is, for the rule.
    """
    if low <= estimate.low and estimate.high <= high:
        verdict = SHOWS
    elif estimate.high < low or estimate.low > high:
        verdict = NOT
    else:
        verdict = OPEN
    rule = f"{SHOWS}: the interval of {measure} lies within {low:g} to {high:g}; {NOT}: outside; otherwise {OPEN}"
    return Claim(claim, paper, estimate.value, estimate.low, estimate.high, chance, None, estimate.n, verdict, rule)
