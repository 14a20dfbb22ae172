"""Dimension on known manifolds, paths against in-memory components, energy against naive sums and the store's views."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from interp.grid import TokenGrid
from interp.views import norm
from interp.views.view import Given
from probes import ProbeError
from probes.geometry import (
    Covariance,
    Direction,
    MeanDifference,
    energy,
    energy_table,
    mean_difference,
    participation_ratio,
    pca,
    pca_paths,
    rows_of,
    two_nn,
    umap_paths,
)
from tests.probes.geometry.test_geometry import correlated


def roll(n: int) -> np.ndarray:
    """A swiss roll in 10 dimensions, equally dense everywhere along its two."""
    rng = np.random.default_rng(0)
    length, width = rng.uniform(0, 60, n), rng.uniform(0, 20, n)
    angle = np.sqrt(2 * length) + 1.5
    flat = np.stack([angle * np.cos(angle), width, angle * np.sin(angle)], axis=1)
    return flat @ np.linalg.qr(rng.normal(size=(10, 10)))[0][:3]


@pytest.mark.parametrize(
    ("x", "dimension"),
    [
        (np.random.default_rng(0).random((3000, 1)) @ np.ones((1, 6)), 1),
        (roll(3000), 2),
        (np.random.default_rng(1).normal(size=(3000, 5)) @ np.random.default_rng(2).normal(size=(5, 12)), 5),
    ],
)
def test_local_dimension_of_known_manifolds(x: np.ndarray, dimension: int) -> None:
    found = two_nn(np.concatenate([x, x[:5]]))  # repeated rows change nothing
    assert found.value == pytest.approx(dimension, rel=0.1)
    assert found.low < found.value < found.high
    assert found.rows == 3000


def test_its_interval_holds_the_truth() -> None:
    draws = [two_nn(np.random.default_rng(k).random((400, 2))) for k in range(60)]
    assert sum(d.low <= 2 <= d.high for d in draws) >= 42  # neighbours are not independent, so less than 95 %


def test_participation_ratio_of_known_covariances() -> None:
    rng = np.random.default_rng(0)
    assert participation_ratio(rng.normal(size=(20000, 6))) == pytest.approx(6, rel=0.01)
    assert participation_ratio(np.outer(rng.normal(size=50), np.ones(7))) == pytest.approx(1)
    x = correlated()
    values = np.linalg.eigvalsh(np.cov(x.T))
    streamed = Covariance().update(x[:30]).update(x[30:])
    assert participation_ratio(streamed) == pytest.approx(values.sum() ** 2 / (values**2).sum())
    with pytest.raises(ProbeError, match="all the same"):
        participation_ratio(np.ones((5, 3)))
    with pytest.raises(ProbeError, match="at least 10"):
        two_nn(x[:4])


def test_paths_of_a_store_are_those_in_memory() -> None:
    values = {step: correlated(30, 6, seed=step).reshape(10, 3, 6) for step in range(3)}
    store = SimpleNamespace(
        runs=tuple(range(10)), read=lambda site, step, branch, runs: values[step][list(runs)]
    )  # fmt: skip
    streamed = pca_paths({s: (lambda s=s: rows_of(store, "x", s, pool=True, runs_at_once=4)) for s in values}, 2)
    means = {step: v.astype(np.float32).mean(1) for step, v in values.items()}
    expected = pca(np.concatenate(list(means.values())), 2)
    got = streamed.table.sort("step", "row").select("pc0", "pc1").to_numpy()
    np.testing.assert_allclose(got, expected.project(np.concatenate(list(means.values()))), atol=1e-8)
    whole = np.concatenate(list(rows_of(store, "x", 1, runs_at_once=4)))
    np.testing.assert_array_equal(whole, values[1].reshape(30, 6).astype(np.float32))
    assert streamed.axes == ["pc0", "pc1"]
    named = pca_paths(means, 1, about={"answer": list("aabbaabbaa")}).table
    assert named.columns == ["row", "step", "answer", "pc0"]
    with pytest.raises(ProbeError, match="2 values for 10 rows"):
        pca_paths(means, 1, about={"answer": [0, 1]})


def test_blocks_of_a_store_stay_within_memory() -> None:
    values, asked = correlated(60, 6).reshape(20, 3, 6), []

    def read(site: str, step: int, branch: str | None, runs: list[int]) -> np.ndarray:
        asked.append(len(runs))
        return values[runs]

    store = SimpleNamespace(runs=tuple(range(20)), read=read)
    memory = 4 * 8 * 6**2 + 3 * 40 * 18  # the sums, and three runs
    got = pca(rows_of(store, "x", 0, memory=memory), 3)
    assert max(asked) == 3
    expected = pca(values.reshape(60, 6).astype(np.float32), 3)
    np.testing.assert_allclose(got.axes, expected.axes, atol=1e-9)
    with pytest.raises(ProbeError, match="more than memory=0 MB"):
        next(rows_of(store, "x", 0, memory=100))


@pytest.mark.slow
def test_aligned_umap_keeps_groups_apart_and_is_seeded() -> None:
    pytest.importorskip("umap", reason="umap-learn is an extra")
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1], 20)
    steps = {step: rng.normal(size=(40, 8)) + 12 * group[:, None] for step in range(3)}
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, again = (umap_paths(steps, neighbours=8, seed=1).table for _ in range(2))
        blocks = {step: (lambda step=step: iter(np.array_split(steps[step], 3))) for step in steps}
        reduced = umap_paths(blocks, neighbours=8, seed=1, components=8).table
    assert first.equals(again)
    assert reduced.height == first.height
    for step in range(3):
        xy = first.filter(first["step"] == step).select("umap0", "umap1").to_numpy()
        centres = [xy[group == g].mean(0) for g in (0, 1)]
        spread = max(np.linalg.norm(xy[group == g] - centres[g], axis=1).max() for g in (0, 1))
        assert np.linalg.norm(centres[0] - centres[1]) > spread


@pytest.mark.slow
def test_umap_of_rows_that_do_not_match() -> None:
    pytest.importorskip("umap", reason="umap-learn is an extra")
    with pytest.raises(ProbeError, match="same rows"):
        umap_paths({0: np.ones((5, 2)), 1: np.ones((6, 2))})
    with pytest.raises(ProbeError, match="too few"):
        umap_paths({0: np.ones((5, 2)), 1: np.ones((5, 2))})


def activations() -> np.ndarray:
    x = np.random.default_rng(0).normal(size=(7, 12, 31)).astype(np.float32)
    x[:, 5] *= 30  # a sink
    x[:, :, 8] *= 400  # a massive channel
    return x


def test_energy_is_the_naive_one_and_streams() -> None:
    x = activations()
    whole, streamed = energy(x), energy([x[:2], x[2:3], x[3:]])
    length = np.linalg.norm(x, axis=2)
    np.testing.assert_allclose(whole.l2, length.mean(0), rtol=1e-5)
    np.testing.assert_allclose(whole.robust, np.sort(np.abs(x), axis=2)[:, :, 15].mean(0), rtol=1e-5)
    np.testing.assert_allclose(whole.relative, (length / length.mean(1, keepdims=True)).mean(0), rtol=1e-5)
    for name in ("l2", "robust", "relative", "sink", "channel"):
        np.testing.assert_allclose(getattr(streamed, name), getattr(whole, name), rtol=1e-6)
    assert (whole.sinks, whole.massive, streamed.runs) == ([5], [8], 7)


@pytest.mark.parametrize(("kind", "name"), [("l2", "l2"), ("robust", "robust"), ("layer", "relative")])
def test_energy_is_what_the_views_store(kind: str, name: str) -> None:
    x = torch.from_numpy(activations())
    given = Given("blocks.0.hook_resid_post", ("token", "d_model"), (12, 31), None, None, TokenGrid(3, 2, 2))
    view = norm(kind).computer(given, ())(x)
    np.testing.assert_allclose(getattr(energy(x), name), view.double().mean(0), rtol=1e-5)


def test_maps_lie_on_the_grid_and_are_contrasted() -> None:
    found = energy(activations())
    table = energy_table({(0, 3): found}, SimpleNamespace(frames=2, rows=3, cols=2))
    row = table.filter(table["token"] == 7).row(0, named=True)
    assert (row["frame"], row["row"], row["col"], row["layer"]) == (1, 0, 1, 3)
    assert row["l2"] == found.l2[7]
    assert found.contrast([5]) == pytest.approx(found.relative[5] / np.delete(found.relative, 5).mean())
    with pytest.raises(ProbeError, match="all tokens or none"):
        found.contrast(range(12))
    with pytest.raises(ProbeError, match="not a grid"):
        energy_table({(0, 0): found}, SimpleNamespace(frames=1, rows=3, cols=2))
    with pytest.raises(ProbeError, match="run, token, feature"):
        energy(np.ones((3, 4)))


def test_a_direction_is_the_difference_of_means_and_survives_a_file(tmp_path) -> None:
    x, y = correlated(50, 4), np.arange(50) % 2
    naive = x[y == 1].mean(0) - x[y == 0].mean(0)
    streamed = MeanDifference().update(x[:20], y[:20]).update(x[20:], y[20:]).direction(target="odd")
    np.testing.assert_allclose(streamed.vector, naive)
    again = Direction.load(streamed.save(tmp_path / "odd.safetensors"))
    assert again.about == {"from": "means", "classes": ["0", "1"], "target": "odd"}
    np.testing.assert_allclose(again.vector, naive, rtol=1e-6)
    of_probe = Direction.of_probe([0, 0, 2, 0], x, y)
    np.testing.assert_allclose(of_probe.vector, [0, 0, naive[2], 0])
    assert np.linalg.norm(of_probe.unit) == pytest.approx(1)
    with pytest.raises(ProbeError, match="two classes"):
        mean_difference(x, np.zeros(50))
    with pytest.raises(ProbeError, match="does not exist"):
        Direction.load(tmp_path / "none")
