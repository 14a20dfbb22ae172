"""How the runs of a study are sampled, from its command line."""

from __future__ import annotations

import argparse
from typing import Any

from interp.presets import preset_named


def settings_of(given: argparse.Namespace, **other: Any) -> dict[str, Any]:
    """Sampler settings by name: those of the preset if one is asked for, else the command line's own.

    Args:
        given: the command line, see `studies.frame.study.common_options`.
        other: settings in place of them.
    """
    if given.preset:
        return preset_named(given.preset) | other
    own = {"steps": given.steps, "guidance_scale": given.guidance_scale, "scheduler": given.scheduler}
    return own | other
