"""A probe that predicts from early hidden states whether a run will be right, and its direction as a steering edit.

Probes are fitted on the runs of other problems only. The direction of a probe is that of its weights; it is added to
every token of its latent frame, sized as a share of the hidden states' own length. Placebo: a random direction of the
same size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from interp import RunSpec, edits
from interp.edits import EditGraph
from interp.grid import TokenGrid
from probes import LogisticProbe

FOLDS = 5


@dataclass(frozen=True)
class Guide:
    """What probes of one step say.

    Attributes:
        chances: by run: the chance of being right.
        directions: by run: [latent_frame, feature], of unit length over both; None where the other problems' runs were
            all right or all wrong.
        size: mean length of the frame means, over runs: what a direction is scaled by.
    """

    chances: Mapping[str, float]
    directions: Mapping[str, np.ndarray | None]
    size: float


def guide(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, runs: Sequence[str], seed: int) -> Guide:
    """Fit on some problems, and say of the others' runs; every run is spoken of once.

    Args:
        features: frame means of hidden states: [run, latent_frame, feature].
        labels: whether it ends right: int [run].
        groups: problem: [run].
        runs: keys: [run].
        seed: of the folds.
    """
    flat = features.reshape(len(runs), -1)
    chances = np.full(len(runs), float(labels.mean()))
    directions: dict[str, np.ndarray | None] = dict.fromkeys(runs)
    names = np.random.default_rng(seed).permutation(np.unique(groups))
    for part in np.array_split(names, min(FOLDS, len(names))):
        test = np.isin(groups, part)
        if not 0 < labels[~test].sum() < (~test).sum():
            continue
        probe = LogisticProbe(C=0.01).fit(flat[~test], labels[~test])
        chances[test] = probe.predict_proba(flat[test])[:, 1]
        towards = np.asarray(probe.coef_[0], dtype=np.float32)
        towards = towards / max(float(np.linalg.norm(towards)), 1e-12)
        directions |= {runs[k]: towards.reshape(features.shape[1:]) for k in map(int, np.flatnonzero(test))}
    said = dict(zip(runs, map(float, chances), strict=True))
    return Guide(said, directions, float(np.linalg.norm(flat, axis=1).mean()))


def steering(
    of: Guide, site: str, step: int, strength: float, grid: TokenGrid, *, placebo: int | None = None
) -> Callable[[Sequence[RunSpec]], EditGraph]:
    """From the runs of a batch to the edit that pushes each towards being right.

    Args:
        of: the probes.
        site: hook point that they read.
        step: at which they read it, and at which it is edited.
        strength: of the push, as a share of `Guide.size`.
        grid: of the videos.
        placebo: seed of random directions in place of the probes'; None for theirs.
    """

    def graph(batch: Sequence[RunSpec]) -> EditGraph:
        joined = EditGraph()
        for row, spec in enumerate(batch):
            towards = of.directions[spec.key]
            if towards is None:
                towards = np.zeros((grid.frames, 1), dtype=np.float32)
            elif placebo is not None:
                drawn = np.random.default_rng([placebo, spec.seed]).standard_normal(towards.shape)
                towards = (drawn / np.linalg.norm(drawn)).astype(np.float32)
            push = np.repeat(towards * strength * of.size, grid.rows * grid.cols, axis=0)
            joined = joined | edits.add(site, push, rows=row, step=step, branch="cond")
        return joined

    return graph
