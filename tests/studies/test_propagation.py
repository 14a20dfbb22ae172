"""What a disturbance leaves: early against late, answers, and a peak that follows the change of experts or stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from studies.base.claim import NOT, SHOWS, Claim
from studies.measures.sensitivity import Effects
from studies.propagation import STUDY, boundaries, claims, watched

STEPS, PLACES, CHANGE = 10, (2, 4, 6, 8), {None: 4, 0.7: 6}


def made_up(peaks: dict[float | None, int], answers: set[int]) -> pl.DataFrame:
    """Runs whose x0_hat is changed most by noise at a step, by boundary; and whose answer changes by noise at some."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for boundary, peak in peaks.items():
        for problem in range(16):
            for at in PLACES:
                values = {"x0": float(at == peak) + 0.1 * rng.random(), "answer": float(at in answers)}
                about = {"boundary": boundary, "change": CHANGE[boundary], "kind": "replace", "at": at}
                about |= {"step": STEPS - 1, "problem": problem, "run": problem, "sigma": 0.1}
                rows += [{**about, "state": state, "value": value} for state, value in values.items()]
    return pl.DataFrame(rows, schema_overrides={"boundary": pl.Float64}, infer_schema_length=None)


def stated(raw: pl.DataFrame) -> dict[str, Claim]:
    words = ("final x̂₀ more", "answer more often", "middle", "moves with")
    return {word: claim for claim in claims(raw, ["replace"]) for word in words if word in claim.claim}


def test_a_peak_that_follows_the_experts_is_told_from_one_that_stays() -> None:
    follows = stated(made_up({None: 4, 0.7: 6}, answers={2}))
    assert follows["moves with"].verdict == SHOWS
    assert (follows["moves with"].value, follows["moves with"].n) == (1.0, 16)
    assert "from step 4 to step 6" in follows["moves with"].claim
    stays = stated(made_up({None: 4, 0.7: 4}, answers={2}))
    assert (stays["moves with"].verdict, stays["moves with"].value) == (NOT, 0.0)
    assert "moves with" not in stated(made_up({None: 4}, answers={2}))


def test_answers_that_early_noise_changes_or_late_noise() -> None:
    assert stated(made_up({None: 8}, answers={2}))["answer more often"].verdict == SHOWS
    late = stated(made_up({None: 8}, answers={6, 8}))
    assert late["answer more often"].verdict == NOT
    assert late["final x̂₀ more"].verdict == NOT


def test_effects_are_those_of_the_last_step_by_run_and_place() -> None:
    raw = made_up({None: 4, 0.7: 6}, answers={2})
    earlier = raw.with_columns(step=pl.lit(5, pl.Int64), value=pl.lit(9.0))
    effects = Effects.of(pl.concat([earlier.select(raw.columns).cast(raw.schema), raw]), "replace", boundary=0.7)
    assert (list(effects.places), effects.steps, effects.values.shape) == (list(PLACES), STEPS, (16, 4))
    for run, at in ((3, 4), (15, 8)):
        row = raw.row(by_predicate=(pl.col("boundary") == 0.7) & (pl.col("run") == run) & (pl.col("at") == at)
                      & (pl.col("state") == "x0"), named=True)  # fmt: skip
        assert effects.values[list(effects.problems).index(run), PLACES.index(at)] == row["value"]


def test_two_experts_have_their_change_moved_unless_told_otherwise() -> None:
    given = STUDY.parse(["--out", "x"])
    assert boundaries(given, 0.9) == [0.7]
    assert boundaries(given, None) == []
    assert boundaries(STUDY.parse(["--out", "x", "--boundaries"]), 0.9) == []
    assert boundaries(STUDY.parse(["--out", "x", "--boundaries", "0.5", "0.6"]), 0.9) == [0.5, 0.6]


@pytest.mark.parametrize(("watch", "steps"), [("0", []), ("3", [10, 19])])
def test_answers_are_read_at_chosen_steps_after_the_first_disturbance(watch: str, steps: list[int]) -> None:
    assert watched(STUDY.parse(["--out", "x", "--watch", watch]), 20) == steps
