"""Merge LoRA files into the transformers: W + scale B A, for one expert or both, with nothing left over in silence.

Files may be named as DiffSynth names them (``blocks.0.self_attn.q.lora_A.default.weight``), as ComfyUI does
(``diffusion_model.`` in front), or as diffusers does (``transformer.blocks.0.attn1.to_q.lora_A.weight``). Names are
translated by diffusers' own loader; loaded by it alone, a file in DiffSynth's names changes nothing and says so in a
log line. Merging needs no other package and leaves ordinary layers, so every hook point stays what it was. It cannot be
undone: load the model again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from interp.errors import InterpError

Source = str | Path | Mapping[str, Tensor]
_ENDS = ("lora_A.weight", "lora_B.weight", "lora_down.weight", "lora_up.weight", ".alpha", ".diff_b", "lora_B.bias")
_OURS: WeakKeyDictionary[nn.Module, tuple[str, ...]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Merged:
    """What `load` did.

    Attributes:
        layers: expert to the paths of the layers that were changed.
        scale: factor of every update.
    """

    layers: Mapping[str, tuple[str, ...]]
    scale: float


@dataclass(frozen=True)
class _Part:
    """One file for one transformer, checked and ready to be merged."""

    expert: str
    model: nn.Module
    label: str
    updates: Mapping[str, tuple[Tensor | None, Tensor | None, Tensor | None]]  # path to (A, B, bias)


def load(
    target: Any,
    source: Source | None = None,
    *,
    high: Source | None = None,
    low: Source | None = None,
    scale: float = 1.0,
) -> Merged:
    """Merge LoRA weights into a model.

    Args:
        target: a `interp.Lab` or a pipeline.
        source: for a model with a single transformer: a safetensors file, a folder that holds one, or its tensors.
        high, low: the same for the high-noise and the low-noise expert of a model with two; either may be left out.
        scale: factor of every update, on top of the files' own alpha.

    Raises:
        InterpError: no file or the wrong kind of file for this model, keys that fit no layer, layers of another shape,
            hooks already attached, or layers that cannot be changed (fused, compiled, quantised, offloaded). Nothing
            has been changed then.
    """
    pipe = getattr(target, "pipe", target)
    two = getattr(pipe, "transformer_2", None) is not None
    given = {"high": high, "low": low} if two else {"main": source}
    wrong = source is not None if two else high is not None or low is not None
    if wrong or all(one is None for one in given.values()):
        ask = "high= and low= name the files of its two experts" if two else "give the file of its single transformer"
        raise InterpError(f"this model takes LoRA files otherwise: {ask}")
    parts = [_read(pipe, expert, one, scale) for expert, one in given.items() if one is not None]
    for part in parts:
        _merge(part, scale)
        _OURS[part.model] = (*_OURS.get(part.model, ()), part.label)
    return Merged({part.expert: tuple(part.updates) for part in parts}, scale)


def adapters_of(pipe: Any) -> tuple[str, ...]:
    """What was merged into a pipeline's transformers by `load`, and the PEFT adapters on them with their weights."""
    found: list[str] = []
    for name in ("transformer", "transformer_2"):
        model = getattr(pipe, name, None)
        if not isinstance(model, nn.Module):
            continue
        found += _OURS.get(model, ())
        if getattr(model, "peft_config", None):
            scales = {
                f"{adapter} x {float(factor):g}"
                for module in model.modules()
                if getattr(module, "active_adapters", None)
                for adapter, factor in getattr(module, "scaling", {}).items()
                if adapter in module.active_adapters
            }
            found += [f"{name}: PEFT adapter {one}" for one in sorted(scales)]
    return tuple(found)


