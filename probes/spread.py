"""What an interval covers, and how far it reaches.

*What the interval is of:* the score that the fitted probes, one a fold, would get on new groups, mean over folds (the
"k-fold test error" of Bayle et al. 2020, "Cross-validation confidence intervals for test error"). It is not the score
of probes fitted to other samples, which varies by more.

*How it is made:* where probes hardly depend on single groups, the score varies as a mean over independent groups
does, and resampling groups shows how much (Bayle et al., theorems 1 and 4). Probes of noise are not like that: rows of
fold b make the probe that tests fold a, and the other way about, so that the folds' scores rise and fall together, and
at chance their mean varies by twice as much as resampling shows. In Hoeffding's terms, with S_a the score of fold a
less what its probe would get on new groups, ``S_a = f(Z_a) + h(Z_a, Z_b) + ...``: h is what the pair of folds has in
common, with mean 0 given either of them. Resampling gives the variance of each S_a, and misses ``2 sum_(a<b)
cov(S_a, S_b) = 2 sum_(a<b) E h(Z_a, Z_b) h(Z_b, Z_a)``. It shows in probes that leave out two folds, which the choice
of regularisation fits anyway (and nested cross-validation, Bates et al. 2021, needs): what b's rows do for the score
of a, times what a's rows do for the score of b (`fold_effects`, `between_folds`). The product also holds the square of
what any rows of that number would do, which is small and makes intervals wider.

*Near the ends:* shares of 0.98 scatter unevenly, and a score of 1 not at all, though new groups may hold wrong rows.
Bounds of shares are therefore made on the scale of log odds, and a cell without a fault counts as if one row were
wrong (`Spread`). Percentiles of resamples held the truth in 85 of 100 repetitions at a score of 0.985.

What groups show is moved to that scale by its slope at the score p, 1 / (p (1 - p)), since it comes from the same rows
and falls to 0 with 1 - p. What folds have in common, of standard deviation s, does not: probes that leave out two folds
may err where those that leave out one do not, and the slope grows without bound as p nears 1 (with one row of 240 wrong
it is 240). It is therefore moved by the slope where it makes the score likely to be: at p - s, or p + s below one half.
Near 1 that gives s / (1 - p + s), at most about 1: the odds of a fault may be e times what they look, for each such
deviation. Where s is small beside 1 - p, nothing changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import norm
from scipy.stats import t as student

from probes.score import Metric, between_folds, bootstrap, with_a_fault

Floats = NDArray[np.float64]


def interval(
    sums: Floats, effects: Floats, draws: Floats, score: Metric, level: float
) -> tuple[Floats, Floats, Floats]:
    """Score [cell] of group sums [cell, group, statistic], and its bounds; the method is in the module's docstring.

    Of shares: t bounds on the scale of log odds. Of R²: percentiles of resampled groups, each as far again from the
    score as few groups ask for (a bootstrap of G groups has (G - 1) / G of the variance, and knows it no better than
    G - 1 degrees of freedom do), and then, squares added, as far as what folds have in common (``effects``
    [cell, fold, fold]) moves it.
    """
    groups, tail = sums.shape[1], (1 - level) / 2
    point = score.from_sums(sums.sum(axis=1))
    if score.classification:
        spread = Spread.of(sums, effects, draws, score)
        low, high = spread.bounds(float(norm.ppf(1 - tail)))
        return point, np.minimum(low, point), np.maximum(high, point)
    low, high = np.nanquantile(bootstrap(sums, draws, score), [tail, 1 - tail], axis=0)
    if groups > 1:
        reach = float(student.ppf(1 - tail, groups - 1))
        wider = reach / norm.ppf(1 - tail) * np.sqrt(groups / (groups - 1))
        more = reach**2 * between_folds(effects)
        low = point - np.sqrt((wider * (point - low)) ** 2 + more)
        high = point + np.sqrt((wider * (high - point)) ** 2 + more)
    return point, low, high


@dataclass(frozen=True)
class Spread:
    """How scores scatter, on a scale without ends: log odds of shares, -log(1 - R²) of R².

    Attributes:
        at: [cell] the score there.
        slope: [cell] of that scale, at the score.
        eased: [cell] the slope nearer to the middle, by as much as folds move the score (see the module).
        draws: [resample, cell] of the score, there.
        own: [cell] variance by resampled groups.
        between: [cell] variance that folds have in common.
        freedom: [cell] degrees of freedom that the sum of both is known by (Welch and Satterthwaite's).
        share: of which scale.
        end: [cell] how near to the ends of theirs shares may come: half a row.
    """

    at: Floats
    slope: Floats
    eased: Floats
    draws: Floats
    own: Floats
    between: Floats
    freedom: Floats
    share: bool
    end: Floats

    @staticmethod
    def of(sums: Floats, effects: Floats, draws: Floats, score: Metric) -> Spread:
        """Of group sums [cell, group, statistic], what folds do for each other [cell, fold, fold], and how often groups
        are drawn [resample, group]."""
        groups, folds, share = sums.shape[1], effects.shape[-1], score.classification
        rows = sums[..., sums.shape[2] // 2 :].sum(axis=(1, 2)) if share else sums[..., 0].sum(axis=1)
        end = 0.5 / np.maximum(rows, 1)
        fair = score.from_sums((with_a_fault(sums) if share else sums).sum(axis=1))
        at, slope = _opened(fair, end, share)
        drawn = bootstrap(sums, draws, score)
        own = np.nanvar(drawn, axis=0, ddof=1) * slope**2 * groups / max(groups - 1, 1)
        drawn, _ = _opened(drawn, end, share)
        drawn = np.where(np.isnan(drawn), at, drawn)  # a resample of one value has no R², and shows nothing
        between = between_folds(effects)
        _, eased = _opened(_inwards(fair, np.sqrt(between), share), end, share)
        between = between * eased**2
        doubt = doubt_of(own, between, groups, folds)
        freedom = np.divide((own + between) ** 2, doubt, out=np.full_like(own, np.inf), where=doubt > 0)
        return Spread(at, slope, eased, drawn, own, between, freedom, share, end)

    def bounds(self, reach: float) -> tuple[Floats, Floats]:
        """Low and high [cell], as far from the score as ``reach`` standard deviations of a normal are unlikely."""
        error = student.isf(norm.sf(reach), self.freedom) * np.sqrt(self.own + self.between)
        return self.scores(self.at - error), self.scores(self.at + error)

    def scores(self, there: Floats) -> Floats:
        """Scores [..., cell] of places on the scale without ends."""
        return np.asarray(expit(there) if self.share else 1 - np.exp(-there))

    def largest(self) -> Floats:
        """The largest deviation [resample] of any cell, in its own standard deviations. Cells that do not vary count as
        exact."""
        own = self.draws.std(axis=0, ddof=1)
        away = np.abs(self.draws - self.at)
        return np.asarray(np.divide(away, own, out=np.zeros_like(away), where=own > 0).max(axis=1))


def _opened(scores: Floats, end: Floats, share: bool) -> tuple[Floats, Floats]:
    """Scores on a scale without ends, and its slope there."""
    if not share:
        left = np.maximum(1 - scores, 1e-12)
        return -np.log(left), 1 / left
    inside = np.clip(scores, end, 1 - end)
    return logit(inside), 1 / (inside * (1 - inside))


def _inwards(scores: Floats, by: Floats, share: bool) -> Floats:
    """Scores so much nearer to the middle of their scale: to one half, or away from an R² of 1."""
    if not share:
        return scores - by
    return np.asarray(0.5 + np.sign(scores - 0.5) * np.maximum(np.abs(scores - 0.5) - by, 0))


def doubt_of(own: Floats, between: Floats, groups: int, folds: int) -> Floats:
    """How far off the sum of two variances [cell] may be, by groups and by pairs of folds: half its own variance, which
    over its square is one over the degrees of freedom (Welch and Satterthwaite's)."""
    return own**2 / max(groups - 1, 1) + between**2 / max(folds * (folds - 1) / 2, 1)
