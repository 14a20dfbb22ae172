"""The feature space of a cell: one matrix that serves every training set, with standardisation inside each of them.

Standardising inside a fold and penalising ``|w|^2`` is the same as leaving features alone and penalising
``sum_j (sd_j v_j)^2`` with that fold's standard deviations, because the intercept is free. So all folds share one
matrix, and a batched solver runs them as columns of one product; only the penalty differs.

Where features outnumber rows, only products of rows count. Logistic probes work with the kernel of each training set as
it is; closed forms with coordinates in the span of its rows (the Cholesky factor of the kernel), at most as many as it
has rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.errors import ProbeError
from probes.factor import mirrored, products
from probes.shares import Sums, shares

KERNEL_FROM = 1.25
"""Features per row from which on coordinates in the row space are cheaper than the features themselves."""

DOUBTFUL = 1e-2
"""Deviation in a training set, over that of all rows, below which a feature may be constant there."""

KERNEL_BYTES = 512 * 2**20
"""Kernels held at once; where all training sets need more, they come in several blocks."""


@dataclass(frozen=True)
class Block:
    """Coordinates of all rows for some training sets.

    ``x`` [row, coordinate] without intercept; ``penalty`` [coordinate, set] multiplies squared coefficients; ``sets``
    says which training sets (columns of the mask) these are; ``alive`` marks features that are not constant in the set.
    ``sums`` of coordinates, where they were asked for, over the shares of all columns of the mask.
    Coefficients of raw features are ``scale^-1 * coef``, or, for coordinates in the span of rows, ``scale^-1 * rows'
    turn coef``. With ``kernels``, coefficients are of rows, and those of raw features ``(scale penalty)^-1 * x' coef``.
    """

    x: Float[Tensor, "row coordinate"]
    penalty: Float[Tensor, "coordinate set"]
    sets: tuple[int, ...]
    center: Float[Tensor, " feature"]
    scale: Float[Tensor, " feature"]
    rows: Float[Tensor, "train feature"] | None = None
    turn: Float[Tensor, "train coordinate"] | None = None
    alive: Bool[Tensor, "coordinate set"] | None = None
    kernels: Float[Tensor, "set row row"] | None = None
    sums: Sums | None = None

    def only(self, sets: tuple[int, ...]) -> Block:
        """The same coordinates for some of the training sets."""
        if sets == self.sets:
            return self
        at = [self.sets.index(s) for s in sets]
        alive = None if self.alive is None else self.alive[:, at]
        kernels = None
        if self.kernels is not None:  # neighbours are a view, not a copy
            near = at == list(range(at[0], at[0] + len(at)))
            kernels = self.kernels[at[0] : at[0] + len(at)] if near else self.kernels[at]
        return replace(self, penalty=self.penalty[:, at], sets=sets, alive=alive, kernels=kernels)

    def place(self, sets: Int[Tensor, " column"]) -> Int[Tensor, " column"]:
        """Which of the block's training sets each column of a solve trains on."""
        own = torch.tensor(self.sets, device=sets.device)
        return (sets[:, None] == own).to(torch.int64).argmax(dim=1)

    def raw(
        self, coef: Float[Tensor, "coordinate column"], intercept: Float[Tensor, " column"], *, of: int = 0
    ) -> tuple[Float[Tensor, "feature column"], Float[Tensor, " column"]]:
        """Coefficients and intercepts that apply to raw features, of a probe of training set ``of``."""
        if self.kernels is not None:
            at = self.sets.index(of)
            coef = (self.x.T @ coef) / self.penalty[:, at, None]
            coef = coef if self.alive is None else coef * self.alive[:, at, None].to(coef.dtype)
        elif self.rows is not None and self.turn is not None:
            coef = self.rows.T @ (self.turn @ coef)
        out = coef / self.scale[:, None]
        return out, intercept - self.center @ out


def moments(
    x: Float[Tensor, "row feature"], train: Bool[Tensor, "row set"], weights: Float[Tensor, " row"] | None = None
) -> Float[Tensor, "feature set"]:
    """Standard deviation of each training set (divided by n, as StandardScaler); sums are float64."""
    held = shares(train)
    parts, squares, counts = [], [], []
    for index in held.rows:
        rows = x[index]
        weighted = rows if weights is None else rows * weights[index, None].to(x.dtype)
        parts.append(weighted.sum(dim=0, dtype=torch.float64))
        squares.append((weighted * rows).sum(dim=0, dtype=torch.float64))
        counts.append(float(len(rows)) if weights is None else float(weights[index].sum()))
    member = held.member.to(torch.float64)
    n = torch.tensor(counts, dtype=torch.float64, device=x.device) @ member
    mean = torch.stack(parts, dim=1) @ member / n
    variance = torch.stack(squares, dim=1) @ member / n - mean**2
    return variance.clamp_min(0).sqrt()