def _read(pipe: Any, expert: str, source: Source, scale: float) -> _Part:
    model = pipe.transformer_2 if expert == "low" else pipe.transformer
    _check_model(model)
    tensors, name = _tensors_of(source)
    odd = [key for key in tensors if not key.replace(".default.", ".").endswith(_ENDS)]
    if len(odd) == len(tensors):
        raise InterpError(
            f"{name} holds no LoRA: {odd[0] if odd else 'it is empty'}; full weights are loaded with from_pretrained"
        )
    if odd:
        raise InterpError(f"{name} has {len(odd)} keys that are no LoRA weights and would be left over: {odd[0]} ...")
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(key.encode() + tensors[key].reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    label = f"{expert}: {name} sha256:{digest.hexdigest()[:16]} x {scale:g}"
    return _Part(expert, model, label, _fitted(model, _translated(pipe, tensors, name), name))


def _tensors_of(source: Source) -> tuple[dict[str, Tensor], str]:
    if isinstance(source, Mapping):
        return dict(source), "the LoRA"
    path = Path(source)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if len(files) != 1 or not files[0].is_file():
        what = "does not exist" if not path.exists() else f"holds {len(files)} safetensors files, not one"
        raise InterpError(f"the LoRA {source} {what}; give the .safetensors file")
    from safetensors.torch import load_file

    try:
        return load_file(files[0]), files[0].name
    except Exception as error:  # safetensors' own error class is not public
        raise InterpError(f"{files[0]} is not a safetensors file: {error}") from error


def _translated(pipe: Any, tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Keys as diffusers names them below a transformer: "blocks.0.attn1.to_q.lora_A.weight"."""
    plain = {key.replace(".default.", "."): tensor for key, tensor in tensors.items()}
    if any(".self_attn." in key or ".cross_attn." in key or ".ffn.0." in key or ".ffn.2." in key for key in plain):
        plain = {f"diffusion_model.{key.removeprefix('diffusion_model.')}": tensor for key, tensor in plain.items()}
    try:
        found = type(pipe).lora_state_dict(plain)
    except (ValueError, KeyError) as error:
        raise InterpError(f"diffusers cannot read the keys of {name}: {error}") from error
    prefixes = {key.split(".")[0] for key in found} & {"transformer", "transformer_2"}
    if len(prefixes) > 1:
        raise InterpError(f"{name} holds both experts; split it, and give each with high= and low=")
    return {key.removeprefix("transformer.").removeprefix("transformer_2."): t for key, t in found.items()}


def _fitted(
    model: nn.Module, tensors: Mapping[str, Tensor], name: str
) -> dict[str, tuple[Tensor | None, Tensor | None, Tensor | None]]:
    """Updates by layer: every key has a layer, every A its B, every shape fits."""
    layers = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    found: dict[str, dict[str, Tensor]] = {}
    left = []
    for key, tensor in tensors.items():
        path, _, end = key.rpartition(".lora_")
        if path in layers and end in ("A.weight", "B.weight", "B.bias"):
            found.setdefault(path, {})[end] = tensor
        else:
            left.append(key)
    if left:
        raise InterpError(f"{len(left)} of {len(tensors)} keys of {name} fit no layer of the model: {left[0]} ...")
    if not found:
        raise InterpError(f"{name} changes no layer of the model")
    updates = {}
    for path, ends in found.items():
        a, b, bias = (ends.get(end) for end in ("A.weight", "B.weight", "B.bias"))
        layer = layers[path]
        if (a is None) != (b is None):
            raise InterpError(f"{name} has only one of lora_A and lora_B for {path}")
        if (
            a is not None
            and b is not None
            and (b.shape[0], a.shape[1], b.shape[1]) != (*layer.weight.shape, a.shape[0])
        ):
            raise InterpError(
                f"{name} was made for another model: {path} is {tuple(layer.weight.shape)}, "
                f"and B A is {tuple(b.shape)} x {tuple(a.shape)}"
            )
        if bias is not None and (layer.bias is None or layer.bias.shape != bias.shape):
            raise InterpError(f"{name} was made for another model: it changes a bias of {path} that does not fit")
        updates[path] = (a, b, bias)
    if not any(bool(t.any()) for ends in found.values() for end, t in ends.items() if end != "A.weight"):
        raise InterpError(f"{name} changes nothing: all of its B are zero, as before training")
    return updates


def _check_model(model: nn.Module) -> None:
    for path, module in model.named_modules():
        hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        if any((getattr(hook, "__module__", None) or "").startswith("interp.") for hook in hooks):
            raise InterpError("a run is being traced; load LoRA weights before lab.observe or lab.run, not during it")
        if getattr(module, "fused_projections", False):
            raise InterpError(f"{path} has fused projections; call transformer.unfuse_qkv_projections() first")
        if hasattr(module, "base_layer"):
            raise InterpError(
                f"{path} already has a PEFT adapter; call pipe.fuse_lora(...) and pipe.unload_lora_weights() first"
            )
        if isinstance(module, nn.Linear):
            if module.weight.is_meta:
                raise InterpError(f"the weights of {path} are offloaded; load LoRA weights before offloading")
            if not module.weight.is_floating_point() or type(module.weight) is not nn.Parameter:
                raise InterpError(f"{path} is quantised, so nothing can be merged into it; load it in bf16 or fp32")


@torch.no_grad()
def _merge(part: _Part, scale: float) -> None:
    """In fp32, rounded once to the layer's own dtype."""
    for path, (a, b, bias) in part.updates.items():
        layer: Any = part.model.get_submodule(path)
        weight = layer.weight
        if a is not None and b is not None:
            change = b.to(weight.device, torch.float32) @ a.to(weight.device, torch.float32)
            weight.copy_((weight.float() + scale * change).to(weight.dtype))
        if bias is not None:
            layer.bias.copy_((layer.bias.float() + scale * bias.to(weight.device, torch.float32)).to(layer.bias.dtype))
