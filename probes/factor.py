"""Products of a matrix with its transpose, Cholesky factors of many symmetric matrices, and solutions with them.

On a CPU straight from BLAS and LAPACK (through scipy), in place: torch computes both halves of a symmetric product,
copies every matrix for each call and clears its upper half, which takes longer than the factor itself at these sizes.
On other devices by torch, all at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.linalg import get_blas_funcs, get_lapack_funcs
from torch import Tensor

BORDER_FROM = 256
"""Size from which it is cheaper to factor right-hand sides with a matrix than to solve for them after it."""

ENDLESS = 1e30
"""Diagonal under right-hand sides that are factored: whatever is taken from it, its square root does not fail."""


KEPT = 16 * 2**20
"""Bytes of workspace up to which it is kept for the next call: memory that is new each time costs a page fault each
4 KiB, for a matrix of 512 rows as long as two thirds of its factor."""

SMALL = 1_000_000
"""Multiplications up to which OpenBLAS takes its short way, without copies, in a product."""


@dataclass(frozen=True)
class Factors:
    """Factors of matrices [matrix, size, size]. Where ``failed`` [matrix], a matrix is not positive definite to
    rounding, and its factor says nothing."""

    matrix: Float[Tensor, "matrix size size"]
    failed: Bool[Tensor, " matrix"]

    @staticmethod
    def of(matrix: Float[Tensor, "matrix size size"]) -> Factors:
        """Factor symmetric matrices, of which nothing below the diagonal is read. They are used up: their memory is
        that of the factors."""
        if not _on_cpu(matrix):
            found, info = torch.linalg.cholesky_ex(matrix, upper=True)
            return Factors(found, info != 0)
        matrix = matrix.contiguous()
        potrf = _lapack("potrf", matrix)
        # LAPACK counts by columns: what is the upper half by rows is the lower to it.
        info = [potrf(m.T, lower=1, clean=0, overwrite_a=1)[1] for m in matrix.numpy()]
        return Factors(matrix, torch.tensor(info) != 0)

    def solve(self, rows: Float[Tensor, "matrix column size"]) -> Float[Tensor, "matrix column size"]:
        """Solutions for right-hand sides that are rows. These are used up too, where they lie in one piece."""
        if not _on_cpu(self.matrix):
            return torch.cholesky_solve(rows.mT, self.matrix, upper=True).mT
        rows = rows.contiguous()
        potrs = _lapack("potrs", rows)
        for m, b in zip(self.matrix.numpy(), rows.numpy(), strict=True):
            potrs(m.T, b.T, lower=1, overwrite_b=1)
        return rows

    def inverse(self) -> Float[Tensor, "matrix size size"]:
        """Inverses of the matrices, by torch on a CPU too: its LAPACK takes two thirds of the time of scipy's."""
        return torch.cholesky_inverse(self.matrix, upper=True).mT  # symmetric; so that rows lie in one piece

    def keep(self, some: Tensor) -> Factors:
        """Those of some matrices."""
        return Factors(self.matrix[some], self.failed[some])


def products(parts: Sequence[Float[Tensor, "_ size"]]) -> Float[Tensor, "part size size"]:
    """``x' x`` of every part; of the half below the diagonal, nothing is said."""
    if not _on_cpu(parts[0]):
        return torch.stack([x.T @ x for x in parts])
    size = parts[0].shape[1]
    # Zeros: syrk leaves the other half alone, sums over sets read it, and what happened to lie there may be NaN.
    out = torch.from_numpy(np.zeros((len(parts), size, size), dtype=parts[0].numpy().dtype))
    syrk = _blas("syrk", parts[0])
    for x, product in zip(parts, out.numpy(), strict=True):
        rows = x.numpy()
        by_rows = bool(rows.flags.c_contiguous)  # BLAS counts by columns, so these are the transpose to it
        given = rows.T if by_rows else np.asfortranarray(rows)
        syrk(1.0, given, trans=not by_rows, c=product.T, lower=1, overwrite_c=1)
    return out


def less_outer(
    half: Float[Tensor, "matrix size size"], rows: Float[Tensor, "matrix size"]
) -> Float[Tensor, "matrix size size"]:
    """Takes ``row' row`` from each matrix, in place; nothing is said of the half below the diagonal."""
    if not _on_cpu(half):
        return half.baddbmm_(rows[:, :, None], rows[:, None, :], alpha=-1)
    syr = _blas("syr", half)
    for matrix, row in zip(half.numpy(), rows.numpy(), strict=True):
        syr(-1.0, row, lower=1, a=matrix.T, overwrite_a=1)
    return half


