"""Between what a module takes or gives and the tensor of a hook point, in both directions.

Tensors of hook points are [batch, <site axes>]. The rotary tables alone have one row for the whole batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from interp.address.site import Site
from interp.errors import InterpError


def value_of(site: Site, raw: Any, module: nn.Module, model: nn.Module) -> Tensor:
    """The tensor of a hook point.

    Args:
        site: a site of the "module" tier.
        raw: the argument (``site.argument``) or the output of the hooked module.
        module: the hooked module.
        model: the transformer it belongs to.
    """
    kind, _, number = site.transform.partition(".")
    match kind:
        case "heads":
            return raw.unflatten(-1, (model.config.num_attention_heads, -1))
        case "tokens":
            return raw.flatten(2).transpose(1, 2)
        case "six":
            return raw.unflatten(-1, (6, -1))
        case "row":
            return weight_of(module, "scale_shift_table", raw.device)[0, int(number)] + raw.float()[..., int(number), :]
        case "head_row":
            return weight_of(model, "scale_shift_table", raw[0].device)[0, int(number)] + raw[0]
        case "rope":
            return raw[int(number)][:, :, 0]
        case "pair":
            return raw[int(number)]
        case "sample":
            return raw[0] if isinstance(raw, tuple) else raw.sample
        case "image":
            paired = module.pos_embed is not None  # first and last frame arrive as two rows
            return raw.reshape(-1, 2 * raw.shape[1], raw.shape[2]) if paired else raw
    return raw


def raw_of(site: Site, value: Tensor, raw: Any, module: nn.Module) -> Any:
    """What the module has to take or give instead of ``raw`` for the hook point to be ``value``.

    Modulation vectors come back in fp32 whatever ``raw`` was: the block adds its table in fp32, so nothing is rounded
    that an edit did not ask for.

    Args:
        site: a site of the "module" tier that modules can write.
        value: [batch, <site axes>], as `value_of` gives it.
        raw: what `value_of` was given.
        module: the hooked module.
    """
    kind, _, number = site.transform.partition(".")
    match kind:
        case "heads" | "six":
            return value.flatten(-2)
        case "tokens":
            return value.transpose(1, 2).reshape(raw.shape)
        case "row":
            changed = raw.float().clone()
            changed[..., int(number), :] = value - weight_of(module, "scale_shift_table", raw.device)[0, int(number)]
            return changed
        case "rope":
            return tuple(value.unsqueeze(2) if k == int(number) else table for k, table in enumerate(raw))
        case "pair":
            return tuple(value if k == int(number) else one for k, one in enumerate(raw))
        case "sample":
            return (value, *raw[1:]) if isinstance(raw, tuple) else type(raw)(sample=value)
        case "image":
            return value.reshape(raw.shape)
    return value


def weight_of(module: nn.Module, name: str, device: torch.device | None = None) -> Tensor:
    """A module's own parameter, also while offloading keeps it elsewhere; moved to ``device`` if one is given.

    Raises:
        InterpError: it is offloaded in a way that cannot be looked into.
    """
    found = true_tensor(module, name)
    if found.is_meta and (device is None or device.type != "meta"):
        raise InterpError(f"the {name} of a {type(module).__name__} is offloaded to where it cannot be read")
    return found if device is None else found.to(device)


def true_tensor(module: nn.Module, name: str) -> Tensor:
    """A module's own parameter or buffer; on the meta device if it is offloaded to where it cannot be read.

    While accelerate offloads a module it puts the true tensor in its place only around the module's forward.
    """
    found: Tensor = getattr(module, name)
    if isinstance(found, Tensor) and found.is_meta:
        hook = getattr(module, "_hf_hook", None)
        for one in getattr(hook, "hooks", (hook,)):
            weights = getattr(one, "weights_map", None)
            if weights is not None and name in weights:
                kept: Tensor = weights[name]
                return kept
    return found


def pick(site: Site, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The argument that a site of port "input" is read from, in what its module was called with."""
    position, keyword = site.argument
    return args[position] if position < len(args) else kwargs[keyword]


def put(site: Site, new: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The call with that argument replaced."""
    position, keyword = site.argument
    if position < len(args):
        return (*args[:position], new, *args[position + 1 :]), kwargs
    return args, {**kwargs, keyword: new}
