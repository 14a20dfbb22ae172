"""What the transformer is given beside the noisy latents, and the noise a run starts from.

Prompts, pictures and videos go through the pipeline's own methods, one by one and once each, which is what the bare
pipeline does for one sample.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from interp.errors import InterpError
from interp.kept_pictures import kept_or_made
from interp.kinds import check_sample, kind_of, ordinary
from interp.runspec import RunSpec, SamplerSettings

IMAGE_TOKENS = 257  # of one picture: CLIP ViT-H's 16 x 16 patches and a class token


@dataclass(frozen=True)
class Conditioning:
    """What the transformer is given beside the noisy latents, one row a run.

    Attributes:
        prompt: text states of the cond pass [batch, text_token, text_dim].
        negative: text states of the uncond pass, or None without guidance.
        condition: channels appended to the latents, or mixed in with ``frame_mask``:
            [batch, channel, latent_frame, row, col]; None for text-to-video.
        frame_mask: 0 on latent frames that are given, 1 elsewhere (TI2V: per-token timesteps), else None.
        image: CLIP states of Wan 2.1 image-to-video [batch, picture, image_token, image_dim]: the first frame, and the
            last where it is given; else None.
        control: what VACE's control blocks are given [batch, channel, latent_frame, row, col], else None.
        control_scale: by which their hints are multiplied [control_block], else None.
        modular: timesteps are rounded to the model's dtype, and the solver is given the velocity in fp32.
    """

    prompt: Tensor
    negative: Tensor | None
    condition: Tensor | None = None
    frame_mask: Tensor | None = None
    image: Tensor | None = None
    control: Tensor | None = None
    control_scale: Tensor | None = None
    modular: bool = False


def transformer_input(pipe: Any, given: Conditioning, latents: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Latents with their conditioning, and the timestep: per run, or per token for TI2V models."""
    dtype = given.prompt.dtype  # the transformer's; asking it walks all its parameters
    if pipe.config.get("expand_timesteps"):
        mask = torch.ones_like(latents, dtype=torch.float32) if given.frame_mask is None else given.frame_mask
        x = latents if given.condition is None else (1 - mask) * given.condition + mask * latents
        per_token = (mask[0][0][:, ::2, ::2] * t).flatten()
        return x.to(dtype), per_token.unsqueeze(0).expand(latents.shape[0], -1)
    x = latents if given.condition is None else torch.cat([latents, given.condition], dim=1)
    timestep = t.expand(latents.shape[0])
    return x.to(dtype), timestep.to(dtype) if given.modular else timestep


def velocity_of(model: Any, given: Conditioning, branch: str, x: Tensor, timestep: Tensor) -> Tensor:
    """One forward of the transformer: the velocity of a branch, [batch, channel, latent_frame, row, col]."""
    # Diffusers makes a hook registry to hold the context; without one there is nobody to tell, and none is left behind.
    context = model.cache_context(branch) if hasattr(model, "_diffusers_hook") else contextlib.nullcontext()
    control: dict[str, Any] = {}
    if given.control is not None:
        control = {"control_hidden_states": given.control, "control_hidden_states_scale": given.control_scale}
    with context:
        found: Tensor = model(
            hidden_states=x,
            timestep=timestep,
            encoder_hidden_states=given.prompt if branch == "cond" else given.negative,
            encoder_hidden_states_image=None if given.image is None else given.image.flatten(0, 1),
            attention_kwargs=None,
            return_dict=False,
            **control,
        )[0]
    return found


def encode(
    pipe: Any, specs: Sequence[RunSpec], settings: SamplerSettings, scheduler: Any, device: Any
) -> tuple[Conditioning, Tensor]:
    """The conditioning of runs, and what they start from: [batch, channel, latent_frame, row, col].

    Args:
        pipe: the pipeline.
        specs: runs that share settings and size.
        settings: theirs.
        scheduler: with its timesteps set; video-to-video adds noise to the video by it.
        device: where the tensors go.

    Raises:
        InterpError: a sample lacks what the pipeline needs, or has what it would not look at.
    """
    kind, given_pipe, pipe = kind_of(pipe), pipe, ordinary(pipe)
    transformer = pipe.transformer if pipe.transformer is not None else pipe.transformer_2
    dtype = pipe.text_encoder.dtype if kind.modular else transformer.dtype
    guided = len(settings.branches) > 1
    texts: dict[str, tuple[Tensor, Tensor | None]] = {}
    encode_given = _encode_control if kind.control else partial(_encode_image, resized=kind.modular)
    images: dict[tuple[str, str, str | None], _ImageRow] = {}
    prompts, negatives, rows, starts = [], [], [], []
    for spec in specs:
        sample = spec.sample
        check_sample(given_pipe, sample)
        if sample.prompt not in texts:
            texts[sample.prompt] = pipe.encode_prompt(
                prompt=sample.prompt,
                negative_prompt=settings.negative_prompt,
                do_classifier_free_guidance=guided,
                max_sequence_length=settings.max_sequence_length,
                device=device,
            )
        positive, negative = texts[sample.prompt]
        prompts.append(positive.to(dtype))
        if guided and negative is not None:
            negatives.append(negative.to(dtype))
        looks = (sample.task, sample.key, sample.pictures)
        if looks not in images:
            size = (sample.height, sample.width, sample.num_frames)
            of = (spec.model_hash, type(given_pipe).__name__, str(device), dtype, size, looks)
            images[looks] = kept_or_made(of, partial(encode_given, pipe, spec, device, dtype))
        rows.append(images[looks])
        starts.append(_noised(pipe, spec, scheduler, device) if kind.video else _noise(pipe, spec, device))
    conditions = [row.condition for row in rows if row.condition is not None]
    pictures = [row.image for row in rows if row.image is not None]
    controls = [row.control for row in rows if row.control is not None]
    scale = torch.tensor(settings.conditioning_scale).to(device, dtype) if controls else None
    return (
        Conditioning(
            prompt=torch.cat(prompts),
            negative=torch.cat(negatives) if negatives else None,
            condition=torch.cat(conditions) if conditions else None,
            frame_mask=rows[0].frame_mask,
            image=torch.stack(pictures) if pictures else None,
            control=torch.cat(controls) if controls else None,
            control_scale=scale,
            modular=kind.modular,
        ),
        torch.cat(starts),
    )


