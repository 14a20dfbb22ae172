"""Tiny random pipelines of every Wan variant, built from stock diffusers classes: no network, milliseconds a step.

Each ``tiny_*`` function returns an ordinary diffusers pipeline on CPU, the same to the bit for the same arguments.
`call_arguments` gives keyword arguments for which ``pipe(**call_arguments(pipe))`` runs, small enough for a test:
32x32 pixels, 9 frames, that is 3 x 2 x 2 tokens (TI2V, whose VAE is coarser: 64x64 pixels and the same tokens).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from diffusers import (
    AutoencoderKLWan,
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanModularPipeline,
    WanPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
    WanVideoToVideoPipeline,
)
from diffusers.modular_pipelines import (
    Wan22Blocks,
    Wan22Image2VideoBlocks,
    WanBlocks,
    WanImage2VideoAutoBlocks,
    WanImage2VideoModularPipeline,
)
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

from interp.mini.text import TEXT_DIM, build_text_encoder, build_tokenizer

LAYERS = 2
HEADS = 2
HEAD_DIM = 12  # rotary split 4 + 4 + 4: every part has to be even
WIDTH = HEADS * HEAD_DIM
FFN = 32
FRAMES = 9
PIXELS = 32
GRID = (3, 2, 2)  # latent frames, rows, cols of tokens at FRAMES and PIXELS

SchedulerName = Literal["euler", "unipc"]
Pipeline = WanPipeline | WanImageToVideoPipeline | WanVideoToVideoPipeline | WanVACEPipeline

IMAGE_DIM = 16  # width of the tiny CLIP of Wan2.1
IMAGE_TOKENS = 257  # diffusers' processor has "the last 512 tokens are text" built in; the rest is the image's


def tiny_i2v(
    *,
    two_experts: bool = False,
    scheduler: SchedulerName = "euler",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    layers: int = LAYERS,
) -> WanImageToVideoPipeline:
    """Wan2.2 image-to-video (and the bundled model): 36 input channels, no image encoder; two experts from A14B."""
    return WanImageToVideoPipeline(
        **_shared(scheduler),
        vae=_vae(seed),
        transformer=random_transformer(seed + 1, dtype, in_channels=36, num_layers=layers),
        **_second_expert(two_experts, seed + 2, dtype, in_channels=36, num_layers=layers),
    )


def tiny_t2v(
    *,
    two_experts: bool = False,
    scheduler: SchedulerName = "euler",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    layers: int = LAYERS,
) -> WanPipeline:
    """Wan2.1 and Wan2.2 text-to-video: 16 input channels."""
    return WanPipeline(
        **_shared(scheduler),
        vae=_vae(seed),
        transformer=random_transformer(seed + 1, dtype, in_channels=16, num_layers=layers),
        **_second_expert(two_experts, seed + 2, dtype, in_channels=16, num_layers=layers),
    )


def tiny_ti2v(
    *,
    image: bool = True,
    scheduler: SchedulerName = "euler",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> WanImageToVideoPipeline | WanPipeline:
    """Wan2.2 TI2V-5B: 48 latent channels, one timestep per token; ``image=False``: from text alone."""
    parts = {
        **_shared(scheduler),
        "vae": _vae(seed, patched=True),
        "transformer": random_transformer(seed + 1, dtype, in_channels=48, out_channels=48),
        "expand_timesteps": True,
    }
    return WanImageToVideoPipeline(**parts) if image else WanPipeline(**parts)


def tiny_i2v_clip(
    *,
    last_frame: bool = False,
    scheduler: SchedulerName = "euler",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> WanImageToVideoPipeline:
    """Wan2.1 image-to-video: a CLIP encoder whose tokens join the cross-attention.

    Args:
        last_frame: the FLF2V variant, conditioned on the first and on the last frame (2 x 257 image tokens).
    """
    image_config = {"pos_embed_seq_len": 2 * IMAGE_TOKENS} if last_frame else {}
    return WanImageToVideoPipeline(
        **_shared(scheduler),
        vae=_vae(seed),
        transformer=random_transformer(
            seed + 1, dtype, in_channels=36, image_dim=IMAGE_DIM, added_kv_proj_dim=WIDTH, **image_config
        ),
        image_encoder=_image_encoder(seed + 3),
        image_processor=CLIPImageProcessorPil(crop_size=32, size={"shortest_edge": 32}),
    )


def tiny_v2v(
    *, scheduler: SchedulerName = "unipc", dtype: torch.dtype = torch.float32, seed: int = 0
) -> WanVideoToVideoPipeline:
    """Video-to-video: the text-to-video model started from a noised video; gives no cache context to hooks."""
    return WanVideoToVideoPipeline(
        **_shared(scheduler), vae=_vae(seed), transformer=random_transformer(seed + 1, dtype, in_channels=16)
    )


def tiny_vace(
    *,
    two_experts: bool = False,
    scheduler: SchedulerName = "unipc",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    layers: int = LAYERS,
) -> WanVACEPipeline:
    """VACE: control blocks beside the first and the last block, whose hints join the residual stream after them."""
    sizes: dict[str, Any] = {"in_channels": 16, "vace_layers": [0, layers - 1], "vace_in_channels": 96}
    sizes["num_layers"] = layers
    experts = [
        random_transformer(seed + 1 + k, dtype, WanVACETransformer3DModel, **sizes) for k in range(1 + two_experts)
    ]
    second = {"transformer_2": experts[1], "boundary_ratio": 0.9} if two_experts else {}
    return WanVACEPipeline(**_shared(scheduler), vae=_vae(seed), transformer=experts[0], **second)


def tiny_modular(of: Pipeline, *, guidance: float = 4.0) -> WanModularPipeline:
    """The modular pipeline of the same components; guidance is a component there, not an argument."""
    image = isinstance(of, WanImageToVideoPipeline)
    two = getattr(of, "transformer_2", None) is not None
    blocks = (
        (Wan22Image2VideoBlocks if two else WanImage2VideoAutoBlocks) if image else Wan22Blocks if two else WanBlocks
    )
    pipe = blocks().init_pipeline()
    names = pipe.components
    of.text_encoder.to(of.transformer.dtype)  # whose dtype is that of everything in a modular pipeline
    pipe.update_components(**{k: v for k, v in of.components.items() if k in names and v is not None})
    guiders = [name for name in ("guider", "guider_2") if name in names]
    pipe.update_components(**{name: ClassifierFreeGuidance(guidance_scale=guidance) for name in guiders})
    if two:
        pipe.update_components(boundary_ratio=of.config["boundary_ratio"])
    return pipe


def call_arguments(pipe: Pipeline, *, seed: int = 0, steps: int = 3, guidance: float = 1.0) -> dict[str, Any]:
    """Keyword arguments of a small call of ``pipe``; latents out, generator on CPU.

    A generator has state: ask anew for every call.
    """
    patched = pipe.vae.config.scale_factor_spatial == 16
    pixels = 2 * PIXELS if patched else PIXELS
    arguments: dict[str, Any] = {
        "prompt": "the green agent moves from start to the red goal.",
        "negative_prompt": "static camera",
        "height": pixels,
        "width": pixels,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "generator": torch.Generator().manual_seed(seed),
        "output_type": "latent",
    }
    if isinstance(pipe, WanVideoToVideoPipeline):
        return arguments | {"video": [picture(k, pixels) for k in range(FRAMES)], "strength": 0.75}
    arguments["num_frames"] = FRAMES
    if isinstance(pipe, WanVACEPipeline):
        video, mask = ([picture(first + k, pixels) for k in range(FRAMES)] for first in (0, FRAMES))
        return arguments | {"video": video, "mask": mask, "conditioning_scale": [0.5, 2.0]}
    if isinstance(pipe, WanImageToVideoPipeline | WanImage2VideoModularPipeline):
        arguments["image"] = picture(0, pixels)
        embedder = pipe.transformer.condition_embedder.image_embedder
        if embedder is not None and embedder.pos_embed is not None:
            arguments["last_image"] = picture(1, pixels)
    return arguments


def picture(seed: int = 0, pixels: int = PIXELS) -> Image.Image:
    """A random square of flat 8-pixel blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (pixels // 8, pixels // 8, 3), dtype=np.uint8)
    return Image.fromarray(blocks.repeat(8, 0).repeat(8, 1))


def tiny_scheduler(
    name: SchedulerName, shift: float = 5.0
) -> FlowMatchEulerDiscreteScheduler | UniPCMultistepScheduler:
    """The two solvers Wan checkpoints are run with."""
    if name == "euler":
        return FlowMatchEulerDiscreteScheduler(shift=shift)
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)


