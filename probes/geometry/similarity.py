"""How alike are two sets of features of the same rows? RSA, Procrustes, subspace overlap; CKA is in its own module.

Each is 1 for the same geometry and does not see rotation or (but for subspace overlap) scale. They differ in what
counts: CKA and Procrustes weigh directions by their variance, RSA looks only at the order of distances, subspace
overlap ignores variance within the leading components. High-dimensional noise scores high on Procrustes and on the
plain CKA, so a value alone says little: compare with rows shuffled (`compare` gives that as ``chance``).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from probes.errors import ProbeError
from probes.folds import group_keys
from probes.geometry.cka import cka
from probes.geometry.given import centred, matrix
from probes.geometry.pca import Components, pca


def rsa(x: Any, y: Any, *, distance: str = "euclidean", rank: bool = True) -> float:
    """Representational similarity: correlation of the distances between rows of ``x`` [row, feature] with those of
    ``y`` [row, other] (Kriegeskorte et al. 2008).

    Args:
        distance: of `scipy.spatial.distance.pdist`, such as "euclidean", "cosine", "correlation".
        rank: Spearman's correlation; Pearson's if not.
    """
    from scipy.spatial.distance import pdist
    from scipy.stats import pearsonr, spearmanr

    a, b = _rows(x, y, least=3)
    first, second = (pdist(v.cpu().numpy(), distance) for v in (a, b))
    if np.ptp(first) == 0 or np.ptp(second) == 0 or not np.isfinite(first).all() or not np.isfinite(second).all():
        raise ProbeError("All rows of one side are equally far apart, so the correlation is not defined.")
    return float((spearmanr if rank else pearsonr)(first, second)[0])


def procrustes(x: Any, y: Any) -> float:
    """Share of a rotation's best fit: nuclear norm of ``x' y`` over both Frobenius norms, after centring (Ding et al.
    2021). The usual distance squared is ``2 - 2 *`` this."""
    a, b = _rows(x, y, least=2)
    (_, a), (_, b) = centred(a), centred(b)
    size = float(a.norm() * b.norm())
    if size == 0:
        raise ProbeError("One of the sides does not vary over these rows, so nothing can be fitted to it.")
    return float(torch.linalg.matrix_norm(a.T @ b, ord="nuc") / size)


def subspace_overlap(x: Components | Any, y: Components | Any, components: int | None = None) -> float:
    """Mean squared cosine of the principal angles between leading subspaces of the same features.

    1: the same subspace, 0: orthogonal; two random ones of k in d dimensions overlap by k / d.

    Args:
        x, y: `Components` (which may have been streamed), or rows [row, feature].
        components: how many; all that ``x`` has if None.
    """
    first, second = (v if isinstance(v, Components) else pca(v, components) for v in (x, y))
    k = len(first.axes) if components is None else components
    if first.axes.shape[1] != second.axes.shape[1]:
        raise ProbeError(f"Subspaces of {first.axes.shape[1]} and {second.axes.shape[1]} features cannot be compared.")
    if not 1 <= k <= min(len(first.axes), len(second.axes)):
        raise ProbeError(f"components={k}: there are {len(first.axes)} and {len(second.axes)}.")
    return float(((first.axes[:k] @ second.axes[:k].T) ** 2).sum() / k)


MEASURES: Mapping[str, Callable[..., float]] = {
    "cka": cka,
    "rsa": rsa,
    "procrustes": procrustes,
    "subspace": subspace_overlap,
}


COLUMNS = ("first", "second", "value", "low", "high", "chance")


def compare(
    sites: Mapping[Any, Any],
    measure: str = "cka",
    *,
    pairs: Iterable[tuple[Any, Any]] | None = None,
    shuffles: int = 0,
    groups: Any = None,
    parts: int = 20,
    level: float = 0.95,
    seed: int = 0,
    **options: Any,
) -> pl.DataFrame:
    """Likeness of pairs of feature sets of the same rows: between steps, layers, experts, seeds, disturbed runs.

    Args:
        sites: name to rows [row, feature], or to a function without arguments that gives them (read when needed).
        measure: "cka", "rsa", "procrustes" or "subspace".
        pairs: of names; every two if None.
        shuffles: how often the rows of the second are shuffled for a chance level; "subspace" does not see the order of
            rows and has none.
        groups: what belongs together, a key for each row: all tokens of a run, all seeds of a sample. By default every
            row stands alone, which makes intervals of tokens far too narrow.
        parts: groups are dealt into so many parts (at most as there are groups), each left out once for the interval;
            0: no intervals.
        level: of the interval.
        seed: of the shuffles and of the dealing.
        options: of the measure.

    Returns:
        One row a pair, with first, second (names as text), value, low, high (null with ``parts=0`` and of
        `Components`), chance (mean over shuffles; null without).

    The interval is the delete-a-group jackknife's (Shao and Tu 1995, chapter 2): value -+ t times the error that
    leaving out parts shows, with one degree of freedom less than parts. Drawing rows with replacement would not do:
    rows drawn twice are alike on both sides, and look like likeness.
    """
    if measure not in MEASURES:
        raise ProbeError(f"measure={measure!r} is not known; use {', '.join(MEASURES)}.")
    if measure == "subspace" and shuffles:
        raise ProbeError("Subspaces do not depend on the order of rows; leave shuffles out.")
    if parts < 0 or parts == 1 or not 0 < level < 1:
        raise ProbeError(f"parts={parts}, level={level}: need 0 or at least 2 parts, and 0 < level < 1.")
    takes = [name for name, p in inspect.signature(MEASURES[measure]).parameters.items() if p.default is not p.empty]
    for name in options:
        if name not in takes:
            raise ProbeError(f"{measure} has no option {name!r}; it has {', '.join(takes) or 'none'}.")
    of, rng, dealt = MEASURES[measure], np.random.default_rng(seed), np.random.default_rng(seed + 1)

    def read(name: Any) -> Any:
        if name not in sites:
            raise ProbeError(f"There is no site {name!r}; there are: {', '.join(map(str, sites))}.")
        value = sites[name]() if callable(sites[name]) else sites[name]
        return value if isinstance(value, Components) else matrix(value)

    if len(sites) < 2 and pairs is None:
        raise ProbeError(f"A comparison needs two sites or more; got {len(sites)}.")
    rows = []
    for a, b in combinations(sites, 2) if pairs is None else pairs:
        x, y = read(a), read(b)
        null = [of(x, y[rng.permutation(len(y))], **options) for _ in range(shuffles)]
        chance = float(np.mean(null)) if null else None
        value, reach = of(x, y, **options), None
        if parts and not isinstance(x, Components) and not isinstance(y, Components):
            key = np.arange(len(x)) if groups is None else group_keys(groups, len(x))
            part = dealt.permutation(int(key.max()) + 1)[key] % parts
            reach = _reach([of(x[part != k], y[part != k], **options) for k in np.unique(part)], level)
        low, high = (None, None) if reach is None else (value - reach, min(1.0, value + reach))
        rows.append({"first": str(a), "second": str(b), "value": value, "low": low, "high": high, "chance": chance})
    types = {name: pl.String if name in ("first", "second") else pl.Float64 for name in COLUMNS}
    return pl.DataFrame(rows, schema=types)


def _reach(without: list[float], level: float) -> float:
    """How far an interval reaches, of values without each part."""
    from scipy.stats import t

    count = len(without)
    error = np.sqrt((count - 1) * np.var(without))
    return float(t.ppf((1 + level) / 2, count - 1) * error) if count > 1 else float("inf")


class StreamedCKA:
    """Linear CKA of two feature sets from blocks of rows, equal to `probes.geometry.cka` on all of them at once.

    Keeps feature x feature sums only, so memory does not grow with rows.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._centre: tuple[torch.Tensor, torch.Tensor] | None = None
        self._sums: dict[str, _Sums] = {}

    def update(self, x: Any, y: Any) -> StreamedCKA:
        """Take rows ``x`` [row, feature] and ``y`` [row, other]."""
        a, b = _rows(x, y, least=0)
        if len(a):
            if self._centre is None:  # likeness does not depend on it, and sums about it keep their digits
                self._centre = centred(a)[0], centred(b)[0]
                self._sums = {"xy": _Sums(), "xx": _Sums(), "yy": _Sums()}
            a, b = a - self._centre[0], b - self._centre[1]
            for name, (u, v) in {"xy": (a, b), "xx": (a, a), "yy": (b, b)}.items():
                self._sums[name].update(u, v)
            self.rows += len(a)
        return self

    def value(self, *, unbiased: bool = True) -> float:
        """The alignment so far."""
        if self.rows < 4:
            raise ProbeError(f"An alignment needs at least 4 rows; {self.rows} given.")
        xy, xx, yy = (self._sums[name].hsic(self.rows, unbiased) for name in ("xy", "xx", "yy"))
        if not (xx > 0 and yy > 0):
            raise ProbeError("One of the sites does not vary over these rows, so its alignment is not defined.")
        return float(xy / np.sqrt(xx * yy))


