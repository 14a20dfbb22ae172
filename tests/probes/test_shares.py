"""Sums over shares of rows against sums over the rows of each training set."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probes.factor import mirrored
from probes.shares import Sums, shares

MASKS = {
    "one fold left out": np.stack([np.arange(60) % 5 != f for f in range(5)], axis=1),
    "two folds left out": np.stack([~np.isin(np.arange(60) % 5, (a, b)) for a in range(5) for b in range(a)], axis=1),
    "each row after the other": np.stack([np.arange(60) < end for end in (7, 20, 60)], axis=1),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("weighted", [False, True])
def test_sums_of_shares_add_up_to_those_of_sets(name, weighted):
    rng, train = np.random.default_rng(0), MASKS[name]
    x, weight = rng.normal(size=(60, 7)), rng.uniform(0.5, 2, size=60) if weighted else np.ones(60)
    sums = Sums.of(torch.from_numpy(x), shares(torch.from_numpy(train)), torch.from_numpy(weight) if weighted else None)
    member = sums.held.member.T.to(torch.float64)
    for s, rows in enumerate(train.T):
        own = weight * rows
        np.testing.assert_allclose(member[s] @ sums.mass, own.sum())
        np.testing.assert_allclose(mirrored(sums.gram_of(s)), x.T @ (own[:, None] * x), atol=1e-12)
        np.testing.assert_allclose(member[s] @ sums.total, own @ x, atol=1e-12)


def test_a_share_that_is_left_out_costs_no_digits_however_large_it_is():
    rng, train = np.random.default_rng(0), MASKS["one fold left out"]
    x = rng.normal(size=(60, 7)).astype(np.float32)
    x[::5, 2] *= 1e4  # the first fold's rows: squares as large as float32 has digits
    sums = Sums.of(torch.from_numpy(x), shares(torch.from_numpy(train)))
    without = x[train[:, 0]].astype(np.float64)
    first = int((~sums.held.member[:, 0]).nonzero())
    assert torch.equal(sums.held.rows[first], torch.arange(0, 60, 5))
    np.testing.assert_allclose(mirrored(sums.gram_of(0)), without.T @ without, atol=1e-4)
    subtracted = mirrored(sums.whole - sums.gram[first]).numpy()
    assert np.abs(subtracted - without.T @ without).max() > 1  # what the plain way would have given
