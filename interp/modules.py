"""The modules of a model by their paths, and where they run."""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from torch import nn


def modules_of(model: nn.Module) -> dict[str, nn.Module]:
    """Every module below a model, and itself, under each path that it has.

    As ``named_modules(remove_duplicate=False)``, in a tenth of its time: runs may take a fraction of a second.
    """
    found, queue = {"": model}, [("", model)]
    for path, module in queue:  # which grows meanwhile
        for name, child in module._modules.items():
            if child is not None:
                queue.append((f"{path}.{name}" if path else name, child))
                found[queue[-1][0]] = child
    return found


def execution_device(pipe: Any) -> torch.device:
    """Where a pipeline computes: its ``_execution_device``, in a tenth of the time if nothing is offloaded or split."""
    parts = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    queue = list(parts)
    for module in queue:  # which grows meanwhile
        queue += [child for child in module._modules.values() if child is not None]
        own = vars(module)
        if "_hf_hook" in own or ("_diffusers_hook" in own and own["_diffusers_hook"].hooks):
            return torch.device(pipe._execution_device)
    devices = {weight.device for part in parts for weight in islice(part.parameters(), 1)}
    return devices.pop() if len(devices) == 1 else torch.device(pipe._execution_device)
