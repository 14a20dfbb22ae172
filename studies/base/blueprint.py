"""What has to be known of a model to count its work: its configuration, and none of its weights.

It is read off a pipeline that is loaded, off the JSON files of a diffusers folder, or taken from the table of published
models. From it follow the floating point operations of a forward, the bytes of the weights and the schedule of a run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from interp.errors import ModelError, suggest
from interp.grid import TokenGrid
from interp.mini.vae import is_block_exact
from interp.model import bundled_folder, bundled_models
from interp.runspec import SamplerSettings
from interp.schedule import build_scheduler, schedule_of
from interp.trajectory import Schedule

_WAN: dict[str, Any] = {"patch_size": (1, 2, 2), "text_dim": 4096, "freq_dim": 256, "attention_head_dim": 128}
_14B = {**_WAN, "num_layers": 40, "num_attention_heads": 40, "ffn_dim": 13824, "out_channels": 16}
_T5 = 5.7e9
_VAE = 127e6


@dataclass(frozen=True)
class Blueprint:
    """A model without its weights.

    Attributes:
        name: how it is loaded.
        config: of its transformer, as ``WanTransformer3DModel`` has it.
        boundary_ratio: share of the schedule at which the experts change; None for a single transformer.
        per_token_time: every token has a timestep of its own (TI2V).
        stride: pixels of a latent along frame and row (or column).
        text_parameters, vae_parameters: of the text encoder and of the VAE.
        scheduler: the pipeline's own.
        block_exact: whether a latent frame can be decoded without the others, see `interp.mini.vae`.
    """

    name: str
    config: Mapping[str, Any]
    boundary_ratio: float | None
    per_token_time: bool
    stride: tuple[int, int]
    text_parameters: float
    vae_parameters: float
    scheduler: Any
    block_exact: bool = False

    @staticmethod
    def of(pipe: Any, name: str) -> Blueprint:
        """Of a pipeline that is loaded."""
        return Blueprint(
            name=name,
            config=dict(pipe.transformer.config),
            boundary_ratio=pipe.config.get("boundary_ratio"),
            per_token_time=bool(pipe.config.get("expand_timesteps")),
            stride=(pipe.vae_scale_factor_temporal, pipe.vae_scale_factor_spatial),
            text_parameters=sum(p.numel() for p in pipe.text_encoder.parameters()),
            vae_parameters=sum(p.numel() for p in pipe.vae.parameters()),
            scheduler=pipe.scheduler,
            block_exact=is_block_exact(pipe.vae),
        )

    @staticmethod
    def named(name: str) -> Blueprint:
        """Of a bundled model, a diffusers folder, or one of `KNOWN`.

        Raises:
            ModelError: it is none of them, or its files cannot be read.
        """
        if name in KNOWN:
            return KNOWN[name]()
        folder = bundled_folder(name) if name in bundled_models() else Path(name)
        if not (folder / "model_index.json").is_file():
            there = (*KNOWN, *bundled_models())
            raise ModelError(
                f"the work of {name!r} cannot be counted{suggest(name, there)}: it is no diffusers folder here and "
                f"none of {', '.join(there)}"
            )
        return _read(folder, name)

    @property
    def experts(self) -> int:
        """Transformers."""
        return 1 if self.boundary_ratio is None else 2

    @property
    def layers(self) -> int:
        """Blocks of one transformer."""
        return int(self.config["num_layers"])

    @property
    def width(self) -> int:
        """d_model."""
        return int(self.config["num_attention_heads"] * self.config["attention_head_dim"])

    @property
    def parameters(self) -> float:
        """Of one transformer, to within a per cent: the matrices of its blocks and of its embeddings."""
        d, ffn = self.width, self.config["ffn_dim"]
        around = d * (self.config["text_dim"] + self.config["freq_dim"] + 8 * d)
        return self.layers * (8 * d * d + 2 * d * ffn) + around

    def grid(self, frames: int, height: int, width: int) -> TokenGrid:
        """The token grid of a video of so many frames and pixels."""
        t, s = self.stride
        patch = tuple(self.config["patch_size"])
        return TokenGrid(
            ((frames - 1) // t + 1) // patch[0], height // s // patch[1], width // s // patch[2], patch, s, t
        )

    def flops(self, tokens: int, text_tokens: int = 512) -> float:
        """Floating point operations of one forward of one row: matrix products and attention.

        A block has self-attention's four square matrices and cross-attention's two on every token, cross-attention's
        other two on every text token, and the MLP; attention is scores and values, of every token with every other
        and with the text.
        """
        d, ffn = self.width, self.config["ffn_dim"]
        block = tokens * (6 * d * d + 2 * d * ffn) + text_tokens * 2 * d * d
        attention = 2 * tokens * d * (tokens + text_tokens)
        text = text_tokens * d * (self.config["text_dim"] + d)
        return 2.0 * (self.layers * (block + attention) + text)

    def schedule(self, settings: SamplerSettings) -> Schedule:
        """Noise levels and experts of a run."""
        shell = SimpleNamespace(config={"boundary_ratio": self.boundary_ratio}, scheduler=self.scheduler)
        return schedule_of(shell, build_scheduler(shell, settings), settings)


def _unipc(shift: float) -> Any:
    from diffusers import UniPCMultistepScheduler

    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)


def _a14b(name: str) -> Blueprint:
    return Blueprint(name, {**_14B, "in_channels": 36}, 0.9, False, (4, 8), _T5, _VAE, _unipc(5.0))


def _small(name: str) -> Blueprint:
    config = {**_14B, "in_channels": 16, "num_layers": 30, "num_attention_heads": 12, "ffn_dim": 8960}
    return Blueprint(name, config, None, False, (4, 8), _T5, _VAE, _unipc(3.0))


def _ti2v(name: str) -> Blueprint:
    config = {**_WAN, "num_layers": 30, "num_attention_heads": 24, "ffn_dim": 14336}
    return Blueprint(
        name, {**config, "in_channels": 48, "out_channels": 48}, None, True, (4, 16), _T5, 704e6, _unipc(5.0)
    )


KNOWN = {
    "Video-Reason/VBVR-Wan2.2": lambda: _a14b("Video-Reason/VBVR-Wan2.2"),
    "Wan-AI/Wan2.2-I2V-A14B-Diffusers": lambda: _a14b("Wan-AI/Wan2.2-I2V-A14B-Diffusers"),
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": lambda: _small("Wan-AI/Wan2.1-T2V-1.3B-Diffusers"),
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers": lambda: _ti2v("Wan-AI/Wan2.2-TI2V-5B-Diffusers"),
}
"""Published models by hub id; configurations as diffusers' converter writes them."""


def _read(folder: Path, name: str) -> Blueprint:
    """From the files of a folder."""
    import diffusers

    try:
        index, config, vae, scheduler = (
            json.loads((folder / place).read_text(encoding="utf-8"))
            for place in (
                "model_index.json", "transformer/config.json", "vae/config.json", "scheduler/scheduler_config.json",
            )
        )  # fmt: skip
    except (OSError, ValueError) as error:
        raise ModelError(f"the configuration of {name} cannot be read: {error}") from error
    if not any(index.get("transformer_2") or [None]):
        index["boundary_ratio"] = None
    return Blueprint(
        name=name,
        config=config,
        boundary_ratio=index.get("boundary_ratio"),
        per_token_time=bool(index.get("expand_timesteps")),
        stride=(vae.get("scale_factor_temporal", 4), vae.get("scale_factor_spatial", 8)),
        text_parameters=_parameters(folder / "text_encoder"),
        vae_parameters=_parameters(folder / "vae"),
        scheduler=getattr(diffusers, scheduler["_class_name"]).from_config(scheduler),
        block_exact=name in bundled_models(),
    )


def _parameters(folder: Path) -> int:
    """Elements of all tensors of a folder's files, as their headers say."""
    count = 0
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        count += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return count
