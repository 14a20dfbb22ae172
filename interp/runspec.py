"""A run as data: model, sample, seed and sampler settings, with a content hash.

Two specs with the same key give the same latents on the same machine; the key names the run's shard in a store.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from interp.errors import InterpError
from interp.tasks.sample import Sample

SCHEDULERS = ("euler", "unipc", "diffsynth")


@dataclass(frozen=True)
class SamplerSettings:
    """How a run is sampled; names are diffusers' own.

    Attributes:
        steps: ``num_inference_steps``.
        guidance_scale: 1 means one pass a step (cond only), more means classifier-free guidance with two.
        guidance_scale_2: guidance of the low-noise expert; None takes ``guidance_scale``.
        scheduler: None keeps the pipeline's own scheduler, "euler" is FlowMatchEuler, "unipc" is UniPC (flow), and
            "diffsynth" is FlowMatchEuler on DiffSynth's grid: s = 1 - i / steps, sigma = shift s / (1 + (shift - 1) s).
        shift: ``flow_shift`` of the scheduler; None keeps the pipeline's.
        boundary_ratio: share of the noise schedule below which the low-noise expert runs; None keeps the pipeline's.
        negative_prompt: the prompt of the uncond pass.
        max_sequence_length: text tokens after padding.
        strength: share of the steps that video-to-video runs; None for every other pipeline.
        conditioning_scale: how strongly VACE's hints count, one number or one a control block; None for every other
            pipeline.
    """

    steps: int = 20
    guidance_scale: float = 1.0
    guidance_scale_2: float | None = None
    scheduler: str | None = None
    shift: float | None = None
    boundary_ratio: float | None = None
    negative_prompt: str = ""
    max_sequence_length: int = 512
    strength: float | None = None
    conditioning_scale: float | Sequence[float] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.conditioning_scale, Sequence):
            object.__setattr__(self, "conditioning_scale", tuple(map(float, self.conditioning_scale)))
        if self.steps < 1:
            raise InterpError(f"steps={self.steps}: a run needs at least one denoising step")
        if self.scheduler is not None and self.scheduler not in SCHEDULERS:
            raise InterpError(
                f"scheduler={self.scheduler!r} is not known; "
                f"use one of {', '.join(SCHEDULERS)}, or None for the pipeline's own"
            )
        if self.boundary_ratio is not None and not 0 <= self.boundary_ratio <= 1:
            raise InterpError(f"boundary_ratio={self.boundary_ratio} is not a share between 0 and 1")
        if self.strength is not None and not 0 < self.strength <= 1:
            raise InterpError(f"strength={self.strength} is not a share above 0 and up to 1")

    @property
    def branches(self) -> tuple[str, ...]:
        """Passes of one step in call order, as diffusers makes them."""
        return ("cond", "uncond") if self.guidance_scale > 1 else ("cond",)


@dataclass(frozen=True)
class RunSpec:
    """One generated video, fully specified by data.

    Attributes:
        model: name, folder or hub id the model was loaded from.
        model_hash: fingerprint of its weights (see `interp.fingerprint.fingerprint`).
        sample: the problem, with prompt and first frame.
        seed: of the CPU generator that draws the initial noise.
        settings: see `SamplerSettings`.
        scheduler_config: the configuration of the scheduler that will run, after ``settings`` were applied.
        adapters: LoRA weights that were loaded, see `interp.lora`; ``model_hash`` counts them.
        edits: the graph of an edited run in a store, as canonical JSON; "" for a clean run. `interp.Lab.capture` sets
            it.
    """

    model: str
    model_hash: str
    sample: Sample
    seed: int
    settings: SamplerSettings = SamplerSettings()
    scheduler_config: str = "{}"
    adapters: tuple[str, ...] = ()
    edits: str = ""

    @cached_property
    def key(self) -> str:
        """Content hash, 16 hexadecimal digits. The model counts by its weights, not by where it was loaded from."""
        content = {k: v for k, v in self.provenance().items() if k not in ("model", "adapters")}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def provenance(self) -> dict[str, Any]:
        """Everything that determines the run, as JSON-ready data."""
        sample, settings = self.sample, dataclasses.asdict(self.settings)
        for name in ("strength", "conditioning_scale"):
            if settings[name] is None:  # keys of other pipelines' runs stay what they were
                del settings[name]
        return {
            "model": self.model,
            "model_hash": self.model_hash,
            "task": sample.task,
            "sample": sample.key,
            **({} if sample.pictures is None else {"pictures": sample.pictures}),
            "prompt": sample.prompt,
            "height": sample.height,
            "width": sample.width,
            "num_frames": sample.num_frames,
            "meta": _plain(sample.meta),
            "seed": self.seed,
            "settings": settings,
            "scheduler_config": json.loads(self.scheduler_config),
            **({"adapters": list(self.adapters)} if self.adapters else {}),
            **({"edits": json.loads(self.edits)} if self.edits else {}),
        }


def _plain(value: Any) -> Any:
    """Mappings and sequences as dicts and lists, so that JSON is the same before and after a round trip."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(v) for v in value]
    return value
