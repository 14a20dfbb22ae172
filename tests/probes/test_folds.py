"""Groups, folds and shuffles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probes import LeakageError, ProbeError
from probes.folds import check_folds, draw_folds, merge_groups
from probes.shuffles import choose_scheme, shuffle_labels


def naive_components(*keys):
    """Groups by growing them until nothing changes."""
    group = list(range(len(keys[0])))
    changed = True
    while changed:
        changed = False
        for i in range(len(group)):
            for j in range(i):
                if group[i] != group[j] and any(k[i] == k[j] for k in keys):
                    old, new = max(group[i], group[j]), min(group[i], group[j])
                    group = [new if g == old else g for g in group]
                    changed = True
    return group


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=14))
def test_rows_sharing_any_key_share_a_group(pairs):
    a, b = [p[0] for p in pairs], [p[1] for p in pairs]
    got, expected = merge_groups(a, b), naive_components(a, b)
    same = np.equal.outer(got, got)
    np.testing.assert_array_equal(same, np.equal.outer(np.array(expected), np.array(expected)))


def test_groups_are_numbered_by_first_appearance():
    assert merge_groups(["z", "a", "z", "m"]).tolist() == [0, 1, 0, 2]


def test_folds_keep_groups_whole_and_classes_even():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(60), rng.integers(1, 9, size=60))
    labels = (rng.random(60) < 0.2).astype(int)[group]
    folds = draw_folds(group, 5, strata=labels, seed=3)
    assert all(len(np.unique(folds.fold[group == g])) == 1 for g in range(60))
    share = [np.mean(labels[folds.fold == f]) for f in range(5)]
    rows = np.bincount(folds.fold)
    assert max(share) - min(share) < 0.05
    assert rows.max() - rows.min() <= 0.1 * len(group)
    np.testing.assert_array_equal(folds.fold, draw_folds(group, 5, strata=labels, seed=3).fold)
    assert (folds.fold != draw_folds(group, 5, strata=labels, seed=4).fold).any()


def test_fewer_groups_than_folds_is_refused():
    with pytest.raises(ProbeError, match="5 folds were asked of 3 groups"):
        draw_folds(np.array([0, 0, 1, 2]), 5)


def test_folds_that_split_a_group_are_refused():
    group = np.array([0, 0, 1, 1])
    with pytest.raises(LeakageError, match="rows 0 and 1 share a group"):
        check_folds([0, 1, 1, 1], group)
    assert check_folds([7, 7, 9, 9], group).fold.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("fold", "says"),
    [([0, 0, 0, 0], "one fold"), ([0.5, 0.5, 1, 1], "integer"), ([0, 0, 1], "one fold number per row")],
)
def test_folds_that_make_no_sense_are_refused(fold, says):
    with pytest.raises(ProbeError, match=says):
        check_folds(fold, np.array([0, 0, 1, 1]))


def test_labels_constant_in_groups_move_as_a_whole():
    group = np.repeat(np.arange(30), 4)
    labels = (np.arange(30) % 3 == 0).astype(float)[group]
    assert choose_scheme(labels, group) == "between"
    shuffled = shuffle_labels(labels, group, 8, seed=1)
    for j in range(8):
        by_group = shuffled[:, j].reshape(30, 4)
        assert (by_group == by_group[:, :1]).all()
        assert by_group[:, 0].sum() == 10
    assert len({tuple(shuffled[:, j]) for j in range(8)}) == 8


def test_labels_that_vary_in_groups_are_permuted_inside_them():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(20), 10)[rng.permutation(200)]
    labels = rng.random(200).round(1)
    assert choose_scheme(labels, group) == "within"
    shuffled = shuffle_labels(labels, group, 3, seed=1)
    for g in range(20):
        for j in range(3):
            np.testing.assert_array_equal(np.sort(shuffled[group == g, j]), np.sort(labels[group == g]))
    assert (shuffled != labels[:, None]).any(axis=0).all()


def test_mixed_labels_are_exchanged_between_and_permuted_within():
    group = np.repeat(np.arange(30), 2)
    labels = np.array([[0, 1], [1, 1], [0, 0]] * 10, dtype=float).reshape(-1)
    assert choose_scheme(labels, group) == "both"
    shuffled = shuffle_labels(labels, group, 200, seed=0)
    # A group that was constant does not stay what it was.
    assert 0.3 < shuffled[2].mean() < 0.7
    assert (shuffled.sum(axis=0) == labels.sum()).all()


def test_shuffles_that_would_change_nothing_are_refused():
    with pytest.raises(ProbeError, match="nothing would be shuffled"):
        shuffle_labels(np.array([0.0, 0, 1, 1]), np.array([0, 0, 1, 1]), 1, scheme="within")
    with pytest.raises(ProbeError, match="cannot be exchanged"):
        shuffle_labels(np.array([0.0, 1, 0, 1, 1]), np.array([0, 0, 1, 1, 1]), 1, scheme="between")
