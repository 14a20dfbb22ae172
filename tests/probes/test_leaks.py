"""Leakage traps: each is set as an unwary user would set it, and is refused or shown to gain nothing.

Features tell which sample a row is of (``told``) and nothing of the answer. Splitting by row would read the answer off
perfectly.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from probes import (
    LeakageError,
    ProbeError,
    RidgeProbe,
    code_grid,
    fit_grid,
    fit_transfer,
    online_code,
    transfer_between,
)
from probes.cell import fit_cell
from probes.folds import draw_folds
from probes.plan import make_plan
from probes.shuffles import shuffle_labels

SAMPLES, TOKENS, WIDTH = 40, 6, 30


@pytest.fixture
def told():
    """Features [sample, token, feature] that only tell samples apart, labels [sample] of chance, a key per sample."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(SAMPLES, 1, WIDTH)) + 0.05 * rng.normal(size=(SAMPLES, TOKENS, WIDTH))
    y = np.arange(SAMPLES) % 2
    return x.astype(np.float32), rng.permutation(y).astype(float), np.arange(SAMPLES)


def score(x, y, groups, **options):
    return fit_grid({(0, 0): x}, y, groups=groups, shuffles=0, bootstrap=20, path=1.0, **options).table["score"][0]


def per_token(y):
    return np.repeat(y[:, None], TOKENS, axis=1)


def test_1_rows_of_one_sample_on_both_sides(told):
    x, y, sample = told
    flat, labels = x.reshape(-1, WIDTH), per_token(y).reshape(-1)
    assert score(flat, labels, np.arange(len(flat))) > 0.8  # the trap, if every row is its own group
    assert score(flat, labels, np.repeat(sample, TOKENS)) < 0.7


def test_2_tokens_of_one_sample_in_two_folds(told):
    x, y, _ = told
    with pytest.raises(LeakageError, match="tokens of run 0"):
        fit_grid({(0, 0): x}, per_token(y), groups=np.arange(x[..., 0].size).reshape(SAMPLES, TOKENS))


