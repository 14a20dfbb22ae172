"""The probes as scikit-learn estimators."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator
from sklearn.utils.validation import validate_data

from probes import AttentionProbe, LDAProbe, LogisticProbe, MeansProbe, MLPProbe, ProbeError, RidgeProbe, fit_grid
from tests.probes.data import coefficients, reference, ridge_reference, rows


class OneToken(AttentionProbe):
    """An attention probe of rows, each a sample of one token: what scikit-learn's checks, made for rows, can ask."""

    tokens = False

    def fit(self, x, y):
        x, y = validate_data(self, x, y, dtype=np.float64)
        if len(np.unique(y)) < 2:
            raise ValueError("one class")
        return super().fit(x[:, None], y)

    def _checked(self, x):
        if isinstance(x, np.ndarray) and x.ndim == 3:
            return super()._checked(x)
        return super()._checked(validate_data(self, x, dtype=np.float64, reset=False)[:, None])

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = True, False
        return tags


# scikit-learn compares weighted with repeated rows to 1e-7. The SVM and the network: see test_controls.
CHECKED = (LogisticProbe(tol=1e-9), RidgeProbe(), LDAProbe(), MeansProbe(), OneToken(max_iter=30))


def checks():
    for estimator in CHECKED:
        for instance, check in estimator_checks_generator(estimator):
            name = getattr(check, "func", check).__name__
            if "pandas" in name or "not_an_array" in name or "array_api" in name:
                continue  # need packages that are not among our dependencies
            yield pytest.param(instance, check, id=f"{type(estimator).__name__}-{name}")


@pytest.mark.filterwarnings("ignore")  # the checks provoke warnings on purpose
@pytest.mark.parametrize(("estimator", "check"), list(checks()))
def test_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_equals_scikit_learn(classes, tmp_path):
    x, y, _ = rows(150, 8, classes=classes)
    probe = LogisticProbe(C=0.3).fit(x, y)
    model = reference(x, y, np.ones(150, dtype=bool), 0.3)
    np.testing.assert_allclose(
        probe.coef_, coefficients(model), rtol=1e-3, atol=1e-4 * np.abs(coefficients(model)).max()
    )
    np.testing.assert_allclose(probe.predict_proba(x), model.predict_proba(x), atol=1e-4)
    np.testing.assert_allclose(probe.decision_function(x), model.decision_function(x), atol=1e-3)
    again = LogisticProbe.load(probe.save(tmp_path / "p"))
    np.testing.assert_array_equal(again.predict_proba(x), probe.predict_proba(x))
    assert again.get_params() == probe.get_params()


def test_text_classes_survive_saving(tmp_path):
    x, y, _ = rows(60, 4)
    probe = LogisticProbe().fit(x, np.array(["left", "right"])[y])
    assert (LogisticProbe.load(probe.save(tmp_path)).predict(x) == probe.predict(x)).all()


def test_ridge_equals_scikit_learn(tmp_path):
    x, _, _ = rows(120, 8)
    y = x[:, 0] + np.random.default_rng(0).normal(size=120)
    probe = RidgeProbe(alpha=3.0).fit(x, y)
    model = ridge_reference(x, y, np.ones(120, dtype=bool), 3.0)
    np.testing.assert_allclose(probe.predict(x), model.predict(x), rtol=1e-9)
    np.testing.assert_array_equal(RidgeProbe.load(probe.save(tmp_path)).predict(x), probe.predict(x))


def test_loading_something_else_is_refused(tmp_path):
    with pytest.raises(ProbeError, match=r"no config\.json"):
        LogisticProbe.load(tmp_path)
    RidgeProbe().fit(np.eye(4), np.arange(4)).save(tmp_path)
    with pytest.raises(ProbeError, match="holds a RidgeProbe"):
        LogisticProbe.load(tmp_path)


