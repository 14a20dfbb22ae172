"""Grids: planted signals, noise, what each figure of the table is, errors, files."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy.special import expit, logit
from scipy.stats import t
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from probes import GridResult, ProbeError, fit_grid
from probes.folds import draw_folds
from probes.score import METRICS, between_folds, resample
from probes.spread import interval
from tests.probes.data import RUNS, TOKENS, planted, ridge_reference, rows


def test_a_planted_signal_is_found_where_it_is():
    cells, y, groups = planted()
    grid = fit_grid(cells, y, groups=groups, sigmas={s: 1 - s / 6 for s in range(6)}, bootstrap=300)
    onset = grid.onset()
    assert onset.filter(pl.col("layer") == 0)["onset"].to_list() == [None]
    assert onset.filter(pl.col("layer") > 0)["onset"].to_list() == [3, 3]
    assert onset.filter(pl.col("layer").is_null()).select("onset", "low", "high", "sigma").row(0) == (3, 3, 3, 0.5)
    assert grid.onset("layer").filter(pl.col("step") == 4)["onset"].to_list() == [1]
    assert grid.onset("layer").filter(pl.col("step") == 2)["onset"].to_list() == [None]
    found = grid.table.filter((pl.col("step") >= 3) & (pl.col("layer") >= 1))
    assert (found["score"] > 0.8).all()
    assert (found["auc"] > 0.9).all()
    assert (found["p"] < 1e-6).all()
    assert (grid.table["n"] == RUNS * (TOKENS - 1)).all()
    assert (grid.table["groups"] == RUNS // 2).all()


def test_pure_noise_stays_at_chance():
    cells, y, groups = planted(onset=99, steps=8, layers=5)
    grid = fit_grid(cells, y, groups=groups, bootstrap=200)
    assert grid.table["score"].mean() == pytest.approx(0.5, abs=0.02)
    assert grid.table["chance"].mean() == pytest.approx(0.5, abs=0.02)
    assert grid.onset()["onset"].to_list() == [None] * 6
    assert (grid.table["score"] > grid.table["chance_high"]).mean() < 0.15


def test_a_cell_equals_the_plain_way_of_doing_it():
    x, y, group = rows(240, 10, groups=24)
    grid = fit_grid({(0, 0): x}, y, groups=group, path=0.2, folds=4, seed=5, dtype="float64")
    folds = draw_folds(group, 4, strata=y, seed=5)
    predicted = np.empty(240, dtype=int)
    for f in range(4):
        train, test = folds.fold != f, folds.fold == f
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=0.2, class_weight="balanced", tol=1e-10, max_iter=9999)
        )
        predicted[test] = model.fit(x[train], y[train]).predict(x[test])
    assert grid.table["score"][0] == pytest.approx(balanced_accuracy_score(y, predicted), abs=1e-12)


def test_the_interval_is_that_of_resampled_groups_and_of_what_folds_share():
    x, y, group = rows(200, 6, groups=25, signal=0)
    options = {"groups": group, "bootstrap": 4000, "score": "accuracy", "shuffles": 0, "dtype": "float64"}
    grid = fit_grid({(0, 0): x}, y, path=0.1, **options)
    right, total = grid.sums[0, :, :2].sum(axis=1), grid.sums[0, :, 2:].sum(axis=1)
    rng = np.random.default_rng(9)
    scores = []
    for _ in range(4000):
        pick = rng.integers(0, 25, size=25)
        scores.append(right[pick].sum() / total[pick].sum())
    own, found = np.var(scores) * 25 / 24, common(x, y, draw_folds(group, 5, strata=y, seed=0).fold)
    assert found > 0
    point = right.sum() / total.sum()
    nearer = 0.5 + np.sign(point - 0.5) * max(0, abs(point - 0.5) - np.sqrt(found))
    own, shared = own / (point * (1 - point)) ** 2, found / (nearer * (1 - nearer)) ** 2  # of log odds
    freedom = (own + shared) ** 2 / (own**2 / 24 + shared**2 / 10)  # 25 groups, 10 pairs of folds
    away = t.ppf(0.975, freedom) * np.sqrt(own + shared)
    low, high = expit(logit(point) - away), expit(logit(point) + away)
    assert grid.table["low"][0] == pytest.approx(low, abs=0.004)
    assert grid.table["high"][0] == pytest.approx(high, abs=0.004)
    np.testing.assert_allclose(between_folds(grid.effects), found, rtol=1e-9)


def test_a_score_without_a_fault_is_not_certain():
    rng = np.random.default_rng(0)
    y, group = np.arange(200) % 2, np.arange(200) // 5
    cells = {(0, 0): rng.normal(size=(200, 2)) + 20 * y[:, None], (1, 0): rng.normal(size=(200, 2)) + 5 * y[:, None]}
    cells[2, 0] = cells[0, 0].copy()
    cells[2, 0][[1, 3]] *= -1  # two rows of the second class
    table = fit_grid(cells, y, groups=group, shuffles=0, bootstrap=1000, model="means", score="accuracy").table
    assert table["score"][0] == table["high"][0] == 1
    assert 0.95 < table["low"][0] < 0.99  # the rule of three says 1 - 3.7 / 200
    assert table["low"][0] > table["low"][2]


def test_a_perfect_score_is_bounded_by_what_its_folds_show_and_not_by_the_slope_there():
    # 40 groups of 6 rows, none wrong; probes that leave out two of five folds get `wrong` rows of the tested one wrong.
    right = np.full((1, 40, 1), 6.0)
    sums, draws = np.concatenate([right, right], axis=2), resample(40, 1000, 0)
    all_but_own = 1 - np.eye(5)
    one_pair = np.zeros((5, 5))
    one_pair[0, 1] = one_pair[1, 0] = 1
    lowest = []
    for wrong, where in ((0, one_pair), (5, one_pair), (1, all_but_own), (3, all_but_own)):
        effects = wrong * where[None] / 240
        point, low, high = interval(sums, effects, draws, METRICS["accuracy"], 0.95)
        shared = np.sqrt((effects**2).sum())  # a standard deviation, on the scale of shares
        lowest.append(low[0])
        assert point[0] == high[0] == 1
        assert lowest[0] - 3 * shared <= low[0] <= 1 - shared
    assert lowest[0] > lowest[1] > lowest[3]
    assert lowest[0] > lowest[2] > lowest[3]


def common(x, y, fold):
    """Variance of accuracy that folds share, by scikit-learn: what b does for a's score times what a does for b's."""

    def right(tested, *left_out):
        train, test = ~np.isin(fold, left_out), fold == tested
        linear = LogisticRegression(C=0.1, class_weight="balanced", tol=1e-10, max_iter=9999)
        model = make_pipeline(StandardScaler(), linear).fit(x[train], y[train])
        return (model.predict(x[test]) == y[test]).sum() / len(y)

    does = {(a, b): right(a, a) - right(a, a, b) for a in range(5) for b in range(5) if a != b}
    return max(0, 2 * sum(does[a, b] * does[b, a] for a, b in does if a < b))


@pytest.mark.parametrize("selection", ["shared", "nested"])
def test_multinomial(selection):
    x, y, group = rows(300, 8, classes=4, groups=30, signal=4)
    noise = np.random.default_rng(1).normal(size=x.shape)
    grid = fit_grid({(0, 0): noise, (1, 0): x}, y, groups=group, shuffles=6, selection=selection, bootstrap=100)
    noisy, clear = grid.table.sort("step").rows(named=True)
    assert noisy["score"] == pytest.approx(0.25, abs=0.1)
    assert clear["score"] > 0.4
    assert clear["chance"] == pytest.approx(0.25, abs=0.06)
    assert clear["auc"] > 0.65


def test_ridge_predicts_values():
    x, _, group = rows(300, 8, groups=30)
    values = 3 * (x[:, 0] - x[:, 0].mean()) / x[:, 0].std() + np.random.default_rng(0).normal(size=300) + 40
    grid = fit_grid({(0, 0): x}, values, groups=group, model="ridge", bootstrap=200)
    row = grid.table.row(0, named=True)
    assert grid.spec["score"] == "r2"
    assert 0.8 < row["low"] < row["score"] < row["high"] < 0.95
    assert row["chance"] < 0.05
    assert row["auc"] is None
    folds = draw_folds(group, 5, seed=0)
    one = fit_grid({(0, 0): x}, values, groups=group, model="ridge", path=10.0, dtype="float64")
    predicted = np.empty(300)
    for f in range(5):
        predicted[folds.fold == f] = ridge_reference(x, values, folds.fold != f, 10.0).predict(x[folds.fold == f])
    assert one.table["score"][0] == pytest.approx(r2_score(values, predicted), abs=1e-9)


def test_ridge_tells_classes_apart():
    cells, y, groups = planted(steps=1, onset=0, layers=1, first_layer=0)
    y[y == 1] = np.where(np.random.default_rng(0).random((y == 1).sum()) < 0.6, np.nan, 1.0)  # uneven classes
    grid = fit_grid(cells, y, groups=groups, model="ridge", bootstrap=100)
    assert grid.spec["score"] == "balanced_accuracy"
    assert grid.table["score"][0] > 0.8
    assert grid.table["chance"][0] == pytest.approx(0.5, abs=0.06)


def test_baselines_are_fitted_on_the_same_rows():
    cells, y, groups = planted(steps=3, onset=1, layers=2)
    good = np.nan_to_num(y)[..., None] + np.random.default_rng(0).normal(size=(RUNS, TOKENS, 1)) * 0.3
    per_step = {s: good if s == 2 else np.zeros_like(good) + np.arange(TOKENS)[:, None] for s in range(3)}
    grid = fit_grid(cells, y, groups=groups, baselines={"frame": good, "x0": per_step}, bootstrap=100)
    assert (grid.table["baseline_frame"] > 0.9).all()
    assert grid.table.sort("step", "layer")["baseline_x0"][-1] > 0.9
    assert grid.table.sort("step", "layer")["baseline_x0"][0] < 0.65
    assert grid.baselines.columns == ["baseline", "step", "score", "low", "high", "auc"]
    assert grid.baselines.height == 6


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": "svm"}, "model='svm' is not known"),
        ({"over": ("step",)}, "grids run over"),
        ({"score": "r2"}, "does not fit a target of classes"),
        ({"groups": "sample"}, "names a label of a store"),
        ({"groups": np.arange(4)}, "one key per row"),
        ({"path": 0.0}, "positive"),
        ({"folds": 2}, "at least 3 folds"),
        ({"shuffle": "rows"}, "not known"),
        ({"target": np.full((RUNS, TOKENS), np.nan)}, "NaN in every row"),
        ({"target": np.ones((RUNS, TOKENS))}, "nothing to tell apart"),
        ({"target": np.where(np.arange(TOKENS) == 1, np.inf, np.ones((RUNS, 1)))}, "infinite in 30 rows"),
        ({"target": np.linspace(0, 1, RUNS * TOKENS).reshape(RUNS, TOKENS)}, "look like measurements"),
        ({"target": np.arange(RUNS) % 2.0}, "pool='mean'"),
        ({"baselines": {"a": "latents.hook_x0"}}, "names a site"),
        ({"baselines": {"a": {0: np.zeros((RUNS, TOKENS, 1))}}}, "no array for step 1"),
        ({"dtype": "bfloat16"}, "not supported"),
        ({"level": 1.0}, "level"),
    ],
)
def test_what_cannot_be_done_is_said(change, says):
    cells, y, groups = planted(steps=2, layers=1)
    arguments = {"target": y, "groups": groups} | change
    with pytest.raises(ProbeError, match=says):
        fit_grid(cells, arguments.pop("target"), **arguments)


def test_an_error_names_its_cell():
    cells, y, groups = planted(steps=2, layers=2)
    cells[1, 1][3, 2, 0] = np.nan
    with pytest.raises(ProbeError, match="step 1, layer 1: Features hold NaN"):
        fit_grid(cells, y, groups=groups, shuffles=0)
    cells[1, 1] = cells[1, 1][:5]
    with pytest.raises(ProbeError, match="step 1, layer 1: the target has one value per run and token"):
        fit_grid(cells, y, groups=groups, shuffles=0)


def test_a_class_that_only_one_fold_has_is_refused():
    x, y, group = rows(60, 4, groups=12)
    labels = np.where(group == 0, 2, y)
    with pytest.raises(ProbeError, match=r"Class '2' \(5 rows\) lies in one fold only"):
        fit_grid({(0, 0): x}, labels, groups=group)


def test_a_grid_is_saved_and_loaded_whole(tmp_path):
    cells, y, groups = planted(steps=4, onset=2)
    grid = fit_grid(
        cells, y, groups=groups, baselines={"frame": cells[0, 0]}, bootstrap=50, shuffles=5, directions=True
    )
    again = GridResult.load(grid.save(tmp_path / "grid"))
    assert again.table.equals(grid.table)
    assert again.baselines.equals(grid.baselines)
    assert again.spec == grid.spec
    assert again.onset().equals(grid.onset())
    np.testing.assert_array_equal(again.direction(3, 1), grid.direction(3, 1))
    less = fit_grid({(0, 0): cells[0, 0]}, y, groups=groups, bootstrap=5, shuffles=0)
    assert GridResult.load(less.save(tmp_path / "grid")).coef is None  # not that of the grid saved there before
    with pytest.raises(ProbeError, match=r"no grid\.json"):
        GridResult.load(tmp_path)
    for name in ("cells.parquet", "grid.json"):
        for damage in (lambda file: file.write_bytes(b"{"), lambda file: file.write_bytes(b"{}")):
            damage(grid.save(tmp_path / "grid") / name)
            with pytest.raises(ProbeError, match=r"is damaged|another version"):
                GridResult.load(tmp_path / "grid")
    (grid.save(tmp_path / "grid") / "cells.parquet").unlink()
    with pytest.raises(ProbeError, match="is damaged: FileNotFoundError"):
        GridResult.load(tmp_path / "grid")


def test_the_figure_is_written(tmp_path):
    cells, y, groups = planted(steps=4, onset=2)
    grid = fit_grid(
        cells,
        y,
        groups=groups,
        baselines={"first_frame": cells[0, 0]},
        bootstrap=50,
        sigmas=dict.fromkeys(range(4), 0.5),
    )
    figure = grid.plot(tmp_path / "sub" / "when.png", title="on path")
    assert (tmp_path / "sub" / "when.png").stat().st_size > 10_000
    heat, curves = figure.axes[0], figure.axes[1]
    assert heat.get_title(loc="left") == "on path"
    np.testing.assert_allclose(
        heat.images[0].get_array(), grid.table.pivot("step", index="layer", values="score").drop("layer")
    )
    assert len(curves.lines) == 1 + 3 + 1  # chance, three layers, a baseline
    fit_grid({(0, 0): cells[0, 0]}, y, groups=groups, shuffles=0, bootstrap=5).plot(tmp_path / "one.png")


def test_an_onset_needs_chance_and_a_full_grid():
    cells, y, groups = planted(steps=3, layers=2)
    with pytest.raises(ProbeError, match="shuffles > 1"):
        fit_grid(cells, y, groups=groups, shuffles=0, bootstrap=5).onset()
    del cells[1, 1]
    with pytest.raises(ProbeError, match="layer 1, step 1 is missing"):
        fit_grid(cells, y, groups=groups, shuffles=3, bootstrap=5).onset()
