"""Number formats by name: how they lie in a file, how they are moved as bits, and what NumPy makes of them.

bfloat16 has a native HDF5 type but none in NumPy. HDF5's own conversion to float32 runs at 15-29 MB/s, about a hundred
times slower than a disk, so bits are moved as uint16 and widened here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from h5py import h5t

from interp.errors import StoreError, suggest


@dataclass(frozen=True)
class DType:
    """One number format.

    Attributes:
        name: as torch calls it ("bfloat16", "float32" ...).
        bits: NumPy dtype in which the bits are moved, little-endian.
    """

    name: str
    bits: np.dtype

    @property
    def itemsize(self) -> int:
        """Bytes of one number."""
        return self.bits.itemsize

    @cached_property
    def values(self) -> np.dtype:
        """NumPy dtype of the values: that of the bits, float32 for bfloat16."""
        return np.dtype("<f4") if self.name == "bfloat16" else self.bits

    @cached_property
    def torch(self) -> Any:
        """The torch dtype."""
        import torch

        return getattr(torch, self.name)

    def h5(self) -> Any:
        """The HDF5 type, a fresh h5py ``TypeID``."""
        return _bfloat16_h5() if self.name == "bfloat16" else h5t.py_create(self.bits).copy()

    def widen(self, bits: np.ndarray) -> np.ndarray:
        """Bits [...] to values [...]: bfloat16 becomes float32, exactly; everything else is given back as it is."""
        if self.name != "bfloat16":
            return bits
        wide = bits.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)

    def to_torch(self, bits: np.ndarray) -> Any:
        """Bits [...] to a torch tensor [...] of this format, sharing memory."""
        import torch

        tensor = torch.from_numpy(bits)
        return tensor.view(torch.bfloat16) if self.name == "bfloat16" else tensor

    def address_of(self, tensor: Any, shape: tuple[int, ...]) -> int | None:
        """Where the bytes of a torch tensor lie, if it has this format and shape and is contiguous in main memory.

        Small tensors come by the ten thousand; copying one from its address takes a third of the time of making a
        NumPy array of it first.
        """
        if (
            getattr(tensor, "dtype", None) is self.torch
            and tuple(tensor.shape) == shape  # three times faster than comparing a torch.Size with a tuple
            and tensor.is_cpu
            and tensor.is_contiguous()
            and not tensor.is_neg()
        ):
            return int(tensor.data_ptr())
        return None

    def bits_of(self, tensor: Any) -> np.ndarray:
        """The bits [...] of a torch tensor or NumPy array [...], sharing memory where that is possible.

        Raises:
            StoreError: it holds another number format. Nothing is rounded behind the caller's back.
        """
        if isinstance(tensor, np.ndarray):
            if tensor.dtype == self.values and self.name != "bfloat16":
                return tensor
            if tensor.dtype.name == self.name:  # ml_dtypes.bfloat16
                return tensor.view(self.bits)
        elif getattr(tensor, "dtype", None) is self.torch:
            if tensor.requires_grad:
                tensor = tensor.detach()
            if not tensor.is_cpu:
                tensor = tensor.cpu()
            return (tensor.view(_uint16()) if self.name == "bfloat16" else tensor).numpy()
        got = str(getattr(tensor, "dtype", type(tensor).__name__)).removeprefix("torch.")
        raise StoreError(f"got {got} where {self.name} is stored; convert it first: tensor.to(torch.{self.name})")


@cache
def _uint16() -> Any:
    import torch

    return torch.uint16


def _bfloat16_h5() -> Any:
    """HDF5's native little-endian bfloat16, built from its fields because h5py has no name for it."""
    kind = h5t.IEEE_F16LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_ebias(127)
    return kind


DTYPES: dict[str, DType] = {
    name: DType(name, np.dtype(bits))
    for name, bits in {
        "bfloat16": "<u2",
        "float16": "<f2",
        "float32": "<f4",
        "float64": "<f8",
        "int8": "i1",
        "uint8": "u1",
        "int16": "<i2",
        "int32": "<i4",
        "int64": "<i8",
    }.items()
}


def dtype_named(name: str) -> DType:
    """The number format of that name.

    Raises:
        StoreError: there is none.
    """
    if name not in DTYPES:
        raise StoreError(f"dtype {name!r} cannot be stored{suggest(name, DTYPES)}; there are {', '.join(DTYPES)}")
    return DTYPES[name]


def dtype_of_h5(kind: Any) -> DType | None:
    """The number format of an HDF5 type, or None if it is not one of ours."""
    return next((dtype for dtype in DTYPES.values() if kind.equal(dtype.h5())), None)
