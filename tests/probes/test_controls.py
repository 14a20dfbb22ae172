"""The SVM, the small network and the attention probe: as scikit-learn's, and better where they should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from probes import AttentionProbe, LinearSVM, LogisticProbe, MLPProbe, ProbeError, fit_grid, fit_transfer


@parametrize_with_checks([LinearSVM(), MLPProbe(hidden=8, max_iter=40)])
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def blobs(classes: int, n: int = 120, d: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, classes, n)
    return 40 + 5 * rng.normal(size=(n, d)) + 6 * rng.normal(size=(classes, d))[y], y


@pytest.mark.parametrize("classes", [2, 3])
def test_the_svm_is_scikit_learns(classes: int) -> None:
    x, y = blobs(classes)
    ours = LinearSVM(C=0.1).fit(x, y)
    theirs = make_pipeline(StandardScaler(), LinearSVC(C=0.1, dual="auto", random_state=0)).fit(x, y)
    np.testing.assert_allclose(ours.decision_function(x), theirs.decision_function(x), atol=1e-6)
    np.testing.assert_array_equal(ours.predict(x), theirs.predict(x))


@pytest.mark.parametrize("classes", [2, 3])
def test_the_network_is_scikit_learns_and_seeded(classes: int, tmp_path: Path) -> None:
    x, y = blobs(classes)
    ours = MLPProbe(8, max_iter=20).fit(x, y)
    inner = MLPClassifier((8,), solver="lbfgs", alpha=1.0, max_iter=20, random_state=0)
    with pytest.warns(match="converge"):
        theirs = make_pipeline(StandardScaler(), inner).fit(x, y)
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=1e-6)
    np.testing.assert_array_equal(ours.decision_function(x), MLPProbe(8, max_iter=20).fit(x, y).decision_function(x))
    again = MLPProbe.load(ours.save(tmp_path / "mlp"))
    np.testing.assert_array_equal(again.predict_proba(x), ours.predict_proba(x))
    with pytest.warns(match="converge"):
        MLPProbe(8, max_iter=2, early=False).fit(x, y)


def test_the_network_reads_what_no_line_divides() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 4))
    y = (x[:, 0] * x[:, 1] > 0).astype(int)
    train = np.arange(400) < 300
    assert LogisticProbe().fit(x[train], y[train]).score(x[~train], y[~train]) < 0.65
    assert MLPProbe(alpha=0.1).fit(x[train], y[train]).score(x[~train], y[~train]) > 0.85


def needle(n: int = 160, tokens: int = 24, d: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One token, somewhere, is marked in feature 0 and holds the class in feature 1."""
    rng = np.random.default_rng(0)
    x, y, place = rng.normal(size=(n, tokens, d)), rng.integers(0, 2, n), rng.integers(0, tokens, n)
    x[np.arange(n), place, 0] += 9
    x[np.arange(n), place, 1] += 4 * (2 * y - 1)
    return x, y, place


def test_attention_finds_the_token_that_knows(tmp_path: Path) -> None:
    x, y, place = needle()
    train = np.arange(len(y)) < 100
    probe = AttentionProbe(C=1.0).fit(x[train], y[train])
    pooled = LogisticProbe(C=1.0).fit(x[train].mean(1), y[train]).score(x[~train].mean(1), y[~train])
    assert probe.score(x[~train], y[~train]) > max(0.95, pooled)
    weights = probe.attention(x[~train])
    np.testing.assert_allclose(weights.sum(2), 1)
    assert (weights[:, 0].argmax(1) == place[~train]).mean() > 0.9
    again = AttentionProbe.load(probe.save(tmp_path / "attention"))
    np.testing.assert_array_equal(again.predict_proba(x), probe.predict_proba(x))
    decision = probe.decision_function(x)
    np.testing.assert_array_equal(probe.predict(x), (decision > 0).astype(int))


def test_without_attention_it_is_the_mean_pooled_probe() -> None:
    x, y, _ = needle()
    probe = AttentionProbe(max_iter=50).fit(x, y)
    probe.query_ = np.zeros_like(probe.query_)
    scaled = (x - probe.mean_) / probe.scale_
    logits = scaled.mean(1) @ probe.coef_[:, 0].T + probe.intercept_
    np.testing.assert_allclose(probe.decision_function(x), logits[:, 1] - logits[:, 0], atol=1e-12)


