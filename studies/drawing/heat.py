"""Maps over layers and steps, with baselines as rows below them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from probes.style import SEQUENTIAL
from studies.drawing.canvas import WIDE, figure, marked, sigma_axis

CROWDED = 12
"""Columns from which on the numbers in the cells are smaller."""


@dataclass(frozen=True)
class Heat:
    """One map of shares: values [layer, step], rows below it for baselines, and where it beats chance.

    Attributes:
        title: above the map.
        values: [layer, step].
        above: bool [layer, step], True where the interval lies above the chance level.
        baselines: name to values [step]; may be empty.
    """

    title: str
    values: np.ndarray
    above: np.ndarray
    baselines: dict[str, np.ndarray]


def in_cell(value: float) -> str:
    """A share as short as can be.

    >>> [in_cell(value) for value in (0.523, 0.999, -0.052, -0.001, 1.0)]
    ['.52', '1', '-.05', '.00', '1']
    """
    text = f"{round(float(value), 2) + 0.0:.2f}"
    return "1" if text == "1.00" else text.replace("0.", ".", 1)


def heatmaps(
    path: Path,
    heats: Sequence[Heat],
    sigmas: Sequence[float],
    *,
    low: float,
    high: float,
    label: str,
    steps: Sequence[int] | None = None,
    layers: Sequence[int] | None = None,
) -> None:
    """Shares over layer and step, one map beside another, with baselines as rows below.

    Cells whose interval does not clear the chance level are hatched over.

    Args:
        path: PNG to write.
        heats: the maps; all with the same layers and steps.
        sigmas: [step].
        low, high: ends of the colour scale.
        label: what the colours mean.
        steps, layers: of the columns and rows, where they are not all there are.
    """
    depth, count = heats[0].values.shape
    numbers = list(range(count)) if steps is None else list(steps)
    extra = max(len(heat.baselines) for heat in heats)
    ratios = [depth, max(extra, 1)] if extra else [depth]
    size = (min(4.7 * len(heats) + 0.9, WIDE), 0.26 * (depth + extra) + 1.7)
    with figure(path, size, len(ratios), len(heats), height_ratios=ratios) as axes:
        for column, heat in enumerate(heats):
            top = axes[0, column]
            image = _map(top, heat.values, heat.above, low, high)
            top.set_yticks(range(depth), [str(k) for k in (layers or range(depth))])
            top.set_ylabel("layer" if column == 0 else "")
            top.set_title(heat.title, pad=26)
            sigma_axis(top, sigmas)
            last = top
            if extra and not heat.baselines:
                axes[1, column].axis("off")
                top.xaxis.set_in_layout(False)  # its labels may stand in the empty place below
            elif extra:
                last = axes[1, column]
                top.set_xticks([])
                _map(last, np.stack(list(heat.baselines.values())), None, low, high)
                last.set_yticks(range(extra), list(heat.baselines) if column == 0 else [""] * extra)
            last.set_xticks(marked(count), [str(numbers[k]) for k in marked(count)])
            last.set_xlabel("step")
        bar = axes[0, 0].figure.colorbar(image, ax=axes, shrink=0.8, pad=0.015)
        bar.outline.set_visible(False)
        bar.set_label(label, fontsize=8)


def _map(axis: Any, values: np.ndarray, above: np.ndarray | None, low: float, high: float) -> Any:
    image = axis.imshow(
        values, origin="lower" if above is not None else "upper", aspect="auto", cmap=SEQUENTIAL, vmin=low, vmax=high
    )
    axis.grid(False)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    if above is not None:
        from matplotlib.patches import Rectangle

        for layer, step in np.argwhere(~above):
            axis.add_patch(
                Rectangle(
                    (step - 0.5, layer - 0.5), 1, 1, fill=False, hatch="////", edgecolor="white", lw=0, alpha=0.28
                )
            )
    size = 5.6 if values.shape[1] > CROWDED else 7.5
    for (row, col), value in np.ndenumerate(values):
        if np.isfinite(value):
            light = (value - low) / (high - low) > 0.62
            axis.text(
                col, row, in_cell(value), ha="center", va="center", fontsize=size,
                color="#1d2733" if light else "white",
            )  # fmt: skip
    return image
