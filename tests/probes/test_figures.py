"""Figures show the numbers they are given: read back from the axes, not from pixels."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from probes import ProbeError, figures, fit_grid
from probes.geometry import energy, pca_paths
from tests.probes.geometry.test_shapes import activations


def cells() -> pl.DataFrame:
    rows = [(s, n, (s + (9 if n is None else n)) / 14) for s in range(4) for n in (-1, 0, 1, None)]
    return pl.DataFrame(rows, schema=["step", "layer", "mean"], orient="row").sample(fraction=1, shuffle=True, seed=0)


def drawn(figure: Any) -> np.ndarray:
    return np.asarray(figure.axes[0].images[0].get_array(), dtype=float)


def test_a_heatmap_holds_every_cell_with_the_model_on_top(tmp_path: Path) -> None:
    figure = figures.heatmap(cells(), tmp_path / "a" / "heat.png", limits=(0, 1), label="solved")
    image = drawn(figure)
    assert image[3].tolist() == pytest.approx([(s + 9) / 14 for s in range(4)])
    assert image[0].tolist() == pytest.approx([(s - 1) / 14 for s in range(4)])
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["-1", "0", "1", "model"]
    assert (tmp_path / "a" / "heat.png").stat().st_size > 5000
    twice = pl.concat([cells(), cells()])
    with pytest.raises(ProbeError, match="keep one branch"):
        figures.heatmap(twice)
    with pytest.raises(ProbeError, match="did you mean mean"):
        figures.heatmap(cells(), value="meen")
    for draw in (figures.heatmap, figures.curves):
        column = {figures.heatmap: "value", figures.curves: "y"}[draw]
        with pytest.raises(ProbeError, match="'kind' holds String"):
            draw(cells().with_columns(kind=pl.lit("a")), **{column: "kind"})
        with pytest.raises(ProbeError, match="holds no number"):
            draw(cells().with_columns(mean=pl.lit(None, dtype=pl.Float64)))


def test_curves_have_their_bands_and_no_two_look_alike() -> None:
    table = cells().with_columns(low=pl.col("mean") - 0.1, high=pl.col("mean") + 0.1)
    figure = figures.curves(table, by="layer")
    lines = figure.axes[0].lines
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 4
    by_name = {line.get_label(): line for line in lines}
    assert by_name["model"].get_ydata().tolist() == pytest.approx([(s + 9) / 14 for s in range(4)])
    assert len(figure.axes[0].collections) == 4
    assert all(tick == round(tick) for tick in figure.axes[0].get_xticks())  # there is no step 0.5
    many = pl.DataFrame({"step": range(9), "mean": range(9), "kind": range(9)})
    with pytest.raises(ProbeError, match="at most 7"):
        figures.curves(many, by="kind")
    with pytest.raises(ProbeError, match="empty"):
        figures.curves(many.head(0))


def test_trajectories_run_from_small_to_large() -> None:
    steps = {s: np.random.default_rng(s).normal(size=(6, 4)) for s in range(3)}
    paths = pca_paths(steps, 2, about={"route": list("ababab")})
    figure = figures.trajectories(paths, by="route", most=4)
    dots = [c for c in figure.axes[0].collections if len(c.get_offsets())]
    assert len(dots) == 4
    assert (np.diff(dots[0].get_sizes()) > 0).all()
    row = paths.table.filter(pl.col("row") == 0).sort("step")
    np.testing.assert_allclose(dots[0].get_offsets(), row.select("pc0", "pc1").to_numpy())


def test_confusion_is_shares_of_the_true_class() -> None:
    true, predicted = [0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 1, 0]
    image = drawn(figures.confusion(true, predicted, names=["left", "right", "up"]))
    np.testing.assert_allclose(image, [[2 / 3, 1 / 3, 0], [0, 1, 0], [1, 0, 0]])
    with pytest.raises(ProbeError, match="2 names"):
        figures.confusion(true, predicted, names=["a", "b"])
    with pytest.raises(ProbeError, match="does not fit"):
        figures.matrix(np.ones((2, 3)), ["a", "b"])


def test_an_energy_map_crosses_out_sinks() -> None:
    grid = SimpleNamespace(frames=2, rows=3, cols=2)
    figure = figures.energy_map(energy(activations()), grid)
    first = figure.axes[0]
    np.testing.assert_allclose(drawn(figure), energy(activations()).relative[:6].reshape(3, 2))
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in first.lines] == [(1, 2)]  # token 5
    assert not figure.axes[1].lines


def test_differences_are_coloured_from_zero() -> None:
    table = pl.DataFrame({"step": [0, 1], "layer": [0, 0], "difference": [-0.1, 0.4]})
    image = figures.heatmap(table, value="difference", centre=0.0).axes[0].images[0]
    assert image.get_clim() == pytest.approx((-0.4, 0.4))
    assert image.cmap(image.norm(0.0))[:3] == pytest.approx((0.97,) * 3, abs=0.03)  # none is white


@pytest.mark.parametrize(("names", "slanted"), [([f"blocks.{n}" for n in range(12)], True), (list(range(12)), False)])
def test_long_names_do_not_lie_on_each_other(names: list[Any], slanted: bool) -> None:
    figure = figures.matrix(np.eye(12), names)
    figure.draw_without_rendering()
    labels = [label for label in figure.axes[0].get_xticklabels() if label.get_text()]
    assert any(label.get_rotation() for label in labels) == slanted
    boxes = [label.get_window_extent() for label in labels]
    assert slanted or all(a.x1 < b.x0 for a, b in pairwise(boxes))


def test_a_grid_of_one_step_shows_its_bands_and_six_baselines_differ() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), np.arange(40) // 2 % 2
    names = [f"baseline {n}" for n in range(6)]
    grid = fit_grid(
        {(0, 0): x}, y, groups=np.arange(40) % 10, path=0.1, shuffles=2, bootstrap=5,
        baselines={name: rng.normal(size=(40, 2)) for name in names},
    )  # fmt: skip
    axes = grid.plot().axes[1]
    assert all(np.ptp(band.get_paths()[0].vertices[:, 0]) > 0.5 for band in axes.collections)
    lines = [line for line in axes.lines if line.get_label() in names]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 6
