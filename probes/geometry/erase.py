"""Erase a concept from activations so that no linear probe finds it, changing them as little as possible (LEACE).

The eraser is the affine map ``x - S_xz (S_xz' S_xx^-1 S_xz)^-1 S_xz' S_xx^-1 (x - mean)`` (Belrose et al. 2023): after
it, features and concept are uncorrelated on the rows it was fitted to, and among all affine maps with that property it
moves rows least. If what the model does changes when the concept is erased, the concept was used, not only decodable.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probes.errors import ProbeError
from probes.geometry.pca import Covariance


@dataclass(frozen=True)
class Eraser:
    """``x - left @ right @ (x - mean)``, with ``mean`` [feature], ``left`` [feature, rank], ``right`` [rank,
    feature]."""

    mean: NDArray[np.float64]
    left: NDArray[np.float64]
    right: NDArray[np.float64]

    @property
    def rank(self) -> int:
        return self.left.shape[1]

    def __call__(self, x: Any) -> NDArray[np.float64]:
        """Features [..., feature] without the concept."""
        given = np.asarray(x, dtype=np.float64)
        if given.shape[-1:] != self.mean.shape:
            raise ProbeError(f"The eraser is of {len(self.mean)} features; got shape {given.shape}.")
        return np.asarray(given - ((given - self.mean) @ self.right.T) @ self.left.T)

    def save(self, path: str | Path) -> Path:
        """One safetensors file (float64)."""
        from safetensors.numpy import save_file

        save_file({k: np.ascontiguousarray(v) for k, v in vars(self).items()}, path)
        return Path(path)

    @staticmethod
    def load(path: str | Path) -> Eraser:
        """Read what `save` wrote."""
        from safetensors.numpy import load_file

        if not Path(path).is_file():
            raise ProbeError(f"{path} does not exist; give the file that save() wrote.")
        return Eraser(**load_file(path))


class Leace:
    """Fit an `Eraser` from blocks of rows: ``Leace().update(x, z).update(x, z).eraser()``."""

    def __init__(self) -> None:
        self._features, self._shared = Covariance(), Covariance()
        self._classes: tuple[Any, ...] | None = None

    def update(self, x: Any, z: Any) -> Leace:
        """Take rows ``x`` [row, feature] and their concept ``z``: values [row], [row, value], or one-hot classes."""
        concept = np.asarray(z, dtype=np.float64)
        concept = concept[:, None] if concept.ndim == 1 else concept
        self._features.update(x)
        self._shared.update(x, concept)
        return self

    def eraser(self, tolerance: float = 1e-9) -> Eraser:
        """The least-squares optimal eraser; directions whose variance is below ``tolerance`` of the largest are left
        alone."""
        covariance, shared = self._features.covariance(), self._shared.covariance()
        values, vectors = np.linalg.eigh(covariance)
        if not shared.any():
            raise ProbeError("The concept does not vary over these rows, or not with the features: nothing to erase.")
        keep = values > tolerance * max(values[-1], 0.0)
        if not keep.any():
            raise ProbeError("The features do not vary, so there is nothing to erase a concept from.")
        root = np.sqrt(values[keep])
        axes = vectors[:, keep]
        # In whitened coordinates the eraser is the orthogonal projection off the columns of the whitened cross-
        # covariance.
        whitened = (axes / root).T @ shared
        left, size, _ = np.linalg.svd(whitened, full_matrices=False)
        left = left[:, size > 1e-10 * max(size[0], 1e-300)] if size[0] > 0 else left[:, :0]
        return Eraser(self._features.mean.copy(), (axes * root) @ left, (axes / root @ left).T)


def leace(x: Any, z: Any) -> Eraser:
    """Erase ``z`` from ``x`` [row, feature]. Classes (text, booleans, whole numbers [row]) are coded one-hot; other
    ``z`` are values [row] or [row, value]."""
    concept = np.asarray(z)
    if concept.ndim == 1 and (concept.dtype.kind in "bUSiu"):
        names = np.unique(concept)
        if len(names) < 2:
            raise ProbeError(f"The concept is {names[0]!r} in every row; there is nothing to erase.")
        concept = (concept[:, None] == names[1:]).astype(np.float64)
    return Leace().update(x, concept).eraser()