def _shared(scheduler: SchedulerName) -> dict[str, Any]:
    return {
        "tokenizer": build_tokenizer(),
        "text_encoder": build_text_encoder(),
        "scheduler": tiny_scheduler(scheduler),
    }


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _second_expert(wanted: bool, seed: int, dtype: torch.dtype, **config: int) -> dict[str, Any]:
    if not wanted:
        return {}
    return {"transformer_2": random_transformer(seed, dtype, **config), "boundary_ratio": 0.9}


def random_transformer(
    seed: int, dtype: torch.dtype = torch.float32, kind: Any = WanTransformer3DModel, **config: Any
) -> Any:
    """A transformer with random weights, tiny but for what ``config`` says otherwise."""
    sizes = {
        "patch_size": (1, 2, 2),
        "num_attention_heads": HEADS,
        "attention_head_dim": HEAD_DIM,
        "out_channels": 16,
        "text_dim": TEXT_DIM,
        "freq_dim": 32,
        "ffn_dim": FFN,
        "num_layers": LAYERS,
        "rope_max_seq_len": 32,
    }
    with _seeded(seed):
        model = kind(**sizes | config)
    return _cast(model, dtype).eval()


def _cast(model: WanTransformer3DModel, dtype: torch.dtype) -> WanTransformer3DModel:
    """What ``from_pretrained(torch_dtype=...)`` does and ``.to(dtype)`` does not: some modules stay in fp32."""
    for name, parameter in model.named_parameters():
        if not any(part in name.split(".") for part in model._keep_in_fp32_modules):
            parameter.data = parameter.data.to(dtype)
    return model


def _vae(seed: int, *, patched: bool = False) -> AutoencoderKLWan:
    """Wan2.1's (z = 16, 8x in space) or, patched, Wan2.2-5B's (z = 48, 16x); both 4x in time."""
    shape: dict[str, Any] = {"z_dim": 16}
    if patched:
        shape = {
            "z_dim": 48,
            "in_channels": 12,
            "out_channels": 12,
            "is_residual": True,
            "patch_size": 2,
            "latents_mean": [0.0] * 48,
            "latents_std": [1.0] * 48,
            "scale_factor_spatial": 16,
        }
    with _seeded(seed):
        return AutoencoderKLWan(
            base_dim=3,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            **shape,
        ).eval()


def _image_encoder(seed: int) -> CLIPVisionModel:
    """As ViT-H in the number of tokens: 16 x 16 patches and a class token."""
    with _seeded(seed):
        return CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=IMAGE_DIM,
                projection_dim=IMAGE_DIM,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=32,
                intermediate_size=32,
                patch_size=2,
            )
        ).eval()
