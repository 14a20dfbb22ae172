"""Scores as sums over groups, so that one matrix product bootstraps a whole grid. Intervals are `probes.spread`'s.

Each metric is a function of per-group sums (rows right and rows in all, per class; or sums of squares). Groups are the
unit of resampling: rows of one group are not independent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probes.errors import ProbeError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """A score computed from sums [..., statistic] over groups; higher is better."""

    name: str
    label: str
    classification: bool
    from_sums: Callable[[Floats], Floats]


def _accuracy(sums: Floats) -> Floats:
    right, rows = np.split(sums, 2, axis=-1)
    total = rows.sum(axis=-1)
    return np.divide(right.sum(axis=-1), total, out=np.full(total.shape, np.nan), where=total > 0)


def _balanced(sums: Floats) -> Floats:
    """Mean over classes of the share of the class found; a resample without some class averages over the others."""
    right, rows = np.split(sums, 2, axis=-1)
    recall = np.divide(right, rows, out=np.zeros(rows.shape), where=rows > 0)
    present = (rows > 0).sum(axis=-1)
    return np.divide(recall.sum(axis=-1), present, out=np.full(present.shape, np.nan), where=present > 0)


def _r2(sums: Floats) -> Floats:
    rows, y, yy, squared = np.moveaxis(sums, -1, 0)
    spread = yy - np.divide(y**2, rows, out=np.zeros(rows.shape), where=rows > 0)
    return 1 - np.divide(
        squared, spread, out=np.full(rows.shape, np.nan), where=spread > 1e-12 * np.maximum(yy, 1e-300)
    )


METRICS = {
    m.name: m
    for m in (
        Metric("accuracy", "accuracy", True, _accuracy),
        Metric("balanced_accuracy", "balanced accuracy", True, _balanced),
        Metric("r2", "R²", False, _r2),
    )
}


def metric(name: str, classification: bool) -> Metric:
    """The metric of that name, if it fits the kind of target."""
    fitting = [m.name for m in METRICS.values() if m.classification == classification]
    if name not in fitting:
        kind = "classes" if classification else "values"
        raise ProbeError(f"score={name!r} does not fit a target of {kind}; use {' or '.join(map(repr, fitting))}.")
    return METRICS[name]


def class_sums(
    predicted: NDArray[np.int64], labels: NDArray[np.int64], group: NDArray[np.int64], classes: int
) -> Floats:
    """Rows right and rows in all by class: [group, 2 * class]. Per-row ``labels`` and ``predicted``: [row]."""
    groups = int(group.max()) + 1
    cell = group * classes + labels
    right = np.bincount(cell, weights=(predicted == labels).astype(np.float64), minlength=groups * classes)
    rows = np.bincount(cell, minlength=groups * classes).astype(np.float64)
    return np.concatenate([right.reshape(groups, classes), rows.reshape(groups, classes)], axis=1)


def value_sums(predicted: Floats, values: Floats, group: NDArray[np.int64]) -> Floats:
    """Rows, sum of y, sum of y^2 and squared error: [group, 4]. Values are centred first: R2 does not change."""
    groups = int(group.max()) + 1
    y = values - values.mean()
    error = (values - predicted) ** 2
    parts = [np.ones_like(y), y, y**2, error]
    return np.stack([np.bincount(group, weights=part, minlength=groups) for part in parts], axis=1)


def shuffled_scores(predicted: NDArray[np.float64], labels: NDArray[np.float64], score: Metric, classes: int) -> Floats:
    """Scores [shuffle] of predictions [row, shuffle] against their own shuffled labels [row, shuffle]."""
    if score.classification:
        right = predicted == labels
        sums = [((right & (labels == k)).sum(axis=0), (labels == k).sum(axis=0)) for k in range(classes)]
        return score.from_sums(
            np.concatenate([np.stack([s[0] for s in sums], -1), np.stack([s[1] for s in sums], -1)], -1).astype(float)
        )
    y = labels - labels.mean(axis=0)
    parts = [
        np.full(labels.shape[1], float(len(labels))),
        y.sum(axis=0),
        (y**2).sum(axis=0),
        ((labels - predicted) ** 2).sum(axis=0),
    ]
    return score.from_sums(np.stack(parts, axis=-1))


def resample(groups: int, count: int, seed: int) -> Floats:
    """How often each group is drawn: [resample, group], with replacement, as many as there are. The same for every
    cell."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(groups, np.full(groups, 1 / groups), size=count).astype(np.float64)


