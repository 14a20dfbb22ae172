"""The tuned lens: least squares against the textbook formula, never worse than the plain lens, exact at the end."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch

from interp.errors import InterpError
from interp.lenses import AffineLens, estimates, fit_affine_lens, layer_lens
from interp.lenses.affine import Normal
from tests.edits.labs import lab_and_runs


def test_streamed_sums_give_the_least_squares_map() -> None:
    x = torch.randn(200, 5, dtype=torch.float64) * 3 + 50
    y = x @ torch.randn(5, 5, dtype=torch.float64) + torch.randn(200, 5, dtype=torch.float64) - 20
    normal = Normal()
    for part in (slice(0, 3), slice(3, 120), slice(120, 200)):
        normal.update(x[part], y[part])
    weight, offset, loss = normal.solve(0.0)
    ones = torch.cat([x, torch.ones(200, 1, dtype=torch.float64)], 1)
    expected = torch.linalg.lstsq(ones, y).solution
    torch.testing.assert_close(weight.double(), expected[:5], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(offset.double(), expected[5], atol=1e-2, rtol=1e-4)
    assert loss.tuned == pytest.approx(float(((ones @ expected - y) ** 2).sum(1).mean()), rel=1e-6)
    assert loss.plain == pytest.approx(float(((x - y) ** 2).sum(1).mean()), rel=1e-9)


@pytest.mark.parametrize("ridge", [0.0, 1e-2, 1e6])
def test_a_fit_is_never_worse_than_the_plain_lens(ridge: float) -> None:
    lab, runs = lab_and_runs("i2v two experts", guidance=4.0)
    lens = fit_affine_lens(lab, runs, ridge=ridge)
    assert set(lens.maps) == {(expert, layer) for expert in ("high", "low") for layer in (-1, 0, 1)}
    for place, loss in lens.losses.items():
        assert loss.tuned <= loss.plain
        if place[1] < 1 and ridge < 1:
            assert loss.tuned < 0.9 * loss.plain
    for place in (("high", 1), ("low", 1)):  # the last block needs no map
        assert torch.equal(lens.maps[place][0], torch.eye(24))
        assert not lens.maps[place][1].any()


def test_it_is_used_in_the_place_of_the_stream_and_survives_a_file(tmp_path: Path) -> None:
    lab, runs = lab_and_runs("i2v two experts", guidance=1.0)
    lens = fit_affine_lens(lab, runs)
    again = AffineLens.load(lens.save(tmp_path / "lens"))
    assert again.losses == lens.losses
    plain, tuned = layer_lens(lab, runs, layers=[0, 1]), layer_lens(lab, runs, layers=[0, 1], lens=again)
    by_layer = [t.group_by("layer").agg(pl.col("error").mean()) for t in (plain, tuned)]
    before, after = (dict(table.iter_rows()) for table in by_layer)
    assert after[0] < before[0]
    assert after[1] == before[1] == 0
    direct = [e.velocity for e in estimates(lab, runs, layers=[0], translate=lambda e, n, x: lens(e, n, x))]
    through = [e.velocity for e in estimates(lab, runs, layers=[0], translate=again)]
    assert all(torch.equal(a, b) for a, b in zip(direct, through, strict=True))


def test_lenses_that_do_not_fit(tmp_path: Path) -> None:
    lab, runs = lab_and_runs("t2v", guidance=1.0)
    lens = fit_affine_lens(lab, runs[:1], layers=[0])
    with pytest.raises(InterpError, match="no layer 1"):
        layer_lens(lab, runs[:1], layers=[1], lens=lens)
    other, others = lab_and_runs("t2v", guidance=1.0, seed=5)
    with pytest.raises(InterpError, match="fitted to"):
        layer_lens(other, others[:1], layers=[0], lens=lens)
    with pytest.raises(InterpError, match="holds no lens"):
        AffineLens.load(tmp_path)
    with pytest.raises(InterpError, match="one run or more"):
        fit_affine_lens(lab, [])