def deviations(
    x: Float[Tensor, "row feature"],
    train: Bool[Tensor, "row set"],
    weights: Float[Tensor, " row"] | None = None,
    sums: Sums | None = None,
) -> tuple[Float[Tensor, " feature"], Float[Tensor, "feature set"]]:
    """`moments` of all rows (unweighted) and of each training set, for features that are near 0 on average.

    By products in the features' own precision, or from ``sums`` that are there already; where a set's mean lies so far
    off that digits would cancel, in float64.
    """
    held = shares(train) if sums is None else sums.held
    if sums is not None and sums.gram is not None:
        total, mass = sums.total.to(torch.float64), sums.mass
        squares = sums.squares.to(torch.float64)
        whole = squares.sum(dim=0) if weights is None else x.square().sum(dim=0, dtype=torch.float64)
    else:
        onehot, squared = held.onehot.to(x.dtype), x.square()
        squares = (onehot @ squared).to(torch.float64)
        whole = squares.sum(dim=0)
        if weights is not None:
            onehot = onehot * weights.to(x.dtype)
            squares = (onehot @ squared).to(torch.float64)
        total, mass = (onehot @ x).to(torch.float64), onehot.sum(dim=1, dtype=torch.float64)
    masses = (held.takes @ mass)[:, None]
    squared_mean = (held.takes @ total / masses).square()
    variance = (held.takes @ squares / masses - squared_mean).clamp_min(0)
    deviation = variance.sqrt().T
    off = (variance < squared_mean).any(dim=0).nonzero().flatten()
    if len(off):
        deviation[off] = moments(x[:, off].to(torch.float64), train, weights)
    return whole.div(len(x)).sqrt(), deviation


def extents(x: Float[Tensor, "row feature"], train: Bool[Tensor, "row set"]) -> Float[Tensor, "feature set"]:
    """Range of each feature in each training set."""
    held = shares(train)
    parts = [x[rows] for rows in held.rows]
    inside = held.member.T[:, :, None]  # [set, share, 1]
    low = torch.stack([rows.amin(dim=0) for rows in parts]).masked_fill(~inside, torch.inf).amin(dim=1)
    high = torch.stack([rows.amax(dim=0) for rows in parts]).masked_fill(~inside, -torch.inf).amax(dim=1)
    return (high - low).T.to(torch.float64)


def check_finite(x: Float[Tensor, "row feature"]) -> None:
    """Refuse NaN and infinity."""
    if not torch.isfinite(x.sum()) and not torch.isfinite(x).all():  # the sum is one pass; it may overflow, though
        rows = (~torch.isfinite(x)).any(dim=1).nonzero().flatten()
        raise ProbeError(
            f"Features hold NaN or infinity in {len(rows)} of {len(x)} rows (first: row {int(rows[0])}). Drop those "
            "rows, or find out where the model overflowed."
        )


