"""Batched ridge regression in closed form: one Gram matrix for all folds, one Cholesky factor per fold and penalty.

Label sets (the real one, shuffles, classes coded +-1) are right-hand sides of the same factor, so a chance level costs
almost nothing. Minimises scikit-learn's objective ``|y - Xw - b|^2 + alpha |w|^2`` with a free intercept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probes.factor import less_outer, mirrored, solve_shifted
from probes.shares import Sums, shares
from probes.space import Block


@dataclass(frozen=True)
class RidgeFit:
    """``coef`` [set, alpha, target, coordinate] and ``intercept`` [set, alpha, target] for the coordinates of
    ``block``, sets in the order of ``block.sets``. Where the block holds kernels, coordinates are rows."""

    block: Block
    coef: Float[Tensor, "set alpha target coordinate"]
    intercept: Float[Tensor, "set alpha target"]

    def decide(self, place: int, x: Tensor | None = None) -> Float[Tensor, "row alpha target"]:
        """Decision values by the probes of the set at a place in ``block.sets``, on all rows of the block or on ``x``:
        coordinates of some rows, or their kernels with all."""
        if x is None:
            x = self.block.x if self.block.kernels is None else self.block.kernels[place]
        coef, intercept = self.coef[place], self.intercept[place]
        found = torch.addmm(intercept.flatten()[:, None], coef.flatten(0, 1), x.T)
        return found.view(*intercept.shape, len(x)).movedim(2, 0)

    def left_out(self, place: int, train: Bool[Tensor, "row set"]) -> tuple[Tensor, Tensor]:
        """Numbers of the rows that a set leaves out, and decision values on these [row, alpha, target]. ``train`` is
        the mask that the block was made with."""
        block = self.block
        held = shares(train) if block.sums is None else block.sums.held
        out = held.left_out[block.sets[place]]
        rows = _joined([held.rows[share] for share in out])
        if block.sums is not None:
            return rows, self.decide(place, _joined([block.sums.parts[share] for share in out]))
        return rows, self.decide(place, (block.x if block.kernels is None else block.kernels[place])[rows])

    def raw(self, place: int, alpha: int, targets: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Coefficients [feature, target] and intercepts [target] for raw features, of one set and penalty."""
        coef, intercept = self.coef[place, alpha, targets], self.intercept[place, alpha, targets]
        return self.block.raw(coef.T, intercept, of=self.block.sets[place])


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def solve_ridge(
    block: Block,
    targets: Float[Tensor, "row target"],
    train: Bool[Tensor, "row set"],
    alphas: Float[Tensor, " alpha"],
    *,
    weights: Float[Tensor, " row"] | None = None,
) -> RidgeFit:
    """Fit every (training set of the block, alpha, target).

    Args:
        targets: [row, target]; values to regress on, one column each.
        train: the whole mask [row, set]; the block's own columns are used.
        weights: row weights, as ``sample_weight``.
    """
    dtype = block.x.dtype
    targets = targets.to(dtype)
    if block.kernels is not None:
        return _solve_rows(block, block.kernels, targets, train, alphas.to(dtype), weights)
    m = set_moments(block, targets, train, weights=weights)
    x_mean, y_mean = m.x_sum / m.mass[:, None], m.y_sum / m.mass[:, None]
    cross = m.cross - (x_mean[:, :, None] * m.y_sum[:, None]).to(dtype)
    solved = solve_sets(m, block, alphas.expand(len(m.mass), -1), cross)
    intercept = y_mean[:, None] - (solved.to(torch.float64) @ x_mean[:, None, :, None])[..., 0]
    return RidgeFit(block, solved, intercept.to(dtype))


def _solve_rows(
    block: Block, kernels: Tensor, targets: Tensor, train: Tensor, alphas: Tensor, weights: Tensor | None
) -> RidgeFit:
    """Coefficients of rows, from products of rows: with W the weights and K the products of centred training rows,
    ``a = W^1/2 (W^1/2 K W^1/2 + alpha)^-1 W^1/2 (y - mean)``. They sum to 0, so centring is left out of decisions."""
    root = torch.ones(len(targets), dtype=targets.dtype, device=targets.device)
    root = root if weights is None else weights.to(targets.dtype).sqrt()
    coefs, intercepts = [], []
    for s, kernel in zip(block.sets, kernels, strict=True):
        rows = train[:, s].nonzero().flatten()
        own, y = root[rows], targets[rows]
        share = own.square() / own.square().sum()
        y_mean, inside = share @ y, kernel.index_select(0, rows).index_select(1, rows)
        middle = inside @ share
        inside = (inside - middle).sub_((middle - share @ middle)[:, None])
        if weights is not None:
            inside = inside * own * own[:, None]
        shift = alphas[:, None].expand(-1, len(rows))
        found = _solve(inside[None], shift[None], ((y - y_mean) * own[:, None]).T[None])[0] * own
        found = found - found.sum(dim=-1, keepdim=True) * share  # 0 but for rounding, which decisions would magnify
        coef = found.new_zeros(*found.shape[:2], len(kernel))
        coef[..., rows] = found
        coefs.append(coef)
        intercepts.append(y_mean - found @ middle)
    return RidgeFit(block, torch.stack(coefs), torch.stack(intercepts))


