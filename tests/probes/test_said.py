"""What a grid keeps of its rows, and what control tasks say: against the plain way of doing it."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, confusion_matrix
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from interp.store import Store
from probes import GridResult, MLPProbe, ProbeError, calibration, control_target, figures, fit_grid
from tests.probes.data import rows
from tests.probes.test_wrong_use import SITE, STORE

FAST = {"shuffles": 0, "bootstrap": 5, "path": 0.1, "predictions": True}


def out_of_fold(x: np.ndarray, y: np.ndarray, fold: np.ndarray, **options: object) -> np.ndarray:
    """Probabilities [row, class], fold by fold, with scikit-learn."""
    out = np.empty((len(y), len(np.unique(y))))
    for f in np.unique(fold):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, tol=1e-8, max_iter=2000, **options))
        out[fold == f] = model.fit(x[fold != f], y[fold != f]).predict_proba(x[fold == f])
    return out


@pytest.mark.parametrize("classes", [2, 3])
def test_predictions_are_those_of_the_probes_that_did_not_see_the_row(classes, tmp_path):
    x, y, group = rows(150, 4, classes=classes, groups=30)
    names = np.array(["left", "right", "up"])[y]
    grid = fit_grid({(0, 0): x + 1, (0, 1): x}, names, groups=group, class_weight=None, tol=1e-7, **FAST)
    found = grid.predictions(0, 1)
    assert found.columns == ["run", "token", "group", "fold", "target", "predicted", "probability"]
    assert found["target"].to_list() == names.tolist()
    expected = out_of_fold(x, y, found["fold"].to_numpy())
    np.testing.assert_allclose(np.array(found["probability"].to_list()), expected, atol=2e-3)
    accuracy = np.mean(found["predicted"].to_numpy() == names)
    assert accuracy == pytest.approx(grid.table["score"][1])
    drawn = figures.confusion(found["target"], found["predicted"]).axes[0].images[0].get_array()
    counts = confusion_matrix(y, expected.argmax(1))
    np.testing.assert_allclose(drawn, counts / counts.sum(1, keepdims=True), atol=0.03)
    kept = grid.calibration(0, 1, bins=5)
    assert kept.ece == pytest.approx(calibration(expected, y, groups=group, bins=5).ece, abs=0.01)
    again = GridResult.load(grid.save(tmp_path))
    assert again.predictions(0, 1).equals(found)
    assert again.calibration(0, 1, bins=5).ece == kept.ece


def test_predictions_of_tokens_know_their_run_and_token():
    rng = np.random.default_rng(0)
    y = np.where(rng.random((12, 5)) < 0.1, np.nan, rng.integers(0, 2, size=(12, 5)))
    x = rng.normal(size=(12, 5, 3))
    found = fit_grid({(4, 2): x}, y, groups=np.arange(12), controls=0, **FAST).predictions(4, 2)
    assert found.height == np.isfinite(y).sum()
    for row in found.iter_rows(named=True):
        assert float(row["target"]) == y[row["run"], row["token"]]
        assert row["group"] == row["run"]


def test_values_are_predicted_and_have_no_probability():
    x, _, group = rows(80, 3)
    grid = fit_grid(
        {(0, 0): x + 0.05 * rows(80, 3, seed=1)[0]},
        x[:, 0] * 2 + 1,
        groups=group,
        model="ridge",
        **FAST | {"path": 1.0},
    )
    found = grid.predictions(0, 0)
    assert np.corrcoef(found["predicted"], found["target"])[0, 1] > 0.9
    assert found["probability"].null_count() == 80
    with pytest.raises(ProbeError, match="gives no probabilities"):
        grid.calibration(0, 0)


def test_what_was_not_kept_or_means_something_else_is_refused():
    x, y, group = rows(80, 3)
    with pytest.raises(ProbeError, match="predictions=True"):
        fit_grid({(0, 0): x}, y, groups=group, **FAST | {"predictions": False}).predictions(0, 0)
    with pytest.raises(ProbeError, match="class_weight=None"):
        fit_grid({(0, 0): x}, y, groups=group, **FAST).calibration(0, 0)
    other = fit_grid(
        {(0, 0): x}, y, groups=group, model=MLPProbe(4, max_iter=5), shuffles=0, bootstrap=5, predictions=True
    )
    assert (other.predictions(0, 0)["probability"].null_count(), other.spec["balanced"]) == (80, False)


def test_cells_are_those_of_the_table_however_steps_are_named():
    grid = fit_grid(Store.open(STORE), "on_path", site=SITE, steps=[5, 0], layers=[3, 1], **FAST)
    assert grid.table["step"].to_list() == [0, 0, 5, 5]
    for step, layer, score in grid.table.select("step", "layer", "score").iter_rows():
        right = grid.predictions(step, layer).with_columns(ok=pl.col("target") == pl.col("predicted"))
        assert right.group_by("target").agg(pl.col("ok").mean())["ok"].mean() == pytest.approx(score)


# ---- control tasks ---------------------------------------------------------------------------------------------------


def test_a_control_task_is_what_a_probe_learns_by_heart():
    rng = np.random.default_rng(0)
    runs, tokens = 30, 24
    y = rng.integers(0, 2, size=(runs, tokens))
    place = np.tile(np.eye(tokens), (runs, 1, 1))  # features that tell nothing but where the token is
    noise = rng.normal(size=(runs, tokens, 6))
    cells = {(0, 0): place + 0.01 * rng.normal(size=place.shape), (1, 0): noise}
    table = fit_grid(cells, y, groups=np.arange(runs), shuffles=0, bootstrap=5, path=1.0, seed=4).table
    assert table["control"][0] == 1.0
    assert table["control"][1] < 0.65
    assert (table["selectivity"] == table["score"] - table["control"]).all()
    # The plain way: the same labels, on the same folds.
    grid = fit_grid(cells, y, groups=np.arange(runs), shuffles=0, bootstrap=5, path=1.0, seed=4, predictions=True)
    fold = grid.predictions(1, 0)["fold"].to_numpy()
    x, scores = noise.reshape(-1, 6), []
    for seed in (7, 8, 9):
        label = control_target(y.reshape(-1), kinds=np.tile(np.arange(tokens), runs), seed=seed)
        said = np.empty_like(label)
        for f in range(5):
            model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, class_weight="balanced", tol=1e-8))
            said[fold == f] = model.fit(x[fold != f], label[fold != f]).predict(x[fold == f])
        scores.append(balanced_accuracy_score(label, said))
    assert table["control"][1] == pytest.approx(np.mean(scores), abs=3e-3)


def test_a_target_per_run_has_control_tasks_where_kinds_are_given():
    x, y, group = rows(80, 3)
    none = fit_grid({(0, 0): x}, y, groups=group, shuffles=2, bootstrap=5, path=0.1)
    assert none.table["control"].null_count() == none.table["selectivity"].null_count() == 1
    assert none.null.shape == (1, 2)
    some = fit_grid({(0, 0): x}, y, groups=group, shuffles=2, bootstrap=5, path=0.1, kinds=np.arange(80) % 8)
    assert some.table["control"].null_count() == 0
    np.testing.assert_array_equal(some.null, none.null)  # chance is of shuffles only
    with pytest.raises(ProbeError, match="one kind of row only"):
        fit_grid({(0, 0): x}, y, groups=group, shuffles=0, bootstrap=5, path=0.1, kinds=np.zeros(80))
    with pytest.raises(ProbeError, match="controls=-1"):
        fit_grid({(0, 0): x}, y, groups=group, shuffles=0, bootstrap=5, path=0.1, controls=-1)
