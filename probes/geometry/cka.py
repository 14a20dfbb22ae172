"""Centred kernel alignment: are two sets of features of the same rows alike up to rotation and scale?

1 means the same geometry, 0 unrelated. The plain estimate is biased upwards where features are many and rows are few
(two unrelated noise matrices score high), so the unbiased one is the default (Song et al. 2012; Kornblith et al. 2019);
it can fall below 0. Averaged over minibatches it stays unbiased in numerator and denominator (Nguyen et al. 2021).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from probes.errors import ProbeError
from probes.geometry.given import centred, matrix


def cka(x: Any, y: Any, *, kernel: str = "linear", unbiased: bool = True, bandwidth: float = 1.0) -> float:
    """Alignment of ``x`` [row, feature] with ``y`` [row, other].

    Args:
        kernel: "linear", or "rbf" with a width of ``bandwidth`` times the median distance between rows.
        unbiased: leave the diagonal out of the estimate (needs at least 4 rows).
    """
    a, b = _kernel(x, kernel, bandwidth), _kernel(y, kernel, bandwidth)
    if a.shape != b.shape:
        raise ProbeError(f"Both sides need the same rows: {len(a)} and {len(b)} given.")
    return _ratio(*(hsic(u, v, unbiased=unbiased) for u, v in ((a, b), (a, a), (b, b))))


def cka_minibatch(batches: Iterable[tuple[Any, Any]], *, kernel: str = "linear", bandwidth: float = 1.0) -> float:
    """Unbiased alignment over batches of rows ``(x, y)``: the three HSIC terms are averaged before the ratio is
    taken."""
    terms = []
    for batch in batches:
        if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
            raise ProbeError(f"A batch is a pair (x, y) of the same rows; got {type(batch).__name__}.")
        x, y = batch
        a, b = _kernel(x, kernel, bandwidth), _kernel(y, kernel, bandwidth)
        if a.shape != b.shape:
            raise ProbeError(f"A batch needs the same rows on both sides; got {len(a)} and {len(b)}.")
        terms.append([hsic(u, v, unbiased=True) for u, v in ((a, b), (a, a), (b, b))])
    if not terms:
        raise ProbeError("No batches were given.")
    return _ratio(*np.mean(terms, axis=0))


def cka_matrix(
    sites: dict[Any, Any], *, kernel: str = "linear", unbiased: bool = True, bandwidth: float = 1.0
) -> tuple[NDArray[np.float64], list[Any]]:
    """Alignment of every pair of named feature sets of the same rows: [name, name] and the names."""
    names = list(sites)
    kernels = [_kernel(sites[name], kernel, bandwidth) for name in names]
    if len({k.shape for k in kernels}) > 1:
        raise ProbeError(f"All sites need the same rows; got {[len(k) for k in kernels]}.")
    own = [hsic(k, k, unbiased=unbiased) for k in kernels]
    out = np.eye(len(names))
    for i in range(len(names)):
        for j in range(i):
            out[i, j] = out[j, i] = _ratio(hsic(kernels[i], kernels[j], unbiased=unbiased), own[i], own[j])
    return out, names


def hsic(a: torch.Tensor, b: torch.Tensor, *, unbiased: bool = True) -> float:
    """Hilbert-Schmidt independence criterion of two kernel matrices [row, row]."""
    n = len(a)
    if not unbiased:
        centred = a - a.mean(dim=0) - a.mean(dim=1, keepdim=True) + a.mean()
        return float((centred * b).sum() / (n - 1) ** 2)
    if n < 4:
        raise ProbeError(f"The unbiased estimate needs at least 4 rows; {n} given.")
    a, b = a - torch.diag(a.diagonal()), b - torch.diag(b.diagonal())
    total = (a * b).sum() + a.sum() * b.sum() / ((n - 1) * (n - 2)) - 2 * (a.sum(dim=0) @ b.sum(dim=0)) / (n - 2)
    return float(total / (n * (n - 3)))


def _kernel(value: Any, kind: str, bandwidth: float) -> torch.Tensor:
    _, x = centred(matrix(value))  # no kernel here depends on the mean, and products keep their digits
    if kind == "linear":
        return x @ x.T
    if kind != "rbf":
        raise ProbeError(f"kernel={kind!r} is not known; use 'linear' or 'rbf'.")
    squares = (x * x).sum(dim=1)
    distance = (squares[:, None] + squares - 2 * x @ x.T).clamp_min(0)
    above = torch.triu_indices(len(x), len(x), offset=1)
    middle = float(np.median(distance[above[0], above[1]].numpy()))
    if middle == 0:
        raise ProbeError("Most rows are the same, so there is no distance to set the kernel's width by.")
    return torch.exp(-distance / (2 * bandwidth**2 * middle))


def _ratio(xy: float, xx: float, yy: float) -> float:
    if not (xx > 0 and yy > 0):
        raise ProbeError("One of the sites does not vary over these rows, so its alignment is not defined.")
    return float(xy / np.sqrt(xx * yy))
