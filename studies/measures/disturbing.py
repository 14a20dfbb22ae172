"""Kinds of noise, put in at some steps and latent frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from interp import edits
from interp.edits import EditGraph
from studies.base.signs import X0

KINDS = {
    "replace": "latents replaced by noise",
    "renoise": f"{X0} of the step before, noised again to the step's level, in place of the latents",
    "add": "noise of half the latents' size on top",
    "velocity": "velocity replaced by noise of its own size",
}
TITLES = {
    "replace": "Latents replaced",
    "renoise": "Latents noised again",
    "add": "Noise added",
    "velocity": "Velocity replaced",
}


def disturb(kind: str, steps: Sequence[int] | np.ndarray, frames: Sequence[int] | range) -> EditGraph:
    """Noise of one kind at some steps and latent frames."""
    where: dict[str, Any] = {"step": [int(s) for s in steps], "frames": [int(f) for f in frames]}
    if kind == "velocity":
        edit = edits.noise("latents.hook_velocity_cfg", kind="replace", relative=True, **where)
    elif kind == "add":
        edit = edits.noise(kind="add", scale=0.5, relative=True, **where)
    else:
        edit = edits.noise(kind=kind, **where)
    return EditGraph((edit,))