def blocks(
    x: Float[Tensor, "row feature"],
    train: Bool[Tensor, "row set"],
    *,
    standardise: bool = True,
    weights: Float[Tensor, " row"] | None = None,
    kernel: bool | None = None,
    dual: bool = False,
    sums: bool = False,
) -> Iterator[Block]:
    """Coordinates for every training set: one block for all of them, or (kernel form) several.

    Features constant in a training set keep coefficient 0 there, as with scikit-learn's StandardScaler. All are centred
    and, for the sake of iterative solvers, on one scale.

    Args:
        x: raw features; float32 or float64, which is also the precision of the result.
        train: which rows each set trains on.
        standardise: scale features to unit variance on each training set.
        weights: rows count so many times in what "unit variance" means.
        kernel: force (True) or forbid (False) the kernel form; by default it is used where it is cheaper.
        dual: in the kernel form, give kernels instead of coordinates in the span of rows.
        sums: also give sums of products, where features are coordinates. These say how features are scaled, and closed
            forms do not care for scale, so features are left on theirs.

    Raises:
        ProbeError: values that are not finite.
    """
    n, d = x.shape
    center = x.mean(dim=0)
    if not bool(torch.isfinite(center.sum())):
        check_finite(x)
        center = x.mean(dim=0, dtype=torch.float64).to(x.dtype)  # only their sum was too large
    centred = x - center
    held = shares(train)
    use_kernel = d > KERNEL_FROM * held.most if kernel is None else kernel
    found = Sums.of(centred, held, weights) if sums and not use_kernel else None
    spread, deviation = deviations(centred, train, weights, found)
    constant, flat = _constants(centred, center, spread, deviation, train)
    scale = spread if standardise and found is None else torch.ones_like(spread)
    if constant is not None:
        scale = torch.where(constant, 1.0, scale)
        centred *= (~constant).to(x.dtype)
        found = None if found is None else Sums.of(centred, held, weights)
    if found is None:
        centred *= (1 / scale).to(x.dtype)
        deviation /= scale[:, None]
    if not standardise:
        deviation, flat = torch.ones_like(deviation), None
    elif flat is not None:
        deviation = torch.where(flat, 1.0, deviation)
    alive = None if flat is None else ~flat
    penalty = deviation.square().to(x.dtype)
    if not use_kernel:
        yield Block(centred, penalty, tuple(range(train.shape[1])), center, scale.to(x.dtype), alive=alive, sums=found)
    elif dual:
        whole = Block(centred, penalty, tuple(range(train.shape[1])), center, scale.to(x.dtype), alive=alive)
        size = max(1, KERNEL_BYTES // (n * n * x.element_size()))
        for part in torch.arange(train.shape[1]).split(size):
            sets = tuple(part.tolist())
            block = whole.only(sets)
            yield replace(block, kernels=_kernels(block, shared=not standardise))
    else:
        for t in range(train.shape[1]):
            own = deviation[:, t]
            scaled = centred / own.to(x.dtype)
            if alive is not None:
                scaled = scaled * alive[:, t].to(x.dtype)
            yield _kernel_block(scaled, train[:, t], t, center, (own * scale).to(x.dtype))


def _constants(
    centred: Float[Tensor, "row feature"],
    center: Float[Tensor, " feature"],
    spread: Float[Tensor, " feature"],
    deviation: Float[Tensor, "feature set"],
    train: Bool[Tensor, "row set"],
) -> tuple[Bool[Tensor, " feature"] | None, Bool[Tensor, "feature set"] | None]:
    """Which features are constant, and in which sets; None where none is."""
    # What is left of a constant after rounding is no variance: compare with the precision of the values themselves.
    precision = 8 * torch.finfo(centred.dtype).eps
    doubtful = (spread <= precision * center.abs()) | (deviation < DOUBTFUL * spread[:, None]).any(dim=1)
    at = doubtful.nonzero().flatten()
    if not len(at):
        return None, None
    constant, flat = torch.zeros_like(spread, dtype=torch.bool), torch.zeros_like(deviation, dtype=torch.bool)
    some = centred[:, at]
    floor = precision * torch.maximum(some.abs().amax(dim=0), center[at].abs()).to(torch.float64)
    constant[at] = spread[at] <= floor
    flat[at] = (extents(some, train) <= floor[:, None]) | constant[at, None]
    return (constant if bool(constant.any()) else None), (flat if bool(flat.any()) else None)


def _kernels(block: Block, *, shared: bool) -> Float[Tensor, "set row row"]:
    """Products of all rows, scaled as each training set scales them."""
    n = len(block.x)
    out = torch.empty(1 if shared else len(block.sets), n, n, dtype=block.x.dtype, device=block.x.device)
    scaled = torch.empty_like(block.x)
    for s, kernel in enumerate(out):
        scale = 1 / block.penalty[:, s].sqrt()
        torch.mul(block.x, scale if block.alive is None else scale * block.alive[:, s], out=scaled)
        kernel[:] = mirrored(products([scaled.T])[0])
    return out.expand(len(block.sets), n, n)


def _kernel_block(
    scaled: Float[Tensor, "row feature"],
    train: Bool[Tensor, " row"],
    t: int,
    center: Float[Tensor, " feature"],
    scale: Float[Tensor, " feature"],
) -> Block:
    """Coordinates in the span of the training rows: K = L L', training rows become L, others K L^-T."""
    inside, outside = train.nonzero().flatten(), (~train).nonzero().flatten()
    rows = scaled[inside]
    square = (rows @ rows.T).to(torch.float64)
    across = (scaled[outside] @ rows.T).to(torch.float64)
    # Rows may be collinear (duplicates): a ridge far below what the penalty can tell, and a check that it sufficed.
    jitter = 1e-9 * square.diagonal().mean().clamp_min(1e-30)
    square = (square + square.T) / 2
    square.diagonal().add_(jitter)
    factor, info = torch.linalg.cholesky_ex(square)
    if int(info) == 0:
        own, other = factor, torch.linalg.solve_triangular(factor, across.T, upper=False).T
        identity = torch.eye(len(factor), dtype=torch.float64, device=factor.device)
        turn = torch.linalg.solve_triangular(factor.T, identity, upper=True)
    else:
        values, vectors = torch.linalg.eigh(square)
        kept = values > len(values) * torch.finfo(scaled.dtype).eps * values[-1].clamp_min(1e-30)
        turn = vectors[:, kept] / values[kept].sqrt()
        own, other = square @ turn, across @ turn
    x = torch.empty(len(scaled), own.shape[1], dtype=scaled.dtype, device=scaled.device)
    x[inside], x[outside] = own.to(x.dtype), other.to(x.dtype)
    ones = torch.ones(x.shape[1], 1, dtype=x.dtype, device=x.device)
    return Block(x, ones, (t,), center, scale, rows, turn.to(x.dtype))