def test_3_folds_that_put_one_maze_on_both_sides(told):
    x, y, sample = told
    with pytest.raises(LeakageError, match="more than one fold"):
        fit_grid({(0, 0): x.mean(axis=1)}, y, groups=sample // 2, folds=np.arange(SAMPLES) % 5)


def test_4_seeds_of_one_sample_split(told):
    # Every token stands for another seed of the same maze, as runs of their own.
    x, y, sample = told
    runs, labels, maze = x.reshape(-1, WIDTH), per_token(y).reshape(-1), np.repeat(sample, TOKENS)
    seed = np.tile(np.arange(TOKENS), SAMPLES)
    assert score(runs, labels, maze) < 0.7
    assert score(runs, labels, (maze, maze * 100 + seed)) < 0.7  # a finer key splits nothing


def test_5_mirrored_copies_share_the_key_of_what_they_are_made_from(told):
    x, y, sample = told
    x = x.mean(axis=1)
    mirrored = x[:, ::-1] * np.sign(np.arange(WIDTH) - WIDTH / 2 + 0.5).astype(np.float32)
    both, labels = np.concatenate([x, x + 0.01 * mirrored]), np.concatenate([y, y])
    own = np.arange(2 * SAMPLES)
    assert score(both, labels, own) > 0.85  # the trap
    assert score(both, labels, (own, np.concatenate([sample, sample]))) < 0.75


def test_6_standardisation_sees_training_rows_only():
    rng = np.random.default_rng(0)
    x, y, group = rng.normal(size=(100, 5)), rng.integers(0, 2, size=100), np.arange(100) % 10
    fold = group % 5
    plan = make_plan(y, group, folds=fold, path=0.1, shuffles=0, dtype=torch.float64, tol=1e-8)
    before = fit_cell(torch.from_numpy(x), plan).decision
    wild = x.copy()
    wild[np.flatnonzero(fold == 2)[0]] *= 1e4
    after = fit_cell(torch.from_numpy(wild), plan).decision
    still = (fold == 2) & (np.arange(100) != np.flatnonzero(fold == 2)[0])
    np.testing.assert_allclose(after[still], before[still], atol=1e-4)


@pytest.mark.parametrize("width", [8, 300])
def test_7_regularisation_is_not_chosen_on_the_tested_fold(width):
    rng = np.random.default_rng(1)
    x, y, group = rng.normal(size=(90, width)), rng.integers(0, 2, size=90), np.arange(90) % 18
    fold = group % 3

    def decided(labels):
        plan = make_plan(labels, group, folds=fold, path=(0.001, 0.1, 1.0), shuffles=0, dtype=torch.float64, tol=1e-8)
        fit = fit_cell(torch.from_numpy(x), plan)
        return fit.chosen[0], fit.decision[fold == 0]

    flipped = np.where(fold == 0, 1 - y, y)
    (a, decision), (b, other) = decided(y), decided(flipped)
    assert a == b
    np.testing.assert_allclose(decision, other, atol=1e-5)


def test_8_features_chosen_on_all_rows(told):
    # The best 5 of 3000 noise features, chosen with the labels of all rows, look good. A grid takes features of every
    # row as they are and chooses none, so regularised probes on all 3000 show chance.
    rng = np.random.default_rng(0)
    noise, y, sample = rng.normal(size=(SAMPLES, 3000)), told[1], told[2]
    best = np.argsort(-np.abs(np.corrcoef(noise.T, y)[-1, :-1]))[:5]
    assert score(noise[:, best], y, sample) > 0.8  # the trap
    assert score(noise, y, sample) < 0.7


def test_9_the_target_among_the_features(told):
    x, y, sample = told
    x = x.mean(axis=1)
    for feature in (y, 3 - 2 * y):
        with pytest.raises(LeakageError, match="step 4, layer 2: Feature 30 of 31 is the target itself"):
            fit_grid({(4, 2): np.column_stack([x, feature])}, y, groups=sample)
    values = y + np.linspace(0, 1, SAMPLES)
    with pytest.raises(LeakageError, match="Feature 30"):
        fit_grid({(0, 0): np.column_stack([x, 7 - 2 * values])}, values, groups=sample, model="ridge")
    assert score(np.column_stack([x, y + 0.3 * x[:, 0]]), y, sample) > 0.5  # a good feature is no leak


def test_10_the_target_as_a_baseline_can_only_weaken_a_claim(told):
    # What was given may show the answer outright. The baseline then says so; scores and chance stay what they were.
    x, y, sample = told
    options = {"groups": sample, "shuffles": 5, "bootstrap": 20}
    bare = fit_grid({(0, 0): x.mean(axis=1)}, y, **options).table
    beside = fit_grid({(0, 0): x.mean(axis=1)}, y, baselines={"frame": y[:, None]}, **options).table
    assert beside["baseline_frame"][0] == 1
    assert beside.drop("baseline_frame").equals(bare)


def test_11_one_run_under_two_names(told):
    x, y, sample = told
    twice = np.concatenate([x, x[:3]])
    labels, key = np.concatenate([y, y[:3]]), np.arange(SAMPLES + 3)
    for target, pool in ((labels, "mean"), (per_token(labels), None)):
        with pytest.raises(LeakageError, match="Runs 0 and 40 have the same features"):
            fit_grid({(0, 0): twice, (1, 0): twice + 1}, target, groups=key, pool=pool)
    joined = np.concatenate([sample, sample[:3]])
    assert score(twice, labels, joined, pool="mean") < 0.7
    constant = {(0, 0): np.ones_like(x), (1, 0): twice[:SAMPLES]}  # tells nothing of runs, so nothing is wrong
    fit_grid(constant, y, groups=sample, pool="mean", shuffles=0, bootstrap=5)


def test_12_groups_that_are_missing(told):
    x, y, sample = told
    with pytest.raises(ProbeError, match="NaN"):
        fit_grid({(0, 0): x.mean(axis=1)}, y, groups=np.where(sample == 3, np.nan, sample))
    keys = [None if k == 3 else f"maze {k}" for k in sample]
    with pytest.raises(ProbeError, match="None"):
        fit_grid({(0, 0): x.mean(axis=1)}, y, groups=np.array(keys, dtype=object))
    with pytest.raises(ProbeError, match="names a label of a store"):
        fit_grid({(0, 0): x.mean(axis=1)}, y)
    with pytest.raises(ProbeError, match="one key per row"):
        fit_grid({(0, 0): x.mean(axis=1)}, y, groups=())


def test_13_shuffles_across_groups_would_hide_what_groups_share():
    # Groups differ in how often the label is 1; features tell groups apart and no more. Chance must say so.
    rng = np.random.default_rng(0)
    rate = np.tile([0.2, 0.8], 20)
    y = (rng.random((40, 12)) < rate[:, None]).astype(float)
    x = ((rate[:, None] > 0.5) + 0.1 * rng.normal(size=(40, 12)))[..., None]
    row = fit_grid({(0, 0): x}, y, groups=np.arange(40), bootstrap=50).table.row(0, named=True)
    assert row["score"] > 0.7
    assert row["chance"] == pytest.approx(row["score"], abs=0.03)
    group = np.repeat(np.arange(40), 12)
    shuffled = shuffle_labels(y.reshape(-1), group, 20)
    assert all(np.bincount(group, shuffled[:, j]).tolist() == y.sum(axis=1).tolist() for j in range(20))


def test_14_intervals_do_not_take_rows_for_samples(told):
    x, y, sample = told
    flat, labels = x.reshape(-1, WIDTH), per_token(y).reshape(-1)
    honest = fit_grid({(0, 0): flat}, labels, groups=np.repeat(sample, TOKENS), shuffles=0, path=0.03).table
    fold = draw_folds(np.repeat(sample, TOKENS), 5, strata=labels.astype(int)).fold
    assert (fold.reshape(SAMPLES, TOKENS) == fold.reshape(SAMPLES, TOKENS)[:, :1]).all()
    width = honest["high"][0] - honest["low"][0]
    assert width > 1.5 * 2 * 1.96 * np.sqrt(0.25 / len(flat))  # wider than if 240 rows were 240 samples


def test_15_transfer_tests_no_row_on_a_probe_that_saw_its_sample(told):
    # Two steps with the same features: a probe carried over from step 0 has seen the sample unless folds are kept.
    x, y, sample = told
    cells = {(0, 0): x.reshape(-1, WIDTH), (1, 0): x.reshape(-1, WIDTH) + 0.01}
    labels, groups = per_token(y).reshape(-1), np.repeat(sample, TOKENS)
    table = fit_transfer(cells, labels, groups=groups, path=0.03, resamples=10).table
    assert (table["score"] < 0.7).all()


def test_16_a_code_is_sent_group_by_group(told):
    x, y, sample = told
    flat, labels = x.reshape(-1, WIDTH), per_token(y).reshape(-1).astype(int)
    assert online_code(flat, labels, groups=np.arange(len(flat))).compression > 1.3  # the trap
    assert online_code(flat, labels, groups=np.repeat(sample, TOKENS)).compression < 1.05


def test_17_values_are_centred_by_training_rows_only():
    # Ridge must predict a fold's own mean no better than its training rows know it.
    rng = np.random.default_rng(0)
    x, group = rng.normal(size=(60, 3)), np.arange(60) % 6
    values = rng.normal(size=60) + 100 * (group == 0)
    plan = make_plan(values, group, model="ridge", folds=group % 6, path=1.0, shuffles=0, dtype=torch.float64)
    decision = fit_cell(torch.from_numpy(x), plan).decision[:, 0]
    own = RidgeProbe(1.0).fit(x[group != 0], values[group != 0]).predict(x[group == 0])
    np.testing.assert_allclose(decision[group == 0], own, atol=1e-5)


def test_18_what_groups_share_is_not_learnt():
    # Features say which group a row is of, and nothing else; labels are constant in groups. Row-wise folds would give
    # 100 %.
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(40), 10)
    x = rng.normal(size=(40, 30))[group] + 0.01 * rng.normal(size=(400, 30))
    y = rng.integers(0, 2, size=40)[group]
    grid = fit_grid({(0, 0): x}, y, groups=group, bootstrap=300)
    row = grid.table.row(0, named=True)
    assert row["score"] < 0.7
    assert row["low"] < row["chance_high"]  # forty groups, not four hundred rows: the interval is wide
    assert row["high"] - row["low"] > 0.2


