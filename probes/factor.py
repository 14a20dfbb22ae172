"""Cholesky factors of many symmetric matrices, and solutions with them.

On a CPU straight from LAPACK (through scipy), in place: torch copies every matrix for each call and clears its upper
half, which takes longer than the factor itself at these sizes. On other devices by torch, all at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from scipy.linalg import get_lapack_funcs
from torch import Tensor


@dataclass(frozen=True)
class Factors:
    """Factors of matrices [matrix, size, size]. Where ``failed`` [matrix], a matrix is not positive definite to
    rounding, and its factor says nothing."""

    matrix: Float[Tensor, "matrix size size"]
    failed: Bool[Tensor, " matrix"]

    @staticmethod
    def of(matrix: Float[Tensor, "matrix size size"]) -> Factors:
        """Factor symmetric matrices. They are used up: their memory is that of the factors."""
        if matrix.device.type != "cpu":
            found, info = torch.linalg.cholesky_ex(matrix)
            return Factors(found, info != 0)
        matrix = matrix.contiguous()
        potrf = _lapack("potrf", matrix)
        # LAPACK counts by columns: to it a symmetric matrix is its own transpose.
        info = [potrf(m.T, lower=1, clean=0, overwrite_a=1)[1] for m in matrix.numpy()]
        return Factors(matrix, torch.tensor(info) != 0)

    def solve(self, rows: Float[Tensor, "matrix column size"]) -> Float[Tensor, "matrix column size"]:
        """Solutions for right-hand sides that are rows. These are used up too, where they lie in one piece."""
        if self.matrix.device.type != "cpu":
            return torch.cholesky_solve(rows.transpose(1, 2), self.matrix).transpose(1, 2)
        rows = rows.contiguous()
        potrs = _lapack("potrs", rows)
        for m, b in zip(self.matrix.numpy(), rows.numpy(), strict=True):
            potrs(m.T, b.T, lower=1, overwrite_b=1)
        return rows

    def inverse(self) -> Float[Tensor, "matrix size size"]:
        """Inverses of the matrices; on a CPU the factors are used up."""
        if self.matrix.device.type != "cpu":
            return torch.cholesky_inverse(self.matrix)
        potri = _lapack("potri", self.matrix)
        for m in self.matrix.numpy():
            potri(m.T, lower=1, overwrite_c=1)
        # The half that LAPACK fills is, by rows, the upper one.
        upper = self.matrix.triu(1)
        return upper.transpose(1, 2) + self.matrix.triu()

    def keep(self, some: Tensor) -> Factors:
        """Those of some matrices."""
        return Factors(self.matrix[some], self.failed[some])


def _lapack(name: str, like: Tensor) -> Any:
    (found,) = get_lapack_funcs((name,), dtype=like.numpy().dtype)
    return found
