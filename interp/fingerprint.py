"""Which weights a model has, as a hash that costs milliseconds whatever its size."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from xxhash import xxh3_128_digest

from interp.address.reading import true_tensor
from interp.lora import adapters_of

_SAMPLED_BYTES = 4096


@torch.no_grad()
def fingerprint(pipe: Any) -> str:
    """Content hash of a pipeline's transformers, VAE and text encoder, 16 hexadecimal digits.

    Names, shapes, dtypes and 4 KiB of each tensor are hashed, so it costs the same for 2 M or 14 B parameters; a change
    that leaves every sampled byte of every tensor alone is not seen. LoRA weights and their factors count too. It is
    read anew each time: torch's version counters do not see what is written through ``.data``, as EMA and PEFT do.
    """
    labels: list[bytes] = ["\n".join(adapters_of(pipe)).encode()]
    tensors: list[Tensor] = []
    for part in ("transformer", "transformer_2", "vae", "text_encoder"):
        module = getattr(pipe, part, None)
        if not isinstance(module, torch.nn.Module):
            continue
        for name, found in sorted(module.state_dict(keep_vars=True).items(), key=itemgetter(0)):
            if found.is_meta:
                owner, _, leaf = name.rpartition(".")
                found = true_tensor(module.get_submodule(owner), leaf)
            labels.append(_label(part, name, found.shape, found.dtype))
            tensors.append(found)
    samples = _samples(tensors)
    seen = xxh3_128_digest(b"\n".join(labels)) + b"".join(xxh3_128_digest(one) for one in samples.together)
    if seen not in _HASHES:  # sha256 takes ten times as long, and most often nothing has changed
        content: list[bytes | memoryview] = [labels[0]]
        for label, sample in zip(labels[1:], samples.each(), strict=True):
            content += [label, sample]
        _HASHES[seen] = hashlib.sha256(b"".join(content)).hexdigest()[:16]
    return _HASHES[seen]


_HASHES: dict[bytes, str] = {}


@lru_cache(1 << 15)
def _label(part: str, name: str, shape: torch.Size, dtype: torch.dtype) -> bytes:
    return f"{part}.{name}{tuple(shape)}{dtype}".encode()


@dataclass(frozen=True)
class _Samples:
    """Some bytes of each of many tensors, none of those that are on the meta device.

    Attributes:
        together: the bytes, fetched in one go a device and dtype.
        places: of each tensor: which of ``together``, first byte and byte after the last.
    """

    together: list[memoryview]
    places: list[tuple[int, int, int]]

    def each(self) -> list[memoryview]:
        """Of each tensor."""
        return [self.together[kind][start:stop] for kind, start, stop in self.places]


def _samples(tensors: Sequence[Tensor]) -> _Samples:
    parts = [_sampled(tensor) for tensor in tensors]
    kinds: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, part in enumerate(parts):
        kinds.setdefault((part.device, part.dtype), []).append(i)
    together, places = [memoryview(b"")], [(0, 0, 0)] * len(tensors)
    for (device, dtype), numbers in kinds.items():
        if device.type == "meta":
            continue
        together.append(torch.cat([parts[i] for i in numbers]).cpu().view(torch.uint8).numpy().data)
        stop = 0
        for i in numbers:
            start, stop = stop, stop + parts[i].numel() * dtype.itemsize
            places[i] = (len(together) - 1, start, stop)
    return _Samples(together, places)


def _sampled(tensor: Tensor) -> Tensor:
    """At most 4 KiB of a tensor, evenly spread: [position]."""
    count = max(1, _SAMPLED_BYTES // tensor.element_size())
    stride = max(1, tensor.numel() // count)
    if type(tensor) in (Tensor, torch.nn.Parameter) and tensor.is_contiguous():  # in one operation
        return tensor.as_strided((min(count, -(-tensor.numel() // stride)),), (stride,))
    return tensor.detach().reshape(-1)[::stride][:count]