def test_19_group_shares_of_a_label_are_not_a_finding():
    # Groups differ in how often the label is 1 and features tell groups apart, but within a group there is nothing to
    # find.
    rng = np.random.default_rng(0)
    rate = np.tile([0.2, 0.8], 20)
    y = (rng.random((40, 12)) < rate[:, None]).astype(float)
    x = np.broadcast_to((rate[:, None] > 0.5), (40, 12))[..., None] + 0.1 * rng.normal(size=(40, 12, 1))
    row = fit_grid({(0, 0): x.astype(np.float32)}, y, groups=np.arange(40), bootstrap=200).table.row(0, named=True)
    assert row["score"] > 0.7
    assert row["chance"] == pytest.approx(row["score"], abs=0.03)
    assert row["p"] > 0.01


@pytest.mark.parametrize("leak", ["twins", "target"])
def test_20_neither_transfer_nor_codes_take_twins_or_the_target(told, leak):
    # One run under two names, of two seeds: a probe of the first seed would be tested on what it was fitted to.
    x, y, sample = told
    x = x.mean(axis=1)
    kind, keys, labels = np.arange(SAMPLES) % 2, sample, y
    if leak == "twins":
        x, labels = np.concatenate([x, x[:3]]), np.concatenate([y, y[:3]])
        keys, kind = np.arange(SAMPLES + 3), np.append(kind, 1 - kind[:3])
        says = r"step 2, layer 1: Runs (\d+) and 4\d have the same features"
    else:
        x, says = np.column_stack([x, y]), "step 2, layer 1: Feature 30 of 31 is the target itself"
    for fit in (partial(transfer_between, between=kind), code_grid, fit_transfer):
        with pytest.raises(LeakageError, match=says):
            fit({(2, 1): x}, labels, groups=keys)