@dataclass(frozen=True)
class _ImageRow:
    condition: Tensor | None = None
    frame_mask: Tensor | None = None
    image: Tensor | None = None
    control: Tensor | None = None


def _encode_image(pipe: Any, spec: RunSpec, device: Any, dtype: torch.dtype, *, resized: bool) -> _ImageRow:
    """Condition channels (and CLIP states, for Wan 2.1) of one first frame, and of a last one.

    Modular pipelines resize a picture first, as Pillow does by itself, and show that to CLIP, too.
    """
    sample = spec.sample
    if sample.image is None:
        return _ImageRow()
    image = sample.image.resize((sample.width, sample.height)) if resized else sample.image

    def pixels(picture: Any) -> Tensor:
        size = {"height": sample.height, "width": sample.width}
        found: Tensor = pipe.video_processor.preprocess(picture, **size).to(device, dtype=torch.float32)
        return found

    outputs = pipe.prepare_latents(
        pixels(image),
        1,
        pipe.vae.config.z_dim,
        sample.height,
        sample.width,
        sample.num_frames,
        torch.float32,
        device,
        None,
        _noise(pipe, spec, device),
        None if sample.last_image is None else pixels(sample.last_image),
    )
    clip = None
    if pipe.transformer is not None and pipe.transformer.config.image_dim is not None:
        both = image if sample.last_image is None else [image, sample.last_image]
        clip = pipe.encode_image(both, device).to(dtype)
    frame_mask = outputs[2] if pipe.config.get("expand_timesteps") else None
    return _ImageRow(outputs[1], frame_mask, clip)


def _encode_control(pipe: Any, spec: RunSpec, device: Any, dtype: torch.dtype) -> _ImageRow:
    """What VACE's control blocks are given of a video and a mask: inactive and reactive parts, and the mask."""
    sample = spec.sample
    size = (sample.height, sample.width, sample.num_frames)
    video, mask, references = pipe.preprocess_conditions(
        None if sample.video is None else list(sample.video),
        None if sample.mask is None else list(sample.mask),
        None,
        1,
        *size,
        torch.float32,
        device,
    )
    if video.shape[-2:] != size[:2]:
        raise InterpError(
            f"sample {sample.key!r} has a video of {tuple(video.shape[-2:])} pixels (height, width), and it is "
            f"{size[:2]}; resize the video's frames"
        )
    latents = pipe.prepare_video_latents(video, mask, references, None, device)
    masks = pipe.prepare_masks(mask, references, None)
    return _ImageRow(control=torch.cat([latents, masks], dim=1).to(dtype))


def _noise(pipe: Any, spec: RunSpec, device: Any) -> Tensor:
    """Initial latents of one run from a CPU generator: [1, channel, latent_frame, row, col] in float32."""
    from diffusers.utils.torch_utils import randn_tensor

    sample = spec.sample
    channels = pipe.transformer.config.out_channels if pipe.transformer is not None else pipe.vae.config.z_dim
    shape = (
        1,
        channels,
        (sample.num_frames - 1) // pipe.vae_scale_factor_temporal + 1,
        sample.height // pipe.vae_scale_factor_spatial,
        sample.width // pipe.vae_scale_factor_spatial,
    )
    return randn_tensor(shape, generator=_generator(spec), device=torch.device(device), dtype=torch.float32)


def _noised(pipe: Any, spec: RunSpec, scheduler: Any, device: Any) -> Tensor:
    """The source video at the noise level of the first step: [1, channel, latent_frame, row, col] in float32.

    The pipeline's own method, given our scheduler in place of the pipeline's, which is left alone.
    """
    sample = spec.sample
    parts = ("vae", "vae_scale_factor_temporal", "vae_scale_factor_spatial")
    ours = SimpleNamespace(scheduler=scheduler, **{name: getattr(pipe, name) for name in parts})
    size = {"height": sample.height, "width": sample.width}
    video = pipe.video_processor.preprocess_video(list(sample.video or ()), **size)
    latents: Tensor = type(pipe).prepare_latents(
        ours,
        video.to(device, dtype=torch.float32),
        1,
        pipe.transformer.config.in_channels,
        dtype=torch.float32,
        device=device,
        generator=_generator(spec),
        timestep=scheduler.timesteps[:1],
        **size,
    )
    return latents


def _generator(spec: RunSpec) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(spec.seed)
