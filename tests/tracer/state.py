"""Everything of a pipeline that tracing could leave changed, as something that can be compared."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch


def state_of(pipe: Any) -> dict[str, Any]:
    """Module attributes, hooks, forwards and processors by identity; weights, configurations and scheduler by value."""
    found: dict[str, Any] = {"pipe": sorted(vars(pipe)), "config": repr(pipe.config)}
    for part, component in pipe.components.items():
        if isinstance(component, torch.nn.Module):
            for name, module in component.named_modules(prefix=part):
                found[name] = {key: _identity(value) for key, value in vars(module).items()}
            found[f"{part} weights"] = _digest(component.state_dict())
            found[f"{part} config"] = repr(component.config)
    found["scheduler"] = {key: repr(value) for key, value in vars(pipe.scheduler).items()}
    return found


def _identity(value: Any) -> Any:
    if isinstance(value, Mapping):
        return [(str(key), id(one)) for key, one in value.items()]
    if isinstance(value, list):  # the VAE's caches of the last call
        return len(value)
    return value if isinstance(value, bool | int | float | str | type(None)) else id(value)


def _digest(weights: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in weights.items():
        digest.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
