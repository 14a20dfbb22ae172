"""Runs as rows of small pictures: what x0_hat shows at some steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from studies.base.signs import SIGMA
from studies.drawing.canvas import figure


@dataclass(frozen=True)
class StripRow:
    """One run in a strip: pictures [row, col, rgb] in 0..1, all of one size, and a name beside them."""

    name: str
    given: np.ndarray
    estimates: Sequence[np.ndarray]
    truth: np.ndarray
    answer: str = ""


def strips(path: Path, rows: Sequence[StripRow], steps: Sequence[int], sigmas: Sequence[float]) -> None:
    """Runs as rows; first frame, x0_hat at the chosen steps and the right answer as columns.

    Args:
        path: PNG to write.
        rows: one a run, with one estimate a step.
        steps, sigmas: of the estimates; the last is the result.
    """
    columns = len(steps) + 2
    head = [
        "first frame",
        *(f"step {s}\n{SIGMA} {v:.2f}" for s, v in zip(steps, sigmas, strict=True)),
        "shortest\nroute",
    ]
    with figure(path, (0.82 * columns + 0.6, 0.86 * len(rows) + 0.45), len(rows), columns, tight=True) as axes:
        for row, line in zip(rows, axes, strict=True):
            for axis, picture in zip(line, [row.given, *row.estimates, row.truth], strict=True):
                axis.imshow(np.clip(picture, 0, 1), interpolation="nearest")
                axis.set_xticks([])
                axis.set_yticks([])
                axis.grid(False)
                axis.spines[:].set(visible=True, color="#9aa3ad", linewidth=0.6)
            line[0].set_ylabel(row.name, fontsize=7.5, rotation=0, ha="right", va="center", labelpad=6)
            if row.answer:
                line[-2].set_xlabel(row.answer, fontsize=7, labelpad=2)
        for axis, text in zip(axes[0], head, strict=True):
            axis.set_title(text, fontsize=7.5, loc="center", fontweight="normal", pad=4)
        axes[0, -2].set_title(f"result\n{SIGMA} {sigmas[-1]:.2f}", fontsize=7.5, loc="center", fontweight="bold", pad=4)
