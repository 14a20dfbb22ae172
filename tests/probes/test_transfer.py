"""Probes of one cell tested in others."""

from __future__ import annotations

import numpy as np
import pytest

from probes import LogisticProbe, ProbeError, fit_grid, fit_transfer, transfer_between
from probes.folds import draw_folds
from probes.score import between_folds, class_sums, metric, resample
from probes.spread import interval
from tests.probes.data import reference


def cells(seed=0):
    """Steps 0-1 share a code; step 2 keeps it on another scale; step 3 has rotated; both layers alike. [240, 6], 24
    groups."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, size=240)
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    out = {}
    for step in range(4):
        for layer in range(2):
            x = rng.normal(size=(240, 6))
            x[:, 0] += 3 * (y - 0.5)
            out[step, layer] = x if step < 2 else 5 * x + 40 if step == 2 else x @ rotation
    return out, y, np.arange(240) % 24


def test_stable_codes_carry_over_and_rotated_ones_do_not():
    data, y, groups = cells()
    result = fit_transfer(data, y, groups=groups, resamples=100)
    matrix, steps = result.matrix(layer=1)
    assert steps == [0, 1, 2, 3]
    assert (np.diag(matrix) > 0.85).all()
    assert matrix[0, 1] > 0.85
    assert matrix[0, 2] < 0.6  # another scale: everything lies on one side of the threshold
    rescaled, _ = fit_transfer(data, y, groups=groups, rescale=True, resamples=10).matrix(layer=1)
    assert rescaled[0, 2] > 0.85
    assert rescaled[0, 3] < matrix[3, 3] - 0.1
    own = fit_grid(data, y, groups=groups, shuffles=0, bootstrap=10).table.filter(layer=1).sort("step")["score"]
    np.testing.assert_allclose(np.diag(matrix), own, atol=1e-12)


def test_every_row_is_tested_by_the_probe_that_did_not_see_it():
    data, y, groups = cells()
    result = fit_transfer(data, y, groups=groups, along="all", path=0.1, score="accuracy", resamples=10, tol=1e-7)
    folds = draw_folds(groups, 5, strata=y, seed=0)
    predicted = np.empty(240, dtype=int)
    for f in range(5):
        train, test = folds.fold != f, folds.fold == f
        probe = LogisticProbe(C=0.1, class_weight="balanced").fit(data[1, 0][train], y[train])
        predicted[test] = probe.predict(data[3, 1][test])
    row = result.table.filter(train_step=1, train_layer=0, test_step=3, test_layer=1).row(0, named=True)
    assert row["score"] == pytest.approx(np.mean(predicted == y), abs=1 / 240 + 1e-9)
    assert row["low"] <= row["score"] <= row["high"]
    assert row["lost"] == pytest.approx(row["own"] - row["score"])
    assert result.table.height == 64


def test_an_interval_elsewhere_knows_what_folds_have_in_common():
    rng = np.random.default_rng(1)
    here, there = rng.normal(size=(2, 80, 12))
    there = here + 0.3 * there
    y, groups = rng.integers(0, 2, size=80), np.arange(80) % 40
    result = fit_transfer(
        {(0, 0): here, (1, 0): there}, y, groups=groups, path=0.1, class_weight=None, folds=4, resamples=50,
        dtype="float64", tol=1e-9,
    )  # fmt: skip
    folds = draw_folds(groups, 4, strata=y, seed=0)

    def right(tested: int, besides: int) -> np.ndarray:
        rows = folds.fold == tested
        model = reference(here, y, folds.train(tested, besides), 0.1)
        return (model.predict(there) == y) & rows

    whole = sum(right(f, f) for f in range(4))
    effects = np.array(
        [[whole.mean() - (whole ^ right(a, a) | right(a, b)).mean() for b in range(4)] for a in range(4)]
    )
    sums = class_sums(np.where(whole, y, 1 - y), y, folds.group, 2)
    score = metric("accuracy", classification=True)
    expected = interval(sums[None], effects[None], resample(40, 50, 2), score, 0.95)
    alone = interval(sums[None], 0 * effects[None], resample(40, 50, 2), score, 0.95)
    row = result.table.filter(train_step=0, test_step=1).row(0, named=True)
    np.testing.assert_allclose([row["score"], row["low"], row["high"]], np.concatenate(expected), atol=1e-9)
    assert between_folds(effects) > 0  # else nothing was tested
    assert row["low"] < alone[1][0]


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize(
    ("model", "classes", "d"),
    [("logistic", 2, 5), ("logistic", 3, 60), ("ridge", 0, 5), ("ridge", 2, 60), ("lda", 2, 5), ("means", 3, 5)],
)
def test_a_copy_of_a_cell_has_the_interval_of_the_cell(model, classes, d, rescale):
    rng = np.random.default_rng(2)
    x, groups = rng.normal(size=(60, d)), np.arange(60) % 30
    y = rng.integers(0, classes, size=60) if classes else x[:, 0] + 3 * rng.normal(size=60)
    scaled = 3 * x + 1 if rescale else x
    table = fit_transfer(
        {(0, 0): x, (1, 0): scaled}, y, groups=groups, model=model, folds=3, resamples=20, rescale=rescale,
        dtype="float64", tol=1e-8,
    ).table  # fmt: skip
    own = table.filter(train_step=1, test_step=1).select("score", "low", "high").row(0)
    for found in table.select("score", "low", "high").iter_rows():
        np.testing.assert_allclose(found, own, atol=1e-5)


def test_an_estimator_has_intervals_elsewhere_too():
    from sklearn.svm import LinearSVC

    rng = np.random.default_rng(3)
    x, y, groups = rng.normal(size=(60, 8)), rng.integers(0, 2, size=60), np.arange(60) % 30
    table = fit_transfer({(0, 0): x, (1, 0): x}, y, groups=groups, model=LinearSVC(C=0.01), resamples=20).table
    assert table.select("score", "low", "high").unique().height == 1


def test_values_carry_over(tmp_path):
    data, _, groups = cells()
    values = data[0, 0][:, 1] + 0.1 * np.random.default_rng(0).normal(size=240)
    same = {(s, 0): data[0, 0] + 0.01 * s for s in range(3)}
    result = fit_transfer(same, values, groups=groups, model="ridge", resamples=10)
    assert (result.table["score"] > 0.9).all()
    result.plot(tmp_path / "m.png", layer=0)
    assert (tmp_path / "m.png").stat().st_size > 5_000


def test_what_cannot_be_done_is_said():
    data, y, groups = cells()
    with pytest.raises(ProbeError, match="along='time'"):
        fit_transfer(data, y, groups=groups, along="time")
    result = fit_transfer(data, y, groups=groups, along="layer", steps=(0,), resamples=5)
    with pytest.raises(ProbeError, match="Say one of"):
        result.matrix()
    with pytest.raises(ProbeError, match="holds no step 3"):
        result.matrix(step=3)


def test_directions_point_at_what_was_planted():
    data, y, groups = cells()
    grid = fit_grid(data, y, groups=groups, shuffles=0, bootstrap=10, directions=True, layers=(0,))
    direction = grid.direction(2, 0)
    assert np.linalg.norm(direction) == pytest.approx(1)
    assert direction[0] > 0.9
    with pytest.raises(ProbeError, match="no cell at step 9"):
        grid.direction(9, 0)
    with pytest.raises(ProbeError, match="directions=True"):
        fit_grid(data, y, groups=groups, shuffles=0, bootstrap=10, layers=(0,)).direction(0, 0)


def kinds(seed=0):
    """Runs of three sizes: the first two share a code, the third has it in another feature. [240, 6], 40 groups."""
    rng = np.random.default_rng(seed)
    y, size = rng.integers(0, 2, size=240), np.arange(240) // 2 % 3
    x = rng.normal(size=(240, 6))
    x[np.arange(240), np.where(size == 2, 4, 0)] += 3 * (y - 0.5)
    return x, y, size, np.arange(240) // 6


def test_between_kinds_of_runs():
    x, y, size, groups = kinds()
    table = transfer_between({(0, 0): x}, y, groups=groups, between=size, resamples=50, score="accuracy", path=0.1)
    assert table.height == 9
    score = {(a, b): s for a, b, s in table.select("train", "test", "score").iter_rows()}
    assert min(score["0", "0"], score["0", "1"], score["1", "0"], score["2", "2"]) > 0.85
    assert max(score["0", "2"], score["2", "1"]) < 0.65
    assert (table["n"] == 80).all()
    # The plain way: train on size 0 outside a fold, test on size 1 inside it.
    fold = draw_folds(groups, 5, strata=2 * size + y, seed=0).fold
    right = 0
    for f in range(5):
        probe = LogisticProbe(C=0.1).fit(x[(fold != f) & (size == 0)], y[(fold != f) & (size == 0)])
        test = (fold == f) & (size == 1)
        right += (probe.predict(x[test]) == y[test]).sum()
    plain = transfer_between(
        {(0, 0): x}, y, groups=groups, between=size, path=0.1, class_weight=None, resamples=5, tol=1e-7
    )
    assert plain.filter(train="0", test="1")["score"][0] == pytest.approx(right / 80, abs=1 / 80 + 1e-9)


def test_folds_hold_rows_of_every_kind():
    rng = np.random.default_rng(0)
    x, y, groups = rng.normal(size=(80, 3)), np.arange(80) % 2, np.arange(80) // 4
    for seed in range(4):  # seven groups of the kind that has fewest, in five folds
        options = {"groups": groups, "between": np.minimum(groups % 3, 1), "model": "means", "seed": seed}
        assert transfer_between({(0, 0): x}, y, resamples=5, **options).height == 4
    with pytest.raises(ProbeError, match="'0' lie in 1 of 5 folds"):  # folds that are given are kept
        transfer_between({(0, 0): x}, y, folds=groups // 4, **options | {"between": np.minimum(groups // 4, 1)})


def test_values_between_kinds_and_what_cannot_be_done():
    x, y, size, groups = kinds()
    values = x[:, 1] * 5 + 0.1 * x[:, 2]
    table = transfer_between({(0, 0): x}, values, groups=groups, between=size, model="ridge", path=1.0, resamples=5)
    assert (table["score"] > 0.95).all()
    with pytest.raises(ProbeError, match="one kind of run only"):
        transfer_between({(0, 0): x}, y, groups=groups, between=np.zeros(240))
    with pytest.raises(ProbeError, match="lie in 1 of 5 folds"):
        transfer_between({(0, 0): x}, y, groups=groups, between=(groups == 3).astype(int))
    for unknown in (np.where(size == 2, np.nan, size), np.where(size == 2, None, size.astype(str))):
        with pytest.raises(ProbeError, match="NaN or None in 80 rows"):
            transfer_between({(0, 0): x}, y, groups=groups, between=unknown)


def test_branches_of_the_same_runs_are_cells():
    data, y, groups = cells()
    result = fit_transfer({(0, 0): data[0, 0], (0, 1): data[3, 0]}, y, groups=groups, along="layer", resamples=5)
    matrix, _ = result.matrix(step=0)
    assert matrix[0, 1] < matrix[1, 1] - 0.1
