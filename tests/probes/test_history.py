"""The products of matrices against the two-loop recursion, one fit at a time."""

from __future__ import annotations

import pytest
import torch

from probes.history import MEMORY, History


def two_loops(pairs: list[tuple[torch.Tensor, torch.Tensor]], g: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """Nocedal & Wright, algorithm 7.4."""
    q, pending = g.clone(), []
    for s, y in reversed(pairs):
        a = (s @ q) / (s @ y)
        pending.append(a)
        q = q - a * y
    r = start @ q
    for (s, y), a in zip(pairs, reversed(pending), strict=True):
        r = r + (a - (y @ r) / (s @ y)) * s
    return r


@pytest.mark.parametrize("seen", [0, 1, MEMORY - 1, MEMORY + 4])
@pytest.mark.parametrize("retire", [False, True])
def test_a_direction_is_that_of_the_two_loops(seen: int, retire: bool) -> None:
    torch.manual_seed(0)
    cells, fits, outputs, d = 2, 3, 2, 5
    root = torch.randn(cells, fits, outputs * d, outputs * d, dtype=torch.float64)
    hessian = root @ root.mT + torch.eye(outputs * d, dtype=torch.float64)
    start = torch.rand(outputs, d, dtype=torch.float64) + 0.5
    history, pairs = History(), []
    for number in range(seen):
        step = torch.randn(cells, fits, outputs * d, dtype=torch.float64)
        change = (hessian @ step[..., None])[..., 0]
        weight = 1 / (step * change).sum(dim=2)
        weight[1, 2] *= number % 3 > 0  # this fit ignores every third pair, which takes a place all the same
        pairs.append((step, change, weight))
        rows = change.view(cells, fits * outputs, d)
        history.add(step.view(cells, fits * outputs, d), rows, rows, weight)
    if retire:
        history.keep(torch.tensor([1]), torch.tensor([0, 2]))
        pairs = [tuple(value[1:][:, [0, 2]] for value in pair) for pair in pairs]
        cells, fits = 1, 2
    g = torch.randn(cells, fits * outputs, d, dtype=torch.float64)
    found = history.apply(g, g, lambda v: v * start.repeat(fits, 1))
    for b in range(cells):
        for p in range(fits):
            own = [(s[b, p], y[b, p]) for s, y, weight in pairs[-MEMORY:] if weight[b, p] > 0]
            expected = two_loops(own, g.view(cells, fits, -1)[b, p], torch.diag(start.flatten()))
            torch.testing.assert_close(found.view(cells, fits, -1)[b, p], expected)
