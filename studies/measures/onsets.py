"""From when on can something be read off hidden states, in the order in which the network computes?

Cells come in the order of computing: step after step, and block after block within a step. Something is there in a cell
whose interval lies above the chance level and whose score has won a given share of the most that it ever wins over
chance. (Chance alone would call what is asked of more tokens, or is easier, the earlier one.) The onset is the first
step at which it is there in some block, and so at the next steps that were read (`HOLD` in all), and the first block of
that step in which it is there. (Not to the last step: what has been drawn may be forgotten.) It is counted in steps,
blocks being their fractions: 2.5 is half-way through the blocks of step 2. What is never there has its onset at the end
of all steps.

Intervals: the same rule on scores of resampled problems. The resamples of two grids are over the same problems, so that
differences of onsets are paired. Placebo: the same rule on the scores of shuffled labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from probes import GridResult
from studies.base.claim import Estimate

HOLD = 3
"""Steps that were read, one after another, at which something has to be there."""


@dataclass(frozen=True)
class Onset:
    """When something is there.

    Attributes:
        at: in steps; see the module.
        drawn: the same for resampled problems: [resample].
        shuffled: the same for shuffled labels: [shuffle].
        end: what it is where it is never there.
        problems: how many stand behind it.
    """

    at: float
    drawn: np.ndarray
    shuffled: np.ndarray
    end: float
    problems: int

    @property
    def estimate(self) -> Estimate:
        """With its interval."""
        low, high = np.percentile(self.drawn, [2.5, 97.5])
        return Estimate(self.at, float(low), float(high), self.problems)

    @property
    def false(self) -> float:
        """Share of shuffled labels that have an onset."""
        return float((self.shuffled < self.end).mean())

    def __str__(self) -> str:
        estimate = self.estimate
        if self.at >= self.end:
            return "never"
        return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"


def onset_of(grid: GridResult, share: float) -> Onset:
    """The onset in a grid that was fitted with shuffles.

    Args:
        grid: step x layer.
        share: of the most that is won over chance, 0 to 1; 0 asks for the chance level alone.
    """
    table = grid.table
    steps, layers = grid.steps, grid.layers
    cells = np.array([[grid.cell(step, layer) for layer in layers] for step in steps])
    score, low, chance, bar = (table[c].to_numpy()[cells] for c in ("score", "low", "chance", "chance_high"))
    margin, end, hold = score - low, float(steps[-1] + 1), min(HOLD, len(grid.steps))

    def places(scores: np.ndarray) -> np.ndarray:
        """[draw, step, layer] to onsets [draw]."""
        most = (scores - chance).max((1, 2), keepdims=True)
        there = (scores - margin > bar) & (scores - chance >= share * most)
        some = there.any(2)  # [draw, step]
        held = np.all([some[:, k : k + len(steps) - hold + 1] for k in range(hold)], axis=0)
        known, step = held.any(1), held.argmax(1)
        layer = there[np.arange(len(there)), step].argmax(1)
        return np.where(known, np.array(steps)[step] + (layer + 1) / len(layers), end)

    drawn = places(grid.resamples()[:, cells])
    shuffled = places(np.moveaxis(grid.null[cells], -1, 0))
    return Onset(float(places(score[None])[0]), drawn, shuffled, end, grid.sums.shape[1])


def later(first: Onset, second: Onset) -> tuple[Estimate, float]:
    """How much later the second is than the first, in steps, with its interval; and the same for shuffled labels."""
    drawn = second.drawn - first.drawn
    low, high = np.percentile(drawn, [2.5, 97.5])
    placebo = float((second.shuffled - first.shuffled).mean())
    return Estimate(second.at - first.at, float(low), float(high), first.problems), placebo
