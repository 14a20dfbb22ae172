"""What each kind of pipeline is given, by its class, and of a modular one by its blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from interp.errors import InterpError, ModelError
from interp.runspec import SamplerSettings
from interp.tasks.sample import Sample


@dataclass(frozen=True)
class Kind:
    """What a pipeline looks at beside the prompt.

    Attributes:
        image: a first frame.
        video: a video, whose noised latents it starts from.
        control: a control video and a mask, by blocks of their own.
        modular: put together from blocks, with guidance by components.
    """

    image: bool = False
    video: bool = False
    control: bool = False
    modular: bool = False


ORDINARY = {
    "WanImageToVideoPipeline": Kind(image=True),
    "WanPipeline": Kind(),
    "WanVideoToVideoPipeline": Kind(video=True),
    "WanVACEPipeline": Kind(control=True),
}
MODULAR = (
    "WanModularPipeline",
    "WanImage2VideoModularPipeline",
    "Wan22ModularPipeline",
    "Wan22Image2VideoModularPipeline",
)
SUPPORTED = (*ORDINARY, *MODULAR)
REFUSED = {
    "WanAnimatePipeline": "it copies the Wan block classes and adds segments and face adapters",
    "Wan22VaceModularPipeline": "diffusers calls it experimental; take WanVACEPipeline",
}


def kind_of(pipe: Any) -> Kind:
    """The kind of a supported pipeline."""
    name = type(pipe).__name__
    return ORDINARY[name] if name in ORDINARY else Kind(image="Image2Video" in _blocks_name(pipe), modular=True)


def check_kind(pipe: Any) -> None:
    """Refuse pipelines that nothing here was made for.

    Raises:
        ModelError: another class, or one that is refused by name.
    """
    name, known = type(pipe).__name__, ", ".join(SUPPORTED)
    if name in REFUSED:
        raise ModelError(f"{name} is not supported: {REFUSED[name]}; supported are {known}")
    if name not in SUPPORTED:
        raise ModelError(
            f"{name} is not a Wan pipeline this package can trace; supported are {known}; "
            "give a pipeline object, a diffusers folder, a hub id or a bundled name"
        )


def check_sample(pipe: Any, sample: Sample) -> None:
    """Refuse a sample that lacks what the pipeline needs, or has what it would silently not look at.

    Raises:
        InterpError: see above.
    """
    kind, what = kind_of(pipe), type(pipe).__name__
    for name, wanted in (("video", kind.video), ("image", kind.image)):
        if wanted and getattr(sample, name) is None:
            raise InterpError(f"{what} starts from {_NAMES[name]}, and sample {sample.key!r} has none: set {name}=")
    for name, taken in (
        ("video", kind.video or kind.control),
        ("mask", kind.control),
        ("image", kind.image),
        ("last_image", kind.image),
    ):
        if not taken and getattr(sample, name) is not None:
            raise InterpError(
                f"{what} does not look at {_NAMES[name]}, and sample {sample.key!r} has one; leave it out "
                "(dataclasses.replace(sample, " + f"{name}=None)), or take a pipeline that is given one"
            )
    for name, frames in (("video", sample.video), ("mask", sample.mask)):
        if frames is not None and len(frames) != sample.num_frames:
            raise InterpError(f"sample {sample.key!r} has a {name} of {len(frames)} frames, not {sample.num_frames}")
    if sample.mask is not None and sample.video is None:
        raise InterpError(f"sample {sample.key!r} has a mask and no video for it; set video=")
    if not kind.image:
        return
    if sample.last_image is not None and pipe.config.get("expand_timesteps"):
        raise InterpError(f"{what} with a timestep per token does not look at a last frame; leave last_image out")
    transformer = pipe.transformer
    if transformer is not None and transformer.config.image_dim is not None:
        paired = transformer.condition_embedder.image_embedder.pos_embed is not None
        if paired != (sample.last_image is not None):
            needs = (
                "both a first and a last frame: set last_image=" if paired else "no last frame: leave last_image out"
            )
            raise InterpError(f"this checkpoint's image embedder takes {needs}")
    if kind.modular:
        _check_proportions(pipe, sample, sample.image)


def _check_proportions(pipe: Any, sample: Sample, image: Any) -> None:
    """A modular pipeline makes a video of its picture's proportions, and of about the size that it is asked for."""
    size = sample.height, sample.width
    if sample.last_image is not None:
        raise InterpError(f"a {type(pipe).__name__} with a last frame is watched, not run; leave last_image out")
    area, aspect = sample.height * sample.width, image.height / image.width
    unit = pipe.vae_scale_factor_spatial * pipe.patch_size_spatial
    made = tuple(round((area * ratio) ** 0.5) // unit * unit for ratio in (aspect, 1 / aspect))
    if made != size:
        raise InterpError(
            f"a {type(pipe).__name__} keeps a picture's proportions: of that of sample {sample.key!r} it would make a "
            f"video of {made} (height, width), not one of {size}; set height= and width=, or crop the picture"
        )


_NAMES = {"video": "a video", "image": "a first frame", "last_image": "a last frame", "mask": "a mask"}


def check_loop(pipe: Any, settings: SamplerSettings) -> None:
    """Refuse to run what can only be watched: modular pipelines with blocks or guiders of one's own.

    Args:
        pipe: a supported pipeline.
        settings: of a run of it.

    Raises:
        ModelError: the step loop would not compute what the pipeline does.
    """
    if not kind_of(pipe).modular:
        return
    watch = "to watch it as it is, put your own call inside with lab.observe(...)"
    name = type(pipe).__name__
    foreign = _blocks_name(pipe) not in _BLOCKS or list(_inside(pipe._blocks)) != list(_inside(type(pipe._blocks)()))
    if foreign:
        raise ModelError(
            f"the blocks of this {name} are not those of diffusers ({', '.join(_BLOCKS)}), and the step loop runs no "
            f"others; {watch}"
        )
    scales = {settings.guidance_scale, settings.guidance_scale_2 or settings.guidance_scale}
    if scales != {1.0} and min(scales) <= 1:
        raise ModelError(
            f"guidance scales {sorted(scales)}: a {name} makes one pass where the scale is 1 and two elsewhere, and "
            f"the step loop as many in every step; give scales above 1, or 1 alone; {watch}"
        )
    guiders = [getattr(pipe, part, None) for part in ("guider", "guider_2")]
    for guider in guiders if scales != {1.0} else ():
        if guider is not None and (type(guider).__name__ != "ClassifierFreeGuidance" or _settings(guider) != _PLAIN):
            raise ModelError(
                f"the guider of this {name} is a {type(guider).__name__} with {_settings(guider)}, and the step loop "
                f"guides as ClassifierFreeGuidance(guidance_scale) does; {watch}"
            )


_BLOCKS = ("WanBlocks", "Wan22Blocks", "WanImage2VideoAutoBlocks", "Wan22Image2VideoBlocks")
_PLAIN = {"guidance_rescale": 0.0, "use_original_formulation": False, "start": 0.0, "stop": 1.0, "enabled": True}


def _blocks_name(pipe: Any) -> str:
    return type(pipe._blocks).__name__


def _inside(blocks: Any) -> Iterator[tuple[str, type]]:
    """Blocks by name, from the outside in."""
    for name, block in getattr(blocks, "sub_blocks", {}).items():
        yield name, type(block)
        yield from _inside(block)


def _settings(guider: Any) -> dict[str, Any]:
    """What a guider does beside scaling, as it is now."""
    now = {"start": "_start", "stop": "_stop", "enabled": "_enabled"}
    return {name: getattr(guider, now.get(name, name), None) for name in _PLAIN}


def ordinary(pipe: Any) -> Any:
    """The pipeline itself, or of a modular one the ordinary pipeline of the same components.

    Nothing is copied or changed: it is there for its methods, which encode prompts and pictures as blocks do.
    """
    kind = kind_of(pipe)
    if not kind.modular:
        return pipe
    from diffusers import WanImageToVideoPipeline, WanPipeline

    names = ["tokenizer", "text_encoder", "vae", "scheduler", "transformer", "transformer_2"]
    given = {name: getattr(pipe, name, None) for name in [*names, *["image_encoder", "image_processor"] * kind.image]}
    made = WanImageToVideoPipeline if kind.image else WanPipeline
    return made(**given, boundary_ratio=pipe.config.get("boundary_ratio"))
