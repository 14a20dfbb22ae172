"""Token energy by part of the picture: how far the foreground, or what the prompt names, stands out of the rest.

One number a run, step and layer, so that intervals are over problems; the same with the masks of other problems is the
placebo, since masks have places that they prefer and tokens at the border differ from those in the middle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import rankdata

from interp import Sample, TokenGrid
from interp.intervals import cluster_mean
from studies.base.claim import Estimate
from studies.measures.masks import foreground, named

KINDS = {
    "l2": "L2, log2 of the ratio",
    "robust": "median over channels, log2 of the ratio",
    "layer": "L2 per layer's mean",
}
PARTS = {
    "foreground": "objects of the first frame against the background",
    "named": "what the answer is about against the other candidates",
}
SHIFTS = 4
"""Other problems whose masks make the placebo of a run."""

Masks = tuple[np.ndarray, np.ndarray]  # bool [token] each


@dataclass(frozen=True)
class Contrasts:
    """Energy of a part against the rest.

    Attributes:
        layers: of the last axis; -1 is the embedded patches.
        problems: of each run.
        real: by (kind, part): [run, step, layer]; NaN for a run without the part.
        placebo: the same with the masks of other problems.
        agreement: rank correlation over tokens of L2 and median [run, step, layer].
    """

    layers: list[int]
    problems: np.ndarray
    real: dict[tuple[str, str], np.ndarray]
    placebo: dict[tuple[str, str], np.ndarray]
    agreement: np.ndarray

    @property
    def parts(self) -> list[str]:
        """Parts that some run has."""
        return [part for part in PARTS if np.isfinite(self.real["l2", part]).any()]

    def mean(self, kind: str, part: str, layers: Sequence[int], *, placebo: bool = False) -> Estimate:
        """Mean contrast over layers and all steps."""
        return Estimate.of(self._over(kind, part, layers, placebo), self.problems)

    def difference(
        self, kind: str, part: str, first: Sequence[int], second: Sequence[int], *, placebo: bool = False
    ) -> Estimate:
        """Mean over some layers less the mean over others, run by run."""
        one, other = (self._over(kind, part, layers, placebo) for layers in (first, second))
        return Estimate.of(one - other, self.problems)

    def alike(self, kind: str, part: str) -> Estimate:
        """Mean Pearson correlation of the profiles over layers between pairs of steps; NaN with one step or layer."""
        values = self.real[kind, part][:, :, [i for i, layer in enumerate(self.layers) if layer >= 0]]
        found = np.full(len(values), np.nan)
        pairs = np.triu_indices(values.shape[1], k=1)
        for run, profiles in enumerate(values):
            if len(pairs[0]) and profiles.shape[1] > 2 and np.isfinite(profiles).all() and profiles.std(1).min() > 0:
                found[run] = np.corrcoef(profiles)[pairs].mean()
        return Estimate.of(found, self.problems)

    def _over(self, kind: str, part: str, layers: Sequence[int], placebo: bool) -> np.ndarray:
        values = (self.placebo if placebo else self.real)[kind, part]
        chosen = values[:, :, [self.layers.index(layer) for layer in layers]]
        return np.asarray(chosen.mean((1, 2)) if len(layers) else np.full(len(values), np.nan))

    def table(self, sigmas: Sequence[float]) -> pl.DataFrame:
        """One row a measure, part, step and layer: columns of the study's table."""
        rows: list[dict[str, Any]] = []
        for (kind, part), values in self.real.items():
            if part in self.parts:
                rows += self._rows(f"energy_{kind}", part, values, self.placebo[kind, part], sigmas)
        rows += self._rows("agreement", None, self.agreement, None, sigmas)
        schema: dict[str, Any] = {"part": pl.String, "chance": pl.Float64, "placebo": pl.Float64}
        return pl.DataFrame(rows, schema_overrides=schema, infer_schema_length=None)

    def _rows(
        self, measure: str, part: str | None, values: np.ndarray, placebo: np.ndarray | None, sigmas: Sequence[float]
    ) -> list[dict[str, Any]]:
        runs, steps, layers = values.shape
        flat = values.reshape(runs, -1)
        kept = np.isfinite(flat).all(1)
        mean, low, high = cluster_mean(flat[kept], self.problems[kept])
        other = None if placebo is None else np.nanmean(placebo[kept], axis=0).reshape(-1)
        n = len(set(self.problems[kept]))
        return [
            {
                "measure": measure, "part": part, "source": "layer", "layer": self.layers[i % layers],
                "step": i // layers, "sigma": sigmas[i // layers], "value": float(mean[i]), "low": float(low[i]),
                "high": float(high[i]), "chance": None, "placebo": None if other is None else float(other[i]), "n": n,
            }
            for i in range(steps * layers)
        ]  # fmt: skip