def times(
    rows: Float[Tensor, "matrix row size"], matrices: Float[Tensor, "matrix size width"]
) -> Float[Tensor, "matrix row width"]:
    """Each matrix of few rows times one of many. On a CPU scipy's BLAS takes half the time where both are small."""
    count, size, width = matrices.shape
    if not _on_cpu(rows) or rows.shape[1] * size * width > SMALL:
        return torch.bmm(rows, matrices)
    out = torch.empty(count, rows.shape[1], width, dtype=rows.dtype)
    gemm = _blas("gemm", rows)
    if matrices.stride()[1:] != (width, 1):
        matrices = matrices.contiguous()  # otherwise each lies in one piece, wherever the others are
    for a, b, c in zip(rows.contiguous().numpy(), matrices.numpy(), out.numpy(), strict=True):
        gemm(1.0, b.T, a.T, c=c.T, overwrite_c=1)
    return out


def mirrored(half: Float[Tensor, "*part size size"]) -> Float[Tensor, "*part size size"]:
    """Symmetric matrices of which the halves below the diagonal are not filled."""
    return half.triu() + half.triu(1).mT


def solve_shifted(
    matrix: Float[Tensor, "matrix size size"],
    shift: Float[Tensor, "matrix shift size"],
    rows: Float[Tensor, "matrix column size"],
) -> tuple[Float[Tensor, "matrix shift column size"], Bool[Tensor, "matrix shift"]]:
    """Solutions of ``(matrix + diag(shift)) x = row`` for every shift, and where there are none, since the sum is not
    positive definite to rounding. What matrices hold below the diagonal is not read.

    Few columns are factored with a large matrix, as further rows of it: [[A, b], [b', .]] = L L' holds ``L^-1 b`` in
    its last rows, at the speed of the factor. LAPACK's solution for one column takes five times as long.
    """
    if not _on_cpu(matrix):
        out = rows[:, None].expand(-1, shift.shape[1], -1, -1)
        factor, info = torch.linalg.cholesky_ex(matrix[:, None] + torch.diag_embed(shift), upper=True)
        return torch.cholesky_solve(out.mT, factor, upper=True).mT, info != 0
    count, columns, size = rows.shape
    further = columns if size >= max(BORDER_FROM, 4 * columns) else 0
    posv, potrf, trtrs = (_lapack(name, matrix) for name in ("posv", "potrf", "trtrs"))
    out = torch.empty(count, shift.shape[1], columns, size, dtype=rows.dtype)
    failed = np.zeros(shift.shape[:2], dtype=bool)
    own = _workspace(size + further, matrix)
    inside, border, corner = own[:size, :size], own[:size, size:], own[size:, size:]
    half = size // 2
    diagonal, by_columns = own.reshape(-1)[:: len(own) + 1], own.T  # as LAPACK counts
    given = zip(matrix.numpy(), shift.numpy(), rows.numpy(), out.numpy(), strict=True)
    for m, (one, shifts, wanted, solutions) in enumerate(given):
        for a, (by, solution) in enumerate(zip(shifts, solutions, strict=True)):
            inside[:half], inside[half:, half:] = one[:half], one[half:, half:]
            diagonal[:size] += by
            if further:
                border[:], corner[:], diagonal[size:] = wanted.T, 0, ENDLESS
                info = potrf(by_columns, lower=1, clean=0, overwrite_a=1)[1]
                solution[:] = border.T
                trtrs(by_columns[:, :size], solution.T, lower=1, trans=1, overwrite_b=1)
            else:
                solution[:] = wanted
                info = posv(by_columns, solution.T, lower=1, overwrite_a=1, overwrite_b=1)[2]
            failed[m, a] = 0 < info <= size
    return out, torch.from_numpy(failed)


_kept = threading.local()


def _workspace(size: int, like: Tensor) -> NDArray[Any]:
    """A matrix [size, size] of whatever, this thread's until the next call."""
    dtype = like.numpy().dtype
    needed = size**2 * dtype.itemsize
    if needed > KEPT:
        return np.empty((size, size), dtype)
    held: NDArray[np.uint8] | None = getattr(_kept, "held", None)
    if held is None or len(held) < needed:
        held = _kept.held = np.empty(needed, np.uint8)
    return held[:needed].view(dtype).reshape(size, size)


def _on_cpu(value: Tensor) -> bool:
    return value.device.type == "cpu"


def _lapack(name: str, like: Tensor) -> Any:
    return _routine(get_lapack_funcs, name, like.numpy().dtype)


def _blas(name: str, like: Tensor) -> Any:
    return _routine(get_blas_funcs, name, like.numpy().dtype)


@cache
def _routine(of: Callable[..., Any], name: str, dtype: np.dtype[Any]) -> Any:
    (found,) = of((name,), dtype=dtype)
    return found
