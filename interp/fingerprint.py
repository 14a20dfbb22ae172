"""Which weights a model has, as a hash that takes milliseconds whatever its size, and whether they have changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from ctypes import string_at
from operator import itemgetter
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from interp.address.reading import true_tensor
from interp.lora import adapters_of

_SAMPLED_BYTES, _GLANCED_BYTES = 4096, 64
_PLAIN = (Tensor, nn.Parameter)


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
    for (name, _), sample in zip(named, _samples([tensor for _, tensor in named]), strict=True):
        content += [name.encode(), sample]
    taken = hashlib.sha256(b"".join(content)).hexdigest()[:16]
    _LAST[pipe] = (_glance(pipe), taken)
    return taken


def fingerprint_now(pipe: Any) -> str:
    """The fingerprint as last taken where nothing speaks for a change since, else taken anew.

    What speaks for one: other tensors, or elsewhere, or written to, or with other adapters. torch does not count what
    is written through ``.data``, as EMA and PEFT do, so 64 bytes of each tensor are compared, too.
    """
    seen, taken = _LAST.get(pipe, (None, ""))
    return taken if seen is not None and seen == _glance(pipe) else fingerprint(pipe)


_LAST: WeakKeyDictionary[Any, tuple[Any, str]] = WeakKeyDictionary()


@torch.no_grad()
def _glance(pipe: Any) -> Any:
    """What would change with the weights; None if that cannot be told, as of offloaded or quantised ones."""
    marks: list[int | bytes] = []
    elsewhere: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    queue = [module for _, module in _parts(pipe)]
    for module in queue:  # which grows meanwhile; runs may take a fraction of a second, so it is kept short
        queue += [child for child in module._modules.values() if child is not None]
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is None:
                continue
            at = tensor.data_ptr() if type(tensor) in _PLAIN else 0
            if not at and tensor.numel():
                return None
            marks += (id(tensor), at, 0 if tensor.is_inference() else tensor._version)
            if tensor.is_cpu and tensor.is_contiguous():  # in a tenth of the time that a view of it takes
                over = max(0, tensor.nbytes - _GLANCED_BYTES)
                marks.append(string_at(at + over // 2, min(tensor.nbytes, _GLANCED_BYTES)))
            else:
                elsewhere.setdefault((tensor.device, tensor.dtype), []).append(_sampled(tensor, _GLANCED_BYTES))
    return adapters_of(pipe), marks, [bytes(_bytes(parts)) for parts in elsewhere.values()]


def _parts(pipe: Any) -> Iterator[tuple[str, nn.Module]]:
    for part in ("transformer", "transformer_2", "vae", "text_encoder"):
        module = getattr(pipe, part, None)
        if isinstance(module, nn.Module):
            yield part, module


def _samples(tensors: Sequence[Tensor]) -> list[memoryview]:
    """Some bytes of each tensor, none of those that are on the meta device; fetched together, a device and dtype."""
    kinds: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    parts = [_sampled(tensor, _SAMPLED_BYTES) for tensor in tensors]
    for i, part in enumerate(parts):
        if not part.is_meta:
            kinds.setdefault((part.device, part.dtype), []).append(i)
    found = [memoryview(b"")] * len(tensors)
    for numbers in kinds.values():
        together, stop = _bytes([parts[i] for i in numbers]), 0
        for i in numbers:
            start, stop = stop, stop + parts[i].nbytes
            found[i] = together[start:stop]
    return found


def _bytes(parts: Sequence[Tensor]) -> memoryview:
    """Of tensors [position] of one device and dtype, one after the other."""
    return torch.cat(list(parts)).cpu().view(torch.uint8).numpy().data


def _sampled(tensor: Tensor, nbytes: int) -> Tensor:
    """At most that many bytes of a tensor, evenly spread: [position]."""
    numel, count = tensor.numel(), nbytes // tensor.itemsize
    stride = numel // count or 1
    if type(tensor) in _PLAIN and tensor.is_contiguous():  # in one operation
        return tensor.as_strided((min(count, -(-numel // stride)),), (stride,))
    return tensor.detach().reshape(-1)[::stride][:count]