# ---- discriminants ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3])
def test_lda_without_shrinkage_is_scikit_learns(classes, tmp_path):
    x, y, _ = rows(200, 6, classes=classes)
    probe = LDAProbe(1e-10, standardise=False).fit(x, y)
    model = LinearDiscriminantAnalysis(solver="lsqr").fit(x, y)
    np.testing.assert_allclose(probe.predict_proba(x), model.predict_proba(x), atol=1e-6)
    again = LDAProbe.load(probe.save(tmp_path / "lda"))
    np.testing.assert_array_equal(again.predict_proba(x), probe.predict_proba(x))
    assert again.get_params() == probe.get_params()


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("standardise", [True, False])
def test_means_give_a_row_to_the_nearest(classes, standardise, tmp_path):
    x, y, _ = rows(150, 5, classes=classes)
    probe = MeansProbe(standardise=standardise).fit(x, y)
    z = StandardScaler().fit_transform(x) if standardise else x
    np.testing.assert_array_equal(probe.predict(x), NearestCentroid().fit(z, y).predict(z))
    if classes == 2:
        gap = x[y == 1].mean(axis=0) - x[y == 0].mean(axis=0)
        np.testing.assert_allclose(probe.coef_[0], gap / x.var(axis=0) if standardise else gap)
    again = MeansProbe.load(probe.save(tmp_path / "means"))
    np.testing.assert_array_equal(again.decision_function(x), probe.decision_function(x))


@pytest.mark.parametrize(("model", "probe"), [("lda", LDAProbe(0.3, equal_priors=True)), ("means", MeansProbe())])
@pytest.mark.parametrize(("classes", "d"), [(2, 5), (3, 90)])
def test_discriminants_are_those_of_a_grid(model, probe, classes, d):
    x, y, group = rows(60, d, classes=classes)
    options = {"groups": group, "shuffles": 3, "bootstrap": 20}
    path = {"path": 0.3} if model == "lda" else {}
    built_in = fit_grid({(0, 0): x}, y, model=model, dtype="float64", **path, **options).table
    own = fit_grid({(0, 0): x}, y, model=probe, score="balanced_accuracy", **options).table
    for column in ("score", "low", "high", "chance", "auc"):
        np.testing.assert_allclose(own[column].to_numpy(), built_in[column].to_numpy(), atol=1e-9)


def test_probes_are_searched_and_copied_as_others_are():
    x, y, _ = rows(80, 4, signal=4)
    found = GridSearchCV(LDAProbe(), {"alpha": [0.01, 1.0, 100.0]}, cv=3).fit(x, y)
    assert found.best_score_ > 0.6
    assert clone(found.best_estimator_).get_params() == found.best_estimator_.get_params()
    with pytest.raises(ValueError, match="class_weight names 'lef'"):
        LogisticProbe(class_weight={"lef": 2.0}).fit(x, np.array(["left", "right"])[y])
    with pytest.raises(ValueError, match="alpha must be positive"):
        LDAProbe(0.0).fit(x, y)


# ---- files -----------------------------------------------------------------------------------------------------------


def test_parameters_come_back_as_they_were(tmp_path):
    x, y, _ = rows(60, 4)
    for number, probe in enumerate(
        (
            LogisticProbe(C=np.float32(0.5), class_weight={0: 1.0, 1: 3.0}),
            LogisticProbe(class_weight={"left": 2.0, "right": np.int64(1)}),
            MLPProbe(np.int64(4), max_iter=5),
        )
    ):
        labels = np.array(["left", "right"])[y] if number == 1 else y
        again = type(probe).load(probe.fit(x, labels).save(tmp_path / str(number)))
        assert again.get_params() == probe.get_params()
        np.testing.assert_array_equal(again.fit(x, labels).predict(x), probe.predict(x))
    with pytest.raises(ProbeError, match=r"seed=.* cannot be saved"):
        MLPProbe(4, max_iter=5, seed=np.random.RandomState(0)).fit(x, y).save(tmp_path / "random")
    assert not (tmp_path / "random").exists()


def test_a_probe_of_another_version_is_refused(tmp_path):
    x, y, _ = rows(60, 4)
    config = MeansProbe().fit(x, y).save(tmp_path) / "config.json"
    config.write_text(config.read_text().replace('"format": 1', '"format": 0'))
    with pytest.raises(ProbeError, match="another version"):
        MeansProbe.load(tmp_path)
    for name in ("config.json", "probe.safetensors"):
        (MeansProbe().fit(x, y).save(tmp_path) / name).write_bytes(b"{")
        with pytest.raises(ProbeError, match="is damaged"):
            MeansProbe.load(tmp_path)