def test_tokens_that_cannot_be_read() -> None:
    x, y, _ = needle(20)
    with pytest.raises(ProbeError, match="sample, token, feature"):
        AttentionProbe().fit(x[:, 0], y)
    with pytest.raises(ProbeError, match="one a sample"):
        AttentionProbe().fit(x, np.zeros(20))
    with pytest.raises(ProbeError, match="8 features"):
        AttentionProbe(max_iter=2).fit(x, y).predict(x[..., :3])
    with pytest.warns(match="before it had converged"):
        assert AttentionProbe(max_iter=2, early=False).fit(x, y).n_iter_ <= 2
    for wrong in ({"C": 0.0}, {"heads": 0}):
        with pytest.raises(ValueError, match="need one head or more, and C above 0"):
            AttentionProbe(**wrong).fit(x, y)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_grid_of_any_estimator_is_the_grid_of_the_solver(classes: int) -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(rng.integers(0, classes, 30), 2)
    groups = np.repeat(np.arange(30), 2)
    means = rng.normal(size=(classes, 5))
    cells = {(s, 0): rng.normal(size=(60, 5)) + s * means[y] for s in (0, 1)}
    options: dict[str, Any] = {"groups": groups, "shuffles": 4, "class_weight": None, "seed": 3}
    ours = fit_grid(cells, y, model="logistic", path=0.5, dtype="float64", tol=1e-8, **options)
    any_ = fit_grid(cells, y, model=LogisticProbe(C=0.5, tol=1e-8), **options)
    for column in ("step", "layer", "score", "low", "high", "chance", "auc"):
        np.testing.assert_allclose(any_.table[column].to_numpy(), ours.table[column].to_numpy(), atol=1e-9)
    assert any_.spec["model"] == "LogisticProbe"
    assert any_.spec["rows"] == ours.spec["rows"]
    assert any_.onset().height == ours.onset().height


def test_a_grid_of_the_attention_probe_keeps_tokens_together() -> None:
    x, y, _ = needle(60, 6)
    options: dict[str, Any] = {"model": AttentionProbe(C=1.0, max_iter=40), "groups": np.arange(60), "shuffles": 1}
    found = fit_grid({(0, 0): x}, y.astype(float), folds=3, **options)
    assert found.table["score"].item() > 0.9
    with pytest.raises(ProbeError, match="pools tokens itself"):
        fit_grid({(0, 0): x}, y, pool="mean", **options)
    with pytest.raises(ProbeError, match="cannot be tested in other cells"):
        fit_transfer({(0, 0): x}, y, model=options["model"], groups=np.arange(60), folds=3)
    with pytest.raises(ProbeError, match="run, token, feature"):
        fit_grid({(0, 0): x[:, 0]}, y, **options)


def test_values_have_their_non_linear_control_too() -> None:
    rng = np.random.default_rng(0)
    x, groups = rng.normal(size=(240, 4)), np.arange(240) // 4
    values = np.abs(x[:, 0]) + 0.1 * rng.normal(size=240)  # a distance, say: no line reads it
    options: dict[str, Any] = {"groups": groups, "shuffles": 2, "folds": 3, "bootstrap": 20}
    linear = fit_grid({(0, 0): x}, values, model="ridge", path=10.0, dtype="float64", **options).table
    own = fit_grid({(0, 0): x}, values, model=make_pipeline(StandardScaler(), Ridge(10.0)), **options).table
    for column in ("score", "low", "high", "chance"):
        np.testing.assert_allclose(own[column].to_numpy(), linear[column].to_numpy(), atol=1e-9)
    network = MLPRegressor(hidden_layer_sizes=(16,), solver="lbfgs", alpha=0.1, max_iter=3000, random_state=0)
    curved = fit_grid({(0, 0): x}, values, model=make_pipeline(StandardScaler(), network), **options).table
    assert linear["high"][0] < 0.3 < 0.6 < curved["low"][0]