def bootstrap(sums: Floats, draws: Floats, score: Metric) -> Floats:
    """Scores [resample, cell] of group sums [cell, group, statistic].

    Where no row is wrong, no resample holds a wrong one, though new groups may. Such a cell counts as if one row were
    wrong, and one with no row right as if one were: about what the rule of three says of so many rows.
    """
    cells, groups, stats = sums.shape
    sums = with_a_fault(sums) if score.classification else sums
    flat = np.ascontiguousarray(np.moveaxis(sums, 1, 0)).reshape(groups, cells * stats)
    return score.from_sums((draws @ flat).reshape(len(draws), cells, stats))


def with_a_fault(sums: Floats) -> Floats:
    """Sums of classes, with one row turned in cells where all are right or all are wrong: of the commonest class, in
    the group that holds most of it."""
    right, rows = np.split(sums, 2, axis=-1)
    share = right.sum(axis=(1, 2)) / np.maximum(rows.sum(axis=(1, 2)), 1)
    even = np.flatnonzero((share == 0) | (share == 1))
    if not len(even):
        return sums
    out = sums.copy()
    for cell in even:
        kind = int(rows[cell].sum(axis=0).argmax())
        out[cell, int(rows[cell, :, kind].argmax()), kind] += 1 - 2 * share[cell]
    return out


def fold_effects(by_fold: Floats, paired: Floats, score: Metric) -> Floats:
    """What each fold's rows, in training, do for the score of each other fold: [tested fold, training fold], in units
    of the whole score; 0 on the diagonal.

    Args:
        by_fold: sums [fold, statistic] of out-of-fold predictions.
        paired: [tested, left out, statistic]: what takes the place of the last statistics of ``by_fold`` (rows right by
            class, the first ones; or the squared error, the last) where the probe leaves out a second fold. Empty:
            there are no such probes (fewer than three folds), and effects are 0.
        score: the metric.
    """
    k = len(by_fold)
    if paired.size == 0:
        return np.zeros((k, k))
    count = paired.shape[2]
    at = slice(0, count) if score.classification else slice(-count, None)
    whole = by_fold.sum(axis=0)
    others = np.broadcast_to(whole, (k, k, len(whole))).copy()
    others[..., at] += paired - by_fold[:, None, at]
    effects = score.from_sums(whole[None, None]) - score.from_sums(others)
    return np.asarray(np.where(np.eye(k, dtype=bool), 0.0, effects))


def between_folds(effects: Floats) -> Floats:
    """Variance [cell] of the score that folds have in common, of effects [cell, fold, fold]; at least 0."""
    common = (effects * np.swapaxes(effects, -1, -2)).sum(axis=(-2, -1))  # every pair of folds twice
    return np.asarray(np.maximum(common, 0.0))


def auc(decision: Floats, labels: NDArray[np.int64], fold: NDArray[np.int64], classes: int) -> float:
    """Area under the ROC curve within folds, pooled by number of pairs (decision values of two folds are not on one
    scale).

    ``decision`` [row, output]. With more than two classes: mean over classes of one against the rest.
    """
    from scipy.stats import rankdata

    outputs = decision.shape[1]
    areas = []
    for k in range(outputs):
        positive = labels == (1 if outputs == 1 else k)
        won = pairs = 0.0
        for f in np.unique(fold):
            rows = fold == f
            p = positive[rows]
            a, b = int(p.sum()), int((~p).sum())
            if a and b:
                ranks = rankdata(decision[rows, k])
                won += ranks[p].sum() - a * (a + 1) / 2
                pairs += a * b
        if pairs:
            areas.append(won / pairs)
    return float(np.mean(areas)) if areas else float("nan")
