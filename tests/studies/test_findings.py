"""Sentences and verdicts follow the numbers, whichever way they point."""

from __future__ import annotations

import polars as pl
import pytest

from studies.base.claim import NOT, OPEN, SHOWS
from studies.measures.findings import claims, near_step, sentences, targets_summary
from tests.studies.tables import LAYERS, SIGMAS, made_up_fits, made_up_occupancy, score_of


def test_the_summary_holds_the_cells_it_names() -> None:
    fits = made_up_fits()
    of = targets_summary(fits)["taken_route"]
    near = SIGMAS.index(0.9)
    assert near_step(fits.table) == near
    assert of["last_layer"]["near_sigma_0.9"]["score"] == score_of(LAYERS - 1, near)
    assert of["last_layer"]["first_step"]["score"] == score_of(LAYERS - 1, 0)
    assert of["first_layer_near_sigma_0.9"]["score"] == score_of(0, near)
    assert of["baselines_near_sigma_0.9"]["x_t"]["score"] == 0.55
    assert of["accuracy"] == fits.table.filter(labels="run", source="hook")["score"].max()
    assert of["reached"] == {"0": None, "1": None, "2": 5}  # the interval has to lie above 0.9
    assert of["shuffled"]["above_chance"] == 0
    assert of["shuffled"]["cells"] == LAYERS * len(SIGMAS)
    assert (of["rows"], of["runs"], of["mazes"]) == (400, 78, 40)


def test_claims_hold_when_the_numbers_say_so() -> None:
    found = claims(targets_summary(made_up_fits()), made_up_occupancy())
    assert [claim.verdict for claim in found] == [SHOWS] * 4


def test_claims_do_not_hold_at_chance_or_with_wide_intervals() -> None:
    flat = claims(targets_summary(made_up_fits(rising=False)), made_up_occupancy(pruned=False))
    assert [claim.verdict == SHOWS for claim in flat] == [False, False, True, False]
    assert flat[3].verdict == NOT
    wide = claims(targets_summary(made_up_fits(margin=0.4)), pl.DataFrame())
    assert [claim.verdict for claim in wide][:2] == [OPEN, OPEN]


def test_a_control_above_chance_is_told() -> None:
    fits = made_up_fits()
    shifted = fits.table.with_columns(
        pl.when(pl.col("labels") == "shuffled").then(pl.col("low") + 0.3).otherwise(pl.col("low")).alias("low")
    )
    summary = targets_summary(type(fits)(shifted, fits.onsets, fits.counts))
    assert summary["taken_route"]["shuffled"]["above_chance"] == LAYERS * len(SIGMAS)
    assert claims(summary, pl.DataFrame())[2].verdict == NOT


@pytest.mark.parametrize("target", ["taken_route", "on_path"])
def test_the_two_sentences_are_made_from_the_numbers(target: str) -> None:
    text = sentences(targets_summary(made_up_fits(target)))
    near = SIGMAS.index(0.9)
    for number in (score_of(LAYERS - 1, 0), score_of(LAYERS - 1, near), score_of(0, near), score_of(LAYERS - 1, 5)):
        assert f"{number:.2f} (" in text
    assert "from step 1 on" in text
    assert "78 runs of 40" in text
    assert "0 of 18 cells" in text
    assert ("fork" in text) == (target == "taken_route")
    assert text.count(". ") == 1  # two sentences
    assert text.endswith(".")


def test_nothing_found_is_said() -> None:
    text = sentences(targets_summary(made_up_fits(rising=False)))
    assert "cannot be read off" in text
