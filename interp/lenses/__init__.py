"""Lenses: what the network holds to be the clean video, at every step, in every pass and after every block.

``x0_lens`` reads the model's own clean estimate; ``layer_lens`` applies the final norm and head, with the step's
modulation, to any residual stream. Estimates are decoded and scored by the task; where the VAE is exact on flat blocks
they are scored without it.

Example:
    ``mean_by(layer_lens(lab, runs, task), "valid")``: accuracy by step and layer, with intervals.
"""

from __future__ import annotations

from interp.intervals import mean_by
from interp.lenses.affine import AffineLens, Loss, fit_affine_lens
from interp.lenses.head import Estimate, estimates, head_velocity
from interp.lenses.table import COLUMNS, layer_lens, reader_of, x0_lens

__all__ = [
    "COLUMNS",
    "AffineLens",
    "Estimate",
    "Loss",
    "estimates",
    "fit_affine_lens",
    "head_velocity",
    "layer_lens",
    "mean_by",
    "reader_of",
    "x0_lens",
]
