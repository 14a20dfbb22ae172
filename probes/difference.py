"""How far apart two scores are, and how well that is known.

Both scores are taken to be normal on a scale without ends (`probes.spread`), and to vary together as paired resamples
and pairs of folds show. What a reach allows is then an ellipse of pairs of scores there, and the interval of the
difference goes from the least to the largest difference in it: a profile likelihood interval (Venzon and Moolgavkar
1988, "A method for computing profile-likelihood-based confidence intervals"; the likelihood is taken as quadratic).
It excludes 0 where the difference on that scale is further from 0 than the reach, so tests and intervals agree.

Rows that two grids get right and wrong alike show no difference between them, though new groups may: of such a pair,
one row counts as if it did differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student

from probes.score import Metric, between_folds
from probes.spread import Spread, doubt_of

Floats = NDArray[np.float64]

ANGLES = np.linspace(0, 2 * np.pi, 720, endpoint=False)[:, None]
"""Where an ellipse is looked at: its ends are found to 1e-5 of its size."""


@dataclass(frozen=True)
class Difference:
    """Scores of two grids, in the same cells.

    Attributes:
        a, b: how each scatters.
        score: [cell] a's score less b's.
        correlation: [cell] of both, on the scale without ends.
        error: [cell] standard deviation of the difference there.
        freedom: [cell] degrees of freedom that it is known by (Welch and Satterthwaite's).
    """

    a: Spread
    b: Spread
    score: Floats
    correlation: Floats
    error: Floats
    freedom: Floats

    @staticmethod
    def of(
        sums: tuple[Floats, Floats],
        effects: tuple[Floats, Floats],
        draws: tuple[Floats, Floats],
        score: Metric,
        *,
        paired: bool,
    ) -> Difference:
        """Of each grid's group sums [cell, group, statistic], what folds do for each other [cell, fold, fold], and how
        often groups are drawn [resample, group]; ``paired``: groups, folds and draws are the same."""
        a, b = (Spread.of(*side, score) for side in zip(sums, effects, draws, strict=True))
        of_a, of_b = a.own + a.between, b.own + b.between
        if paired:
            own, between = _together(a, b, effects, score)
            groups, folds = sums[0].shape[1], effects[0].shape[-1]
            doubt = doubt_of(own, between, groups, folds)
            varied = own + between
        else:
            varied, doubt = of_a + of_b, of_a**2 / a.freedom + of_b**2 / b.freedom
        freedom = np.divide(varied**2, doubt, out=np.full_like(doubt, np.inf), where=doubt > 0)
        product = np.sqrt(of_a * of_b)
        common = np.divide((of_a + of_b - varied) / 2, product, out=np.zeros_like(product), where=product > 0)
        common = np.clip(common, -1, 1)
        error = np.sqrt(np.maximum(of_a + of_b - 2 * common * product, 0))
        points = [score.from_sums(s.sum(axis=1)) for s in sums]
        return Difference(a, b, points[0] - points[1], common, error, freedom)

    def reach(self) -> Floats:
        """How far 0 is from the difference [cell], in standard deviations of a normal that are as unlikely."""
        apart = self.a.at - self.b.at
        away = np.divide(np.abs(apart), self.error, out=np.where(apart == 0, 0.0, np.inf), where=self.error > 0)
        found = norm.isf(student.sf(away, self.freedom))
        # Scores that were given a fault (`Spread`) may lie the other way about: nothing is known of such a pair.
        return np.asarray(np.where(apart * self.score > 0, found, 0.0))

    def bounds(self, reach: float) -> tuple[Floats, Floats]:
        """Low and high [cell] of the difference, as far as ``reach`` standard deviations of a normal are unlikely."""
        radius = student.isf(norm.sf(reach), self.freedom)
        other = self.correlation * np.cos(ANGLES) + np.sqrt(1 - self.correlation**2) * np.sin(ANGLES)
        at_a = self.a.at + radius * np.sqrt(self.a.own + self.a.between) * np.cos(ANGLES)
        at_b = self.b.at + radius * np.sqrt(self.b.own + self.b.between) * other
        found = self.a.scores(at_a) - self.b.scores(at_b)
        low, high = np.minimum(found.min(axis=0), self.score), np.maximum(found.max(axis=0), self.score)
        clear = self.reach() > reach
        return np.where(clear, low, np.minimum(low, 0)), np.where(clear, high, np.maximum(high, 0))

    def largest(self) -> Floats:
        """The largest deviation [resample] of any cell's difference, in its own standard deviations. Cells that do not
        vary count as exact."""
        draws = self.a.draws - self.b.draws
        own = draws.std(axis=0, ddof=1)
        away = np.abs(draws - (self.a.at - self.b.at))
        return np.asarray(np.divide(away, own, out=np.zeros_like(away), where=own > 0).max(axis=1))


def _together(a: Spread, b: Spread, effects: tuple[Floats, Floats], score: Metric) -> tuple[Floats, Floats]:
    """Variance [cell] of a paired difference, by resampled groups and by what folds have in common. Of shares that
    never differ, one row counts as if it did."""
    draws = [side.draws - side.draws.mean(axis=0) for side in (a, b)]
    size = np.sqrt((draws[0] ** 2).sum(axis=0) * (draws[1] ** 2).sum(axis=0))
    alike = np.divide((draws[0] * draws[1]).sum(axis=0), size, out=np.zeros_like(size), where=size > 0)
    own = a.own + b.own - 2 * alike * np.sqrt(a.own * b.own)
    first, second = (e * side.eased[:, None, None] for e, side in zip(effects, (a, b), strict=True))
    least = 4 * a.end * a.slope * b.end * b.slope if score.classification else 0.0
    return np.maximum(own, least), between_folds(first - second)
