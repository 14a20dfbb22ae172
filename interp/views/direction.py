"""Projections of the last axis onto directions: given ones, from a probe say, or random ones that keep distances."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from interp.errors import SelectionError
from interp.tasks.sample import Sample
from interp.views.pool import CHUNK
from interp.views.view import Compute, Given, Made, View, number

_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")


def projected(tensor: Tensor, directions: Tensor) -> Tensor:
    """Dot products over the last axis in fp32: [..., feature] to [..., direction]; a chunk of rows at a time."""
    flat = tensor.reshape(-1, tensor.shape[-1])
    matrix = directions.to(flat.device).T
    found = flat.new_empty((len(flat), matrix.shape[1]), dtype=torch.float32)
    size = max(1, CHUNK // max(1, flat.shape[1]))
    for start in range(0, len(flat), size):
        found[start : start + size] = flat[start : start + size].float() @ matrix
    return found.reshape(*tensor.shape[:-1], matrix.shape[1])


@dataclass(frozen=True)
class Project(View):
    """Dot products with given directions; see `project`.

    Attributes:
        label: what the directions are.
        names: of the directions, one each.
        width: numbers in a direction.
        data: float32 [direction, feature], row-major, little-endian.
    """

    label: str
    names: tuple[str, ...]
    width: int
    data: bytes
    kind: ClassVar[str] = "project"

    def parameters(self) -> tuple[str, ...]:
        """See `View.parameters`."""
        content = repr((self.names, self.width)).encode() + self.data
        return (f"{self.label}.{hashlib.sha256(content).hexdigest()[:8]}",)

    @classmethod
    def of_parameters(cls, said: Sequence[str]) -> View:
        """See `View.of_parameters`."""
        raise SelectionError(
            f"{'-'.join((cls.kind, *said))!r}: the name does not hold the directions; use project(...)"
        )

    def declaration(self) -> dict[str, Any]:
        """See `View.declaration`."""
        data = base64.b64encode(self.data).decode()
        return {"view": self.name, "label": self.label, "names": list(self.names), "float32": data}

    @classmethod
    def of_declaration(cls, declared: Mapping[str, Any]) -> View:
        """The view of a `declaration`."""
        data, names = base64.b64decode(declared["float32"]), tuple(declared["names"])
        return cls(declared["label"], names, len(data) // 4 // len(names), data)

    @property
    def directions(self) -> np.ndarray:
        """float32 [direction, feature]."""
        return np.frombuffer(self.data, "<f4").reshape(len(self.names), self.width)

    def plan(self, given: Given) -> Made:
        """See `View.plan`."""
        dim = given.feature_dim(self)
        if given.shape[dim - 1] != self.width:
            raise SelectionError(
                f"{self.name} does not fit {given.site}: directions have {self.width} numbers, and its axis "
                f"{given.axes[-1]!r} has {given.shape[-1]}"
            )
        return _with_last(given, "direction", len(self.names), {"direction": self.names})

    def computer(self, given: Given, samples: Sequence[Sample]) -> Compute:
        """See `View.computer`."""
        directions = torch.from_numpy(self.directions.copy())
        return lambda tensor: projected(tensor, directions)

    def __repr__(self) -> str:
        return f"Project({self.name!r}, names={self.names})"


@dataclass(frozen=True)
class RandomProjection(View):
    """Dot products with random directions; see `random_projection`."""

    k: int
    seed: int = 0
    kind: ClassVar[str] = "random_projection"

    def parameters(self) -> tuple[str, ...]:
        """See `View.parameters`."""
        return (str(self.k), *([str(self.seed)] if self.seed else []))

    @classmethod
    def of_parameters(cls, said: Sequence[str]) -> View:
        """See `View.of_parameters`."""
        if len(said) not in (1, 2):
            raise SelectionError(f"{'-'.join((cls.kind, *said))!r}: write random_projection-<k> or -<k>-<seed>")
        return cls(number(said[0], "a number of directions"), *(number(s, "a seed", 0) for s in said[1:]))

    def plan(self, given: Given) -> Made:
        """See `View.plan`."""
        given.feature_dim(self)
        return _with_last(given, "component", self.k, {})

    def directions(self, width: int) -> Tensor:
        """The directions for vectors of a width: float32 [component, feature], the same on every machine."""
        numbers = np.random.Generator(np.random.PCG64(self.seed)).standard_normal((self.k, width))
        return torch.from_numpy((numbers / self.k**0.5).astype(np.float32))

    def computer(self, given: Given, samples: Sequence[Sample]) -> Compute:
        """See `View.computer`."""
        directions = self.directions(given.shape[-1])
        return lambda tensor: projected(tensor, directions)


def _with_last(given: Given, axis: str, size: int, coords: Mapping[str, tuple[int | str, ...]]) -> Made:
    tokens = given.tokens if "token" in given.axes else None
    return Made((*given.axes[:-1], axis), (*given.shape[:-1], size), (given.site,), tokens=tokens, coords=coords)


def project(directions: Any, label: str = "directions", names: Sequence[str] | None = None) -> View:
    """Dot products of every vector with given directions: the last axis becomes "direction".

    Args:
        directions: [direction, feature] or one [feature], NumPy or torch; kept as float32 in the store, so that it
            describes itself.
        label: what they are, for the view's name.
        names: of the directions; their numbers if None.

    Raises:
        SelectionError: they are no finite matrix, or names do not fit.
    """
    matrix = np.asarray(directions.detach().float().cpu() if isinstance(directions, Tensor) else directions)
    matrix = np.atleast_2d(matrix)
    if matrix.ndim != 2 or not matrix.size or matrix.dtype.kind not in "fiu" or not np.isfinite(matrix).all():
        raise SelectionError(f"directions of shape {matrix.shape} of {matrix.dtype} are not a matrix of finite numbers")
    if not _WORD.fullmatch(label):
        raise SelectionError(f"label={label!r} cannot be part of a view's name; use letters, digits and '_'")
    chosen = tuple(map(str, range(len(matrix)))) if names is None else tuple(names)
    if len(chosen) != len(matrix):
        raise SelectionError(f"{len(chosen)} names were given for {len(matrix)} directions")
    return Project(label, chosen, matrix.shape[1], matrix.astype("<f4").tobytes())


def random_projection(k: int, seed: int = 0) -> View:
    """Dot products with ``k`` Gaussian directions of variance 1/k, which keep distances; the last axis becomes
    "component".

    Args:
        k: how many; distances come out within about sqrt(8 ln(n) / k) for n vectors.
        seed: of the directions.

    Raises:
        SelectionError: a number out of range.
    """
    return RandomProjection.of_parameters([str(k), str(seed)])
