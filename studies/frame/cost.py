"""What a study costs on a GPU: hours, memory and disk, from its work (`studies.runs.work`) and the assumptions below.

Nothing here was measured on a GPU. Time is floating point operations over the speed that GPUs sustain, a range; memory
is the weights, the activations of the largest batch, and what a recording of that batch holds of every step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from interp.grid import TokenGrid
from studies.frame.study import Study
from studies.runs.work import Terms, Work

HALF, SINGLE = 2, 4
SPEEDS = (250e12, 450e12)
"""Operations a second in bf16 that an H100 or H200 sustains on forwards of some 30,000 tokens with fused attention: a
quarter to under a half of the 989e12 of the data sheet, which both share."""
MEMORY = {"80 GB": 79e9, "141 GB": 140e9}
"""Bytes that a card of that name leaves to use."""
DECODE_SPEED = 20e12
"""Operations a second of the VAE in fp32, in convolutions."""
DECODE_A_PIXEL = 8.7e6
"""Operations to decode one pixel of one frame; a test counts them on the published configuration."""
STREAMS, HIDDEN = 14, 4
"""Bytes of activations a token and channel, at a block's peak: the residual stream in bf16, two copies of it in fp32
for the norms, queries, keys and values (bf16); and a token and MLP channel, before and after its nonlinearity."""
RECORDED = 6 * SINGLE
"""Bytes that a recording holds of each element of the latents in every step: the latents before and after, the
velocities of both passes and the guided one, and x0_hat."""


@dataclass(frozen=True)
class Cost:
    """What a study takes.

    Attributes:
        work: see `studies.runs.work`.
        petaflops: of the forwards: 1e15 operations.
        hours: of forwards and decoding, at the highest speed and at the lowest.
        resident: bytes on the GPU with every component there.
        offloaded: bytes with the text encoder, and the expert that is not in use, elsewhere.
        disk: bytes of stores.
    """

    work: Work
    petaflops: float
    hours: tuple[float, float]
    resident: float
    offloaded: float
    disk: int

    def fits(self) -> Mapping[str, str]:
        """By card: "yes", "offloaded" (only so), or "no"."""
        return {
            card: "yes" if self.resident <= room else "offloaded" if self.offloaded <= room else "no"
            for card, room in MEMORY.items()
        }


def cost_of(study: Study, terms: Terms) -> Cost | None:
    """What a study costs on these terms; None if it does not count its work."""
    return None if study.work is None else priced(study.work(terms), terms)


def priced(work: Work, terms: Terms) -> Cost:
    """What so much work costs."""
    model = terms.model
    operations = sum(one.rows * model.flops(one.tokens) * count for one, count in work.forwards.items())
    decoding = sum(_pixels(grid) * count for grid, count in work.videos.items()) * DECODE_A_PIXEL / DECODE_SPEED
    low, high = (operations / speed + decoding for speed in reversed(SPEEDS))
    running = max((one.rows * _row_bytes(terms, one.tokens) for one in work.forwards), default=0.0)
    expert, text, vae = HALF * model.parameters, HALF * model.text_parameters, SINGLE * model.vae_parameters
    return Cost(
        work=work,
        petaflops=operations / 1e15,
        hours=(low / 3600, high / 3600),
        resident=model.experts * expert + text + vae + running,
        offloaded=expert + vae + running,
        disk=work.nbytes,
    )


def _pixels(grid: TokenGrid) -> int:
    """Pixels of a video, all frames together."""
    frames = (grid.frames * grid.patch[0] - 1) * grid.vae_temporal + 1
    return int(frames * grid.rows * grid.cols * grid.patch[1] * grid.patch[2] * grid.vae_spatial**2)


def _row_bytes(terms: Terms, tokens: int) -> float:
    """Bytes of one row: a block's activations, and the latents of a recording."""
    model = terms.model
    latents = tokens * math.prod(model.config["patch_size"]) * model.config["out_channels"]
    return tokens * (STREAMS * model.width + HIDDEN * model.config["ffn_dim"]) + RECORDED * latents * terms.steps


def size_text(nbytes: float) -> str:
    """Bytes as readers see them.

    >>> size_text(2.5e9), size_text(31_000_000), size_text(0)
    ('2.5 GB', '31 MB', '0 B')
    """
    for unit in ("B", "KB", "MB", "GB"):
        if nbytes < 1000 or unit == "GB":
            return f"{nbytes:.2g} {unit}" if nbytes < 10 else f"{nbytes:,.0f} {unit}"
        nbytes /= 1000
    raise AssertionError


def hours_text(hours: tuple[float, float]) -> str:
    """A range of time.

    >>> hours_text((0.2, 0.4)), hours_text((3.4, 7.6))
    ('12 to 24 min', '3.4 to 7.6 h')
    """
    low, high = hours
    if high < 1.5:
        return f"{math.ceil(low * 60)} to {math.ceil(high * 60)} min"
    return f"{low:.1f} to {high:.1f} h" if high < 20 else f"{low:.0f} to {high:.0f} h"
