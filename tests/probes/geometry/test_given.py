"""What geometry may be given: tensors of any format, read-only arrays, blocks, labels that are not known."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from probes import AttentionProbe, LogisticProbe, ProbeError, fit_grid
from probes.geometry import (
    Direction,
    Leace,
    blocks_of,
    cka,
    cka_minibatch,
    energy,
    leace,
    mean_difference,
    participation_ratio,
    pca,
    pca_paths,
    procrustes,
    rows_of,
    rsa,
    two_nn,
)
from tests.probes.geometry.test_geometry import correlated

X = correlated(60, 5).astype(np.float32).round(1)
Y = np.arange(60) % 2
OTHER = correlated(60, 4, seed=1)


def frozen(x: np.ndarray) -> np.ndarray:
    out = x.copy()
    out.flags.writeable = False
    return out


FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "float16": lambda x: torch.from_numpy(x).half(),
    "bfloat16": lambda x: torch.from_numpy(x).bfloat16(),
    "with gradients": lambda x: torch.from_numpy(x).requires_grad_(),
    "read-only": frozen,
    "not contiguous": lambda x: np.stack([x, x], axis=-1)[..., 1],
    "big-endian": lambda x: x.astype(">f4"),
}
MEASURES: dict[str, Callable[[Any], Any]] = {
    "pca": lambda x: pca(x, 2).project(x),
    "paths": lambda x: pca_paths({0: x, 1: x}, 2).table.select("pc0", "pc1").to_numpy(),
    "cka": lambda x: cka(x, OTHER),
    "rsa": lambda x: rsa(x, OTHER),
    "procrustes": lambda x: procrustes(x, OTHER),
    "dimension": lambda x: (participation_ratio(x), two_nn(x).value),
    "leace": lambda x: leace(x, Y)(x),
    "direction": lambda x: mean_difference(x, Y).vector,
    "energy": lambda x: energy(x.reshape(10, 6, 5)).l2,
    "grid": lambda x: (
        fit_grid({(0, 0): x}, Y, groups=Y + 2 * (np.arange(60) // 6), shuffles=0, bootstrap=5).table["score"].to_numpy()
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("measure", MEASURES)
def test_the_format_of_features_does_not_matter(form: str, measure: str) -> None:
    given = FORMS[form](X)
    plain = given.detach().double().numpy() if isinstance(given, torch.Tensor) else X
    np.testing.assert_allclose(MEASURES[measure](given), MEASURES[measure](plain), rtol=1e-4, atol=1e-5)


def test_probes_of_tokens_and_tables() -> None:
    tokens = torch.randn(20, 3, 4).bfloat16()
    plain = tokens.double().numpy()
    first, second = (AttentionProbe(max_iter=5).fit(x, np.arange(20) % 2).predict(x) for x in (tokens, plain))
    np.testing.assert_array_equal(first, second)
    table = pl.DataFrame(X, schema=list("abcde"))
    probe = LogisticProbe().fit(table, Y)
    np.testing.assert_array_equal(probe.predict(table), LogisticProbe().fit(X, Y).predict(X))
    np.testing.assert_allclose(pca(table).variance, pca(X).variance)


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda: pca(np.full((4, 2), "a")), "must be numbers; got ndarray of <U1"),
        (lambda: cka(object(), X), "must be numbers; got object"),
        (lambda: cka_minibatch([(X[:9], X[:8])]), "same rows on both sides; got 9 and 8"),
        (lambda: mean_difference(X[None], Y), "1 rows were given"),
        (lambda: mean_difference(np.where(X[3] == X, np.nan, X), Y), "NaN or infinity"),
        (lambda: Direction.of_probe(np.ones(3), X, Y), "5 finite numbers"),
        (lambda: Direction.of_probe(np.zeros(5), X, Y), "not all 0"),
        (lambda: energy(np.ones((2, 3, 4))).map("l3"), "kind='l3' is not known"),
        (lambda: pca_paths({0: iter([X]), 1: iter([X])}), "Step 0 is given by a generator"),
        (lambda: Leace().update(X, np.array(["a", "b"])[Y]), "Name its classes"),
        (lambda: Leace(["a", "b"]).update(X, np.array(["a", "c"])[Y]), r"Classes are \['a', 'b'\].*'c'"),
        (lambda: Leace().update(X, Y[:3]), r"for 60 rows; got shape \(3,\)"),
        (lambda: leace(X, np.full(60, np.nan)), "not known of any row"),
    ],
)
def test_what_cannot_be_taken_is_said(ask: Callable[[], Any], says: str) -> None:
    with pytest.raises(ProbeError, match=says):
        ask()


def test_classes_are_erased_whatever_they_are_called() -> None:
    rng = np.random.default_rng(0)
    z = rng.integers(0, 3, size=300)
    x = correlated(300, 6) + 3 * rng.normal(size=(3, 6))[[0, 2, 1]][z]
    expected = leace(x, z)
    assert expected.rank == 2
    streamed = Leace(classes=["a", "b", "c"])
    for part in np.array_split(np.arange(300), 4):
        streamed.update(x[part], np.array(["a", "b", "c"])[z[part]])
    for same in (leace(x, z.astype(float)), leace(x, np.array(["a", "b", "c"])[z]), streamed.eraser()):
        np.testing.assert_allclose(same(x), expected(x), atol=1e-8)
    assert leace(x, z + 0.5).rank == 1  # values


def test_rows_whose_label_is_not_known_do_not_count() -> None:
    rng = np.random.default_rng(0)
    z = rng.integers(0, 2, size=80)
    x = correlated(80, 4) + 2 * z[:, None]
    gone = rng.random(80) < 0.3
    for labels in (np.where(gone, np.nan, z), np.where(gone, None, np.array(["no", "yes"])[z])):
        np.testing.assert_allclose(leace(x, labels)(x), leace(x[~gone], z[~gone])(x), atol=1e-8)
        direction = mean_difference(x, labels)
        np.testing.assert_allclose(direction.vector, mean_difference(x[~gone], z[~gone]).vector)
    values = np.stack([np.where(gone, np.nan, z), rng.normal(size=80)], axis=1)
    np.testing.assert_allclose(leace(x, values)(x), leace(x[~gone], values[~gone])(x), atol=1e-8)


def test_blocks_of_a_store_are_for_energy_and_for_sums() -> None:
    values = correlated(60, 5).reshape(10, 6, 5)
    store = SimpleNamespace(runs=tuple(range(10)), read=lambda site, step, branch, runs: values[runs])
    streamed = energy(blocks_of(store, "x", 0, runs_at_once=3))
    np.testing.assert_allclose(streamed.l2, energy(values).l2, rtol=1e-6)
    assert streamed.runs == 10
    rows = participation_ratio(rows_of(store, "x", 0, runs_at_once=4))
    assert rows == pytest.approx(participation_ratio(values.reshape(60, 5)), rel=1e-5)