GRAM_VALUES = 2**18
"""Values of Gram matrices made at once on a CPU; more would not stay in the cache while all penalties are solved."""


@dataclass(frozen=True)
class Moments:
    """Sums over each training set: weights, features, targets, and products of features with targets, not centred. What
    belongs to a feature that is constant in a set is 0. ``places`` says which sets of ``sums`` these are."""

    mass: Float[Tensor, " set"]
    x_sum: Float[Tensor, "set coordinate"]
    y_sum: Float[Tensor, "set target"]
    cross: Float[Tensor, "set coordinate target"]
    sums: Sums
    places: Sequence[int]
    takes: Float[Tensor, "set share"]

    def grams(self) -> Iterator[tuple[slice, Float[Tensor, "set coordinate coordinate"]]]:
        """Products of features, centred at each set's mean and filled from the diagonal up; of some sets at a time."""
        assert self.sums.gram is not None
        shares, size, _ = self.sums.gram.shape
        step = max(1, GRAM_VALUES // size**2) if self.takes.device.type == "cpu" else len(self.takes)
        room = self.takes.new_empty(size, size) if step == 1 else None
        for some in (slice(start, start + step) for start in range(0, len(self.takes), step)):
            if step == 1:
                out = self.sums.gram_of(self.places[some.start], room)[None]
            else:
                out = (self.takes[some] @ self.sums.gram.view(shares, -1)).view(-1, size, size)
            mean = (self.x_sum[some] / self.mass[some, None].sqrt()).to(out.dtype)
            yield some, less_outer(out, mean)


def set_moments(
    block: Block,
    targets: Float[Tensor, "row target"],
    train: Bool[Tensor, "row set"],
    *,
    weights: Float[Tensor, " row"] | None = None,
    gram: bool = True,
) -> Moments:
    """Moments of every training set of the block, each fold summed once."""
    dtype = block.x.dtype
    own, places = block.sums, list(block.sets)
    if own is None:
        own, places = Sums.of(block.x, shares(train[:, places]), weights, gram=gram), list(range(len(places)))
    ys = own.held.split(targets if weights is None else targets * weights.to(dtype)[:, None])
    # The few first: the other way round takes six times as long.
    crosses = torch.stack([y.T @ x for y, x in zip(ys, own.parts, strict=True)])
    # Every training set that holds a share's rows takes its sums.
    precise = own.held.takes[places]
    takes = precise.to(dtype)
    cross = (takes @ crosses.flatten(1)).view(len(takes), -1, block.x.shape[1]).mT
    mass, x_sum = precise @ own.mass, precise @ own.total.to(torch.float64)
    y_sum = precise @ torch.stack([y.sum(dim=0, dtype=torch.float64) for y in ys])
    if block.alive is not None:
        alive = block.alive.T.to(dtype)
        cross, x_sum = cross * alive[:, :, None], x_sum * alive
    return Moments(mass, x_sum, y_sum, cross, own, places, takes)


def solve_sets(
    m: Moments, block: Block, alphas: Float[Tensor, "set alpha"], cross: Float[Tensor, "set coordinate target"]
) -> Float[Tensor, "set alpha target coordinate"]:
    """``(gram + alpha penalty)^-1 cross`` of every set and alpha."""
    shift = alphas.to(cross.dtype)[:, :, None] * block.penalty.T[:, None]
    out = []
    for some, gram in m.grams():
        if block.alive is not None:
            alive = block.alive.T[some].to(gram.dtype)
            gram *= alive[:, :, None] * alive[:, None, :]
        out.append(_solve(gram, shift[some], cross[some].mT))
    return torch.cat(out)


def _solve(
    matrix: Float[Tensor, "set size size"],
    shift: Float[Tensor, "set alpha size"],
    rows: Float[Tensor, "set target size"],
) -> Float[Tensor, "set alpha target size"]:
    out, failed = solve_shifted(matrix, shift, rows)
    for s, a in failed.nonzero().tolist():  # rounding made the sum indefinite: by eigenvalues, of features on one scale
        whole = mirrored(matrix[s]) + torch.diag(shift[s, a])
        scale = whole.diagonal().clamp_min(torch.finfo(whole.dtype).tiny).rsqrt()
        values, vectors = torch.linalg.eigh(whole * scale * scale[:, None])
        keep = values > len(values) * torch.finfo(values.dtype).eps * values[-1]
        turned = vectors[:, keep] * scale[:, None]
        out[s, a] = (rows[s] @ turned / values[keep]) @ turned.T
    return out