class _Sums:
    """What HSIC of two linear kernels needs: ``x'y`` and sums with squared lengths of rows."""

    def __init__(self) -> None:
        self.cross: Any = 0.0  # [feature, other]
        self.x: Any = 0.0  # sums of rows
        self.y: Any = 0.0
        self.x_weighted: Any = 0.0  # rows of x, each times the squared length of its y
        self.y_weighted: Any = 0.0
        self.lengths: Any = torch.zeros(3, dtype=torch.float64)  # of x, of y, their products

    def update(self, x: torch.Tensor, y: torch.Tensor) -> None:
        p, q = (x * x).sum(dim=1), (y * y).sum(dim=1)
        self.cross = self.cross + x.T @ y
        self.x, self.y = self.x + x.sum(dim=0), self.y + y.sum(dim=0)
        self.x_weighted, self.y_weighted = self.x_weighted + q @ x, self.y_weighted + p @ y
        self.lengths = self.lengths + torch.stack([p.sum(), q.sum(), p @ q])

    def hsic(self, n: int, unbiased: bool) -> float:
        if not unbiased:
            centred = self.cross - torch.outer(self.x, self.y) / n
            return float((centred**2).sum() / (n - 1) ** 2)
        p, q, pq = self.lengths
        trace = (self.cross**2).sum() - pq  # of the product of the kernels, diagonals left out
        total_x, total_y = self.x @ self.x - p, self.y @ self.y - q
        paths = self.x @ self.cross @ self.y - self.x @ self.x_weighted - self.y @ self.y_weighted + pq
        found = trace + total_x * total_y / ((n - 1) * (n - 2)) - 2 * paths / (n - 2)
        return float(found / (n * (n - 3)))


def _rows(x: Any, y: Any, least: int) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = matrix(x), matrix(y)
    if len(a) != len(b):
        raise ProbeError(f"Both sides need the same rows: {len(a)} and {len(b)} given.")
    if len(a) < least:
        raise ProbeError(f"At least {least} rows are needed; {len(a)} given.")
    return a, b


def matrix_of(table: pl.DataFrame) -> tuple[NDArray[np.float64], list[str]]:
    """The result of `compare` over every two sites as a symmetric matrix with ones on its diagonal, and the names."""
    names = list(dict.fromkeys([*table["first"], *table["second"]]))
    order = {name: i for i, name in enumerate(names)}
    out = np.full((len(names), len(names)), np.nan)
    np.fill_diagonal(out, 1.0)
    for a, b, value in table.select("first", "second", "value").iter_rows():
        out[order[a], order[b]] = out[order[b], order[a]] = value
    return out, names
