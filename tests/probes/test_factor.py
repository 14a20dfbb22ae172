"""Products, factors and solutions from BLAS and LAPACK, and those of other devices, against plain torch."""

from __future__ import annotations

import pytest
import torch

from probes.factor import Factors, less_outer, mirrored, products, solve_shifted


@pytest.fixture(params=["lapack", "torch"], autouse=True)
def side(request, monkeypatch):
    """Both sides run on a CPU; a GPU takes the second."""
    if request.param == "torch":
        monkeypatch.setattr("probes.factor._on_cpu", lambda value: False)


def systems(count=3, size=7):
    """Positive definite matrices, and the same with nonsense below the diagonal."""
    x = torch.randn(count, 2 * size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = x.mT @ x
    return whole, whole.triu() + torch.full_like(whole, 99.0).tril(-1)


@pytest.mark.parametrize("layout", ["rows", "columns", "neither"])
def test_products(layout):
    x = torch.arange(60, dtype=torch.float32).sin().reshape(10, 6)
    x = {"rows": x, "columns": x.T.contiguous().T, "neither": torch.stack([x, x], dim=2)[..., 0]}[layout]
    (first, second) = mirrored(products([x, x[:4]]))
    torch.testing.assert_close(first, x.T @ x)
    torch.testing.assert_close(second, x[:4].T @ x[:4])


@pytest.mark.parametrize(("size", "columns"), [(7, 4), (256, 1), (256, 3), (256, 70)])  # few are factored with a matrix
def test_solutions_for_every_shift(size, columns):
    whole, half = systems(size=size)
    shift, rows = torch.rand(3, 2, size, dtype=torch.float64), torch.randn(3, columns, size, dtype=torch.float64)
    found, failed = solve_shifted(half, shift, rows)
    expected = torch.linalg.solve(whole[:, None] + torch.diag_embed(shift), rows.mT[:, None]).mT
    torch.testing.assert_close(found, expected)
    assert not failed.any()
    shift[1, 0] = -1e6
    assert solve_shifted(half, shift, rows)[1].tolist() == [[False, False], [True, False], [False, False]]


def test_factors_solve_and_invert():
    whole, half = systems()
    rows = torch.randn(3, 2, 7, dtype=torch.float64)
    torch.testing.assert_close(Factors.of(half.clone()).solve(rows.clone()), torch.linalg.solve(whole, rows.mT).mT)
    torch.testing.assert_close(Factors.of(half.clone()).inverse(), torch.linalg.inv(whole))
    assert Factors.of(torch.cat([half, -half])).failed.tolist() == [False] * 3 + [True] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_less_outer_products_of_rows(dtype):
    generator = torch.Generator().manual_seed(0)
    half, rows = (torch.randn(*size, generator=generator, dtype=dtype) for size in ((3, 7, 7), (3, 7)))
    wanted = half.triu() - torch.einsum("mi,mj->mij", rows, rows).triu()
    torch.testing.assert_close(less_outer(half, rows).triu(), wanted)
    torch.testing.assert_close(half.triu(), wanted)  # in place
