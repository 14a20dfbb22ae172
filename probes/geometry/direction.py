"""Directions to steer with: from class means or from a probe, to a file, to an edit.

``edits.add("blocks.3.hook_resid_post", direction.vector, strength)`` adds it, ``edits.project_out`` takes it out. A
strength of 1 moves a row as far as the means of the two classes are apart.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probes.errors import ProbeError
from probes.geometry.given import array, matrix
from probes.known import is_known, labels


@dataclass(frozen=True)
class Direction:
    """A vector in activation space.

    Attributes:
        vector: [feature]; its length is the natural strength.
        about: what it is, JSON-ready: target, step, layer, how it was made.
    """

    vector: NDArray[np.float64]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def unit(self) -> NDArray[np.float64]:
        """The same of length 1."""
        length = float(np.linalg.norm(self.vector))
        if not 0 < length < np.inf:
            raise ProbeError(f"A vector of length {length} has no direction.")
        return np.asarray(self.vector / length)

    @staticmethod
    def of_probe(vector: Any, x: Any, y: Any, **about: Any) -> Direction:
        """A probe's direction, given the length by which the means of two classes are apart along it.

        Args:
            vector: [feature], such as ``grid.direction(step, layer)``.
            x, y: rows [row, feature] and their two classes [row].

        Raises:
            ProbeError: the vector does not fit the rows, or there are not two classes.
        """
        way, given = mean_difference(x, y).vector, array(vector)
        if given.shape != way.shape or not np.isfinite(given).all() or not given.any():
            raise ProbeError(f"A direction of these rows is {len(way)} finite numbers, not all 0; got {given.shape}.")
        unit = given / np.linalg.norm(given)
        return Direction(unit * float(unit @ way), {"from": "probe", **about})

    def save(self, path: str | Path) -> Path:
        """One safetensors file (float32), with ``about`` in its header."""
        from safetensors.numpy import save_file

        save_file({"direction": self.vector.astype(np.float32)}, path, metadata={"about": json.dumps(self.about)})
        return Path(path)

    @staticmethod
    def load(path: str | Path) -> Direction:
        """Read what `save` wrote."""
        from safetensors import safe_open

        if not Path(path).is_file():
            raise ProbeError(f"{path} does not exist; give the file that save() wrote.")
        with safe_open(path, "numpy") as held:
            about = json.loads((held.metadata() or {}).get("about", "{}"))
            return Direction(held.get_tensor("direction").astype(np.float64), about)


class MeanDifference:
    """Class means from blocks of rows: ``MeanDifference().update(x, y).update(x, y).direction()``."""

    def __init__(self) -> None:
        self._rows: dict[Any, int] = {}
        self._sums: dict[Any, NDArray[np.float64]] = {}

    def update(self, x: Any, y: Any) -> MeanDifference:
        """Take rows ``x`` [row, feature] and their classes ``y`` [row]; NaN or None: the row does not count."""
        names = labels(y)
        there = is_known(names)
        if len(x) != len(names) or names.ndim != 1:
            raise ProbeError(f"{len(x)} rows were given, and classes of shape {names.shape}; need one a row.")
        rows, names = matrix(x).cpu().numpy()[there], names[there]
        for name in np.unique(names):
            part = rows[names == name]
            self._rows[name] = self._rows.get(name, 0) + len(part)
            self._sums[name] = self._sums.get(name, 0) + part.sum(axis=0)
        return self

    def direction(self, **about: Any) -> Direction:
        """From the mean of the first class to that of the second, in sorted order.

        Raises:
            ProbeError: there are not two classes.
        """
        names = sorted(self._rows)
        if len(names) != 2:
            raise ProbeError(f"A direction between means needs two classes; got {[str(n) for n in names]}.")
        means = [self._sums[name] / self._rows[name] for name in names]
        return Direction(means[1] - means[0], {"from": "means", "classes": [str(n) for n in names], **about})


def mean_difference(x: Any, y: Any, **about: Any) -> Direction:
    """Difference of the means of two classes; see `MeanDifference`."""
    return MeanDifference().update(x, y).direction(**about)


__all__ = ["Direction", "MeanDifference", "mean_difference"]
