"""Verdicts follow from the numbers by the rule that is stated."""

from __future__ import annotations

import math

import pytest

from interp.errors import InterpError
from studies.base.claim import NOT, OPEN, SHOWS, VERDICTS, Estimate, above, between, exceeds


@pytest.mark.parametrize(
    ("low", "high", "placebo", "verdict"),
    [
        (0.01, 0.30, None, SHOWS),
        (0.01, 0.30, 0.02, OPEN),  # not clear of the placebo, and large effects are possible
        (-0.20, 0.04, None, NOT),
        (-0.20, 0.30, None, OPEN),
        (0.00, 0.30, None, OPEN),  # touching is not above
        (0.01, 0.02, None, SHOWS),  # small but certain
        (math.nan, math.nan, None, OPEN),
    ],
)
def test_above(low: float, high: float, placebo: float | None, verdict: str) -> None:
    found = above("c", Estimate((low + high) / 2, low, high, 9), 0.0, matters=0.05, placebo=placebo)
    assert found.verdict == verdict
    assert (found.low, found.high, found.n, found.chance, found.placebo) == pytest.approx(
        (low, high, 9, 0.0, placebo), nan_ok=True
    )
    assert all(word in found.rule for word in VERDICTS)


def test_exceeds() -> None:
    weak, strong, vague = Estimate(0.5, 0.45, 0.55, 9), Estimate(0.8, 0.7, 0.9, 9), Estimate(0.6, 0.4, 0.8, 9)
    assert exceeds("c", strong, weak, chance=0.5).verdict == SHOWS
    assert exceeds("c", strong, weak, chance=0.75).verdict == OPEN
    assert exceeds("c", vague, weak, chance=0.5).verdict == OPEN
    assert exceeds("c", weak, vague, chance=0.5).verdict == NOT
    assert exceeds("c", weak, weak, chance=0.5).verdict == NOT


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.25, 0.35, SHOWS), (0.2, 0.4, SHOWS), (0.1, 0.3, OPEN), (0.1, 0.9, OPEN), (0.5, 0.6, NOT), (0.0, 0.1, NOT)],
)
def test_between(low: float, high: float, verdict: str) -> None:
    found = between("c", Estimate((low + high) / 2, low, high, 9), 0.2, 0.4)
    assert found.verdict == verdict
    assert all(word in found.rule for word in VERDICTS)


def test_what_matters_has_to_be_said() -> None:
    with pytest.raises(InterpError, match="matters=0"):
        above("c", Estimate(1, 0, 2, 3), 0, matters=0)