def contrasts_of(
    task: Any, samples: Sequence[Sample], grid: TokenGrid, maps: Mapping[str, np.ndarray], layers: list[int]
) -> Contrasts:
    """Contrasts of every run, in the latent frames after the first, which is given to most models.

    Args:
        task: of the samples.
        samples: [run].
        grid: the token grid.
        maps: "l2" and "robust": energy [run, step, layer, token].
        layers: of the maps.
    """
    first = grid.rows * grid.cols if grid.frames > 1 else 0
    kept = {kind: values[..., first:].astype(np.float64) for kind, values in maps.items()}
    frames = max(grid.frames - 1, 1)
    masks = {part: [_masks(task, sample, grid, part, frames) for sample in samples] for part in PARTS}
    problems = np.array([sample.key for sample in samples])
    real, placebo = {}, {}
    for part, own in masks.items():
        others = [_borrowed(own, problems, run) for run in range(len(samples))]
        for kind in KINDS:
            values = kept["l2" if kind == "layer" else kind]
            real[kind, part] = np.stack([_contrast(kind, values[run], mask) for run, mask in enumerate(own)])
            placebo[kind, part] = np.stack(
                [np.mean([_contrast(kind, values[run], m) for m in of], axis=0) for run, of in enumerate(others)]
            )
    return Contrasts(layers, problems, real, placebo, _rank_correlation(kept["l2"], kept["robust"]))


def _masks(task: Any, sample: Sample, grid: TokenGrid, part: str, frames: int) -> Masks | None:
    if part == "named":
        found = named(sample, grid)
    else:
        mask = foreground(task, sample, grid)
        found = (mask, ~mask) if mask.any() and not mask.all() else None
    return None if found is None else (_repeated(found[0], frames), _repeated(found[1], frames))


def _repeated(mask: np.ndarray, frames: int) -> np.ndarray:
    return np.tile(mask.reshape(-1), frames)


def _borrowed(own: Sequence[Masks | None], problems: np.ndarray, run: int) -> list[Masks | None]:
    """Masks of the next other problems; nothing alone if there are none."""
    found: dict[str, Masks | None] = {}
    for shift in range(1, len(own)):
        k = (run + shift) % len(own)
        mask = own[k]
        if problems[k] != problems[run] and mask is not None:
            found.setdefault(str(problems[k]), mask)
        if len(found) == SHIFTS:
            break
    return list(found.values()) or [None]


def _contrast(kind: str, values: np.ndarray, masks: Masks | None) -> np.ndarray:
    """Of energies [step, layer, token]: [step, layer]."""
    if masks is None:
        return np.full(values.shape[:2], np.nan)
    part, rest = values[..., masks[0]].mean(-1), values[..., masks[1]].mean(-1)
    if kind == "layer":
        return np.asarray((part - rest) / values.mean(-1))
    return np.asarray(np.log2(np.maximum(part, 1e-12) / np.maximum(rest, 1e-12)))


def _rank_correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Spearman's, over the last axis."""
    x, y = (rankdata(values, axis=-1) for values in (one, other))
    x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    size = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    return np.asarray((x * y).sum(-1) / np.where(size > 0, size, np.nan))
