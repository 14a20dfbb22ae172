"""Named sampler settings: how the paper's tools and the official configurations sample.

``lab.plan(samples, preset="vbvr-diffsynth")``. Every setting ends up in the run's provenance, so a preset is only a
shorthand. What a preset cannot reproduce is said in its entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from interp.errors import InterpError, suggest

NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，"  # noqa: RUF001  # the prompt's own
    "JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，"  # noqa: RUF001  the same
    "形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"  # noqa: RUF001  the same
)

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # DiffSynth, as the paper's released tools and VBVR's evaluation run it. DiffSynth also rounds latents and
        # timesteps to bf16 and decodes with a tiled bf16 VAE, which is not done here.
        "vbvr-diffsynth": {
            "steps": 50,
            "guidance_scale": 5.0,
            "scheduler": "diffsynth",
            "shift": 5.0,
            "boundary_ratio": 0.875,
            "negative_prompt": NEGATIVE_PROMPT,
        },
        # The official Wan2.2-I2V-A14B configuration with the UniPC solver that its checkpoint ships with.
        "wan22-official": {
            "steps": 40,
            "guidance_scale": 3.5,
            "guidance_scale_2": 3.5,
            "scheduler": "unipc",
            "shift": 5.0,
            "boundary_ratio": 0.9,
            "negative_prompt": NEGATIVE_PROMPT,
        },
    }
)


def preset_named(name: str) -> dict[str, Any]:
    """Settings of a preset.

    Raises:
        InterpError: there is none of that name.
    """
    if name not in PRESETS:
        raise InterpError(f"no preset is called {name!r}{suggest(name, PRESETS)}; there are: {', '.join(PRESETS)}")
    return dict(PRESETS[name])
