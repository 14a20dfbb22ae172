"""Which weights a model has, as a hash that takes milliseconds whatever its size, and whether they have changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from xxhash import xxh3_128_digest

from interp.address.reading import true_tensor
from interp.lora import adapters_of
from interp.modules import modules_of

_SAMPLED_BYTES, _GLANCED_BYTES = 4096, 256


@torch.no_grad()
def fingerprint(pipe: Any) -> str:
    """Content hash of a pipeline's transformers, VAE and text encoder, 16 hexadecimal digits.

    Names, shapes, dtypes and 4 KiB of each tensor are hashed, so it costs the same for 2 M or 14 B parameters; a change
    that leaves every sampled byte of every tensor alone is not seen. LoRA weights and their factors count too. It is
    read anew each time.
    """
    named: list[tuple[str, Tensor]] = []
    for part, module in _parts(pipe):
        for name, found in sorted(module.state_dict(keep_vars=True).items(), key=itemgetter(0)):
            if found.is_meta:
                owner, _, leaf = name.rpartition(".")
                found = true_tensor(module.get_submodule(owner), leaf)
            named.append((f"{part}.{name}{tuple(found.shape)}{found.dtype}", found))
    content: list[bytes | memoryview] = ["\n".join(adapters_of(pipe)).encode()]
    samples = _Samples.of([tensor for _, tensor in named], _SAMPLED_BYTES)
    for (name, _), sample in zip(named, samples.each(), strict=True):
        content += [name.encode(), sample]
    taken = hashlib.sha256(b"".join(content)).hexdigest()[:16]
    _LAST[pipe] = (_glance(pipe), taken)
    return taken


def fingerprint_now(pipe: Any) -> str:
    """The fingerprint as last taken where nothing speaks for a change since, else taken anew.

    What speaks for one: other tensors, or elsewhere, or written to, or with other adapters. torch does not count what
    is written through ``.data``, as EMA and PEFT do, so 256 bytes of each tensor are compared, too.
    """
    seen, taken = _LAST.get(pipe, (None, ""))
    return taken if seen is not None and seen == _glance(pipe) else fingerprint(pipe)


_LAST: WeakKeyDictionary[Any, tuple[Any, str]] = WeakKeyDictionary()


@torch.no_grad()
def _glance(pipe: Any) -> Any:
    """What would change with the weights; None if that cannot be told, as of offloaded or quantised ones."""
    owners = [module for _, part in _parts(pipe) for module in modules_of(part).values()]
    tensors = [t for own in owners for t in (*own._parameters.values(), *own._buffers.values()) if t is not None]
    if any(type(t) not in (Tensor, nn.Parameter) or t.is_meta for t in tensors):
        return None
    marks = [(id(t), t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors]
    samples = _Samples.of(tensors, _GLANCED_BYTES)
    return adapters_of(pipe), marks, [xxh3_128_digest(one) for one in samples.together]


def _parts(pipe: Any) -> Iterator[tuple[str, nn.Module]]:
    for part in ("transformer", "transformer_2", "vae", "text_encoder"):
        module = getattr(pipe, part, None)
        if isinstance(module, nn.Module):
            yield part, module


@dataclass(frozen=True)
class _Samples:
    """Some bytes of each of many tensors, none of those that are on the meta device.

    Attributes:
        parts: of each tensor.
        kinds: by device and dtype, the numbers of its parts.
        together: their bytes, fetched in one go.
    """

    parts: list[Tensor]
    kinds: dict[tuple[torch.device, torch.dtype], list[int]]
    together: list[memoryview]

    @staticmethod
    def of(tensors: Sequence[Tensor], nbytes: int) -> _Samples:
        """At most that many bytes of each."""
        parts = [_sampled(tensor, nbytes) for tensor in tensors]
        kinds: dict[tuple[torch.device, torch.dtype], list[int]] = {}
        for i, part in enumerate(parts):
            if not part.is_meta:
                kinds.setdefault((part.device, part.dtype), []).append(i)
        fetched = (torch.cat([parts[i] for i in numbers]).cpu() for numbers in kinds.values())
        return _Samples(parts, kinds, [one.view(torch.uint8).numpy().data for one in fetched])

    def each(self) -> list[memoryview]:
        """Of each tensor."""
        found = [memoryview(b"")] * len(self.parts)
        for whole, numbers in zip(self.together, self.kinds.values(), strict=True):
            stop = 0
            for i in numbers:
                start, stop = stop, stop + self.parts[i].nbytes
                found[i] = whole[start:stop]
        return found


def _sampled(tensor: Tensor, nbytes: int) -> Tensor:
    """At most that many bytes of a tensor, evenly spread: [position]."""
    count = max(1, nbytes // tensor.element_size())
    stride = max(1, tensor.numel() // count)
    if type(tensor) in (Tensor, nn.Parameter) and tensor.is_contiguous():  # in one operation
        return tensor.as_strided((min(count, -(-tensor.numel() // stride)),), (stride,))
    return tensor.detach().reshape(-1)[::stride][:count]
