"""Edits of what the transformer is given: the conditioning picture, and which expert runs a step.

(The prompt needs no operation of its own: it is a patch of text_embed.hook_in.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.edits.op import Moment, Op
from interp.errors import InterpError, suggest
from interp.trajectory import Schedule

if TYPE_CHECKING:
    from interp.edits.graph import Edit

LATENT_CHANNELS = 16  # of Wan's VAE; TI2V's has 48 and no condition channels
IMAGE_CHANNELS = 36  # latents, a mask of 4 (the pixel frames of a latent frame), the picture's latents
EXPERTS = ("high", "low")


@dataclass(frozen=True)
class Picture(Op):
    """Takes the source's conditioning picture, and keeps the noisy latents.

    A transformer for image-to-video is given (latents, mask, picture) as channels, of which the last two are taken. One
    whose tokens have timesteps of their own (TI2V) is given the picture as its first latent frame.
    """

    name = "picture"
    sources = 1
    sites = ("hook_latent_in",)

    def apply(self, part: Tensor, given: tuple[Tensor, ...], moment: Moment) -> Tensor:
        source = given[0].to(part).expand_as(part)
        if part.shape[1] == IMAGE_CHANNELS:
            return torch.cat([part[:, :LATENT_CHANNELS], source[:, LATENT_CHANNELS:]], dim=1)
        return torch.cat([source[:, :, :1], part[:, :, 1:]], dim=2)

    @staticmethod
    def check_channels(channels: int) -> None:
        """Refuse a transformer that is given no picture.

        Args:
            channels: of what it is given.
        """
        if channels == LATENT_CHANNELS:
            raise InterpError("picture: this is a text-to-video model, which is given no picture")


@dataclass(frozen=True)
class UseExpert(Op):
    """One expert runs these steps, whatever their noise level: moves the boundary between experts."""

    expert: str

    name = "use_expert"
    sites = ("latents.hook_in",)

    def __post_init__(self) -> None:
        if self.expert not in EXPERTS:
            raise InterpError(
                f"expert={self.expert!r} is not known{suggest(str(self.expert), EXPERTS)}; use high or low"
            )

    def apply(self, part: Tensor, given: tuple[Tensor, ...], moment: Moment) -> Tensor:
        return part


def rescheduled(edits: Iterable[Edit], schedule: Schedule, space: Any) -> Schedule:
    """The schedule with the experts that `UseExpert` edits ask for.

    Args:
        edits: a graph.
        schedule: of the run.
        space: its addresses.

    Raises:
        InterpError: there is one expert only, or an edit names single worlds.
    """
    experts = list(schedule.experts)
    for edit in edits:
        if not isinstance(edit.op, UseExpert):
            continue
        if "main" in experts:
            raise InterpError(f"{edit}: the model has a single transformer, so there is no other expert")
        if edit.rows is not None:
            raise InterpError(f"{edit}: all worlds of a batch go through one expert; leave rows= out")
        for step in edit.selection.resolve(space).steps:
            experts[step] = edit.op.expert
    return replace(schedule, experts=tuple(experts))
