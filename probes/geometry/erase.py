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
from probes.geometry.given import array
from probes.geometry.pca import Covariance
from probes.known import is_known, labels


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
        given = array(x)
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


MOST_CLASSES = 64
"""Whole numbers of more values than that are taken for values and not for classes."""


class Leace:
    """Fit an `Eraser` from blocks of rows: ``Leace().update(x, z).update(x, z).eraser()``.

    Args:
        classes: names of the classes [class], where ``z`` [row] names them; None where ``z`` are values.
    """

    def __init__(self, classes: Any = None) -> None:
        self._features, self._shared = Covariance(), Covariance()
        self._classes = None if classes is None else np.unique(np.asarray(classes))

    def update(self, x: Any, z: Any) -> Leace:
        """Take rows ``x`` [row, feature] and their concept ``z``: values [row] or [row, value], or classes [row]. Rows
        whose concept is NaN or None do not count.

        Raises:
            ProbeError: a class that was not named, text that is no class, or shapes that do not fit.
        """
        concept = labels(z)
        if concept.ndim not in (1, 2) or len(concept) != len(x):
            raise ProbeError(f"A concept is [row] or [row, value] for {len(x)} rows; got shape {concept.shape}.")
        there = is_known(concept).reshape(len(concept), -1).all(axis=1)
        concept, rows = concept[there], x if there.all() else array(x)[there]
        if self._classes is not None:
            strange = set(concept.reshape(-1).tolist()) - set(self._classes.tolist())
            if concept.ndim != 1 or strange:
                raise ProbeError(f"Classes are {self._classes.tolist()}, one a row; got {sorted(map(str, strange))}.")
            concept = concept[:, None] == self._classes[1:]
        elif concept.dtype.kind not in "biuf":
            raise ProbeError("The concept is no number. Name its classes: Leace(classes=[...]).")
        concept = concept.astype(np.float64).reshape(len(concept), -1)
        self._features.update(rows)
        self._shared.update(rows, concept)
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
    """Erase ``z`` from ``x`` [row, feature].

    Args:
        x: rows.
        z: classes [row] (text, bools, whole numbers of any format), all of which are erased and not only their order;
            or values [row] or [row, value]. Rows where it is NaN or None do not count.

    Raises:
        ProbeError: the concept does not vary, or not with the features.
    """
    concept = labels(z)
    if concept.ndim != 1:
        return Leace().update(x, concept).eraser()
    names = np.unique(concept[is_known(concept)])
    text = names.dtype.kind not in "biuf"
    whole = text or (len(names) <= MOST_CLASSES and bool((names == np.round(names)).all()))
    if len(names) < 2:
        there = f"{names[0]!r} in every row" if len(names) else "not known of any row"
        raise ProbeError(f"The concept is {there}; there is nothing to erase.")
    return Leace(names if whole else None).update(x, concept).eraser()
