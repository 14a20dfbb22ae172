"""The probes as scikit-learn estimators."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.utils.estimator_checks import estimator_checks_generator

from probes import LogisticProbe, ProbeError, RidgeProbe
from tests.probes.data import coefficients, reference, ridge_reference, rows

# scikit-learn compares weighted with repeated rows to 1e-7.
ESTIMATORS = (LogisticProbe(tol=1e-9), RidgeProbe())


def checks():
    for estimator in ESTIMATORS:
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
