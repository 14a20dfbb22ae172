"""Answers of clean runs, step by step: what several studies read off them in the same way."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from interp import Sample
from interp.answers import AnswerTrajectories, read_answers
from studies.runs.bench import Bench
from studies.runs.clean import CleanRuns


def candidate_samples(bench: Bench, apart: int) -> list[Sample]:
    """Problems with several answers: of mazes, forks whose two routes differ in ``apart`` cells or more."""
    return bench.samples(fork=True, apart=apart) if bench.given.task == "maze" else bench.samples()


def follow_clean(bench: Bench, clean: CleanRuns, steps: Sequence[int] | None = None) -> AnswerTrajectories:
    """Answers of clean runs at some steps, the last always with them."""
    chosen = range(clean.steps) if steps is None else sorted({*steps, clean.steps - 1})
    return read_answers(bench.task, clean.specs, ((s, clean.sigmas[s], clean.videos(s)) for s in chosen))


def at_step(found: AnswerTrajectories, step: int) -> pl.DataFrame:
    """The rows of one step, in an order that all steps share."""
    return found.steps.filter(step=step).sort("sample", "seed", "run")


def steps_of(found: AnswerTrajectories) -> list[int]:
    """Steps that were read, ascending."""
    return [int(step) for step in found.steps["step"].unique().sort()]


def has_candidates(found: AnswerTrajectories) -> bool:
    """Whether there is more than one answer to choose from."""
    return bool((found.steps["candidates"] > 1).any())


def mixed(rows: pl.DataFrame) -> pl.Series:
    """Whether a picture shows several answers at once, in full or as a superposition."""
    return rows["mode"].is_in(["several", "blend"])
