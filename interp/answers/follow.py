"""Answers step by step: the clean estimate of every step, read for each candidate answer and by the exact solver."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from interp.answers.events import event_table, run_table
from interp.answers.reading import MODES, Endings, name_of
from interp.decode import frames_of
from interp.errors import InterpError, suggest
from interp.intervals import mean_by
from interp.lab import Lab
from interp.lenses.head import Positions, estimates, positions
from interp.lenses.table import Specs, batches, specs_of
from interp.result import RunResult
from interp.runspec import RunSpec

COLUMNS = {
    "run": "key of the run",
    "sample": "key of the problem",
    "seed": "of the run's noise",
    "step": "denoising step, from 0",
    "sigma": "noise level of the step",
    "candidates": "how many candidate answers the problem has",
    "posterior": "of each candidate, a list that sums to 1; see `interp.answers.Reading`",
    "drawn": "how fully each candidate is drawn, a list of 0..1",
    "entropy": "of the posterior, in bits",
    "live": "candidates at least 0.2 times as likely as the likeliest",
    "favourite": "number of the likeliest candidate; null for a tie",
    "right_p": "posterior of the right candidates together; null where all are right",
    "drawn_best": "how fully the most fully drawn candidate is drawn",
    "drawn_second": "the same of the second; null where there is one candidate",
    "solid": "candidates drawn by 0.75 or more",
    "blur": "0: every place shows what some candidate shows; 1: all are half-way between two",
    "mode": "one, several (drawn in full), blend (a superposition), empty, unclear",
    "state": "what the exact solver says: right, wrong (a valid answer that is not right), none",
    "answer": "the answer that the solver reads; null for none",
    "final": "the answer is that of the run's last step; null where that has none",
}
_SCHEMA: dict[str, Any] = {
    **dict.fromkeys(("run", "sample", "mode", "state", "answer"), pl.String),
    **dict.fromkeys(("seed", "step", "candidates", "live", "favourite", "solid"), pl.Int64),
    **dict.fromkeys(("sigma", "entropy", "right_p", "drawn_best", "drawn_second", "blur"), pl.Float64),
    "posterior": pl.List(pl.Float64),
    "drawn": pl.List(pl.Float64),
    "final": pl.Boolean,
}


@dataclass(frozen=True)
class AnswerTrajectories:
    """Answers of runs over their steps.

    Attributes:
        steps: one row a run and step; columns as in `interp.answers.COLUMNS`.
    """

    steps: pl.DataFrame

    @cached_property
    def events(self) -> pl.DataFrame:
        """What changed, one row each; see `interp.answers.event_table`."""
        return event_table(self.steps)

    @cached_property
    def runs(self) -> pl.DataFrame:
        """One row a run: when it committed, what changed how often; see `interp.answers.run_table`."""
        return run_table(self.steps, self.events)

    def by_step(self, column: str, **options: Any) -> pl.DataFrame:
        """Mean of a column by step with a bootstrap interval over problems; see `interp.intervals.mean_by`.

        Args:
            column: of ``steps``; "right", "wrong" and "none" stand for the shares of the solver's three states, and a
                mode's name for its share.
            options: ``groups``, ``ends``, ``draws``, ``seed``.
        """
        table = self.steps
        if column not in table.columns:
            of = "state" if column in ("right", "wrong", "none") else "mode"
            known = ("right", "wrong", "none", *MODES)
            if column not in known:
                near = suggest(column, [*table.columns, *known])
                raise InterpError(f"by_step({column!r}): there is no such column, state or mode{near}")
            table = table.with_columns((pl.col(of) == column).alias(column))
            options = {"ends": (0.0, 1.0), **options}
        return mean_by(table, column, by=("step",), **options)

    def agreement(self, **options: Any) -> pl.DataFrame:
        """Do seeds of one problem agree? Shares of pairs of runs, by step, with intervals over problems.

        Returns:
            One row a step and measure: step, measure, mean, low, high, n (pairs), groups (problems), sigma. Measures:
            ``favourite`` (the same likeliest candidate; pairs where both have one), ``answer`` (the solver reads the
            same answer; pairs where it reads one in both), ``overlap`` (of the posteriors, the sum of the smaller of
            the two), ``chance`` (of agreeing if candidates were equally likely).

        Raises:
            InterpError: no problem has two runs.
        """
        rows = list(_pairs(self.steps))
        if not rows:
            raise InterpError("agreement needs two seeds or more of some problem; plan runs with seeds=2")
        pairs = pl.DataFrame(rows, infer_schema_length=None)
        found = []
        options = {"ends": (0.0, 1.0), **options}
        for measure in ("favourite", "answer", "overlap", "chance"):
            known = {"ends": None} if measure == "chance" else {}
            means = mean_by(pairs, measure, by=("step",), **{**options, **known})
            found.append(means.with_columns(measure=pl.lit(measure)))
        return pl.concat(found, how="diagonal").sort("step", "measure", maintain_order=True)


def follow(
    lab: Lab,
    runs: Specs,
    task: Any,
    *,
    steps: Positions | None = None,
    branch: str = "guided",
    batch_size: int = 16,
) -> AnswerTrajectories:
    """Run the model and read the clean estimate of every step.

    Args:
        lab: the model.
        runs: specs of any mixture of sizes and settings.
        task: an `interp.tasks.Task` that the samples are of.
        steps: steps to decode: one, a slice or a list, the last one always with them; all if None.
        branch: "guided", "cond" or "uncond".
        batch_size: runs in one forward.

    Raises:
        InterpError: no runs, or one of them twice.
    """
    specs = specs_of(runs)
    reader = _Reader(task)
    rows: list[dict[str, Any]] = []
    for batch in batches(specs, batch_size):
        count = batch[0].settings.steps
        chosen = None if steps is None else [*positions(steps, count), count - 1]
        for estimate in estimates(lab, batch, steps=chosen, branches=(branch,)):
            videos = frames_of(lab.pipe, estimate.x0_hat, blocks=True)
            for run, video in zip(batch, videos, strict=True):
                rows.append(reader.row(run, estimate.step, estimate.sigma, video))
    return _finished(rows)


def read_answers(
    task: Any, runs: Sequence[RunSpec], videos: Iterable[tuple[int, float, Iterable[np.ndarray]]]
) -> AnswerTrajectories:
    """Read videos that are there already: of a store, of runs with edits, of anything.

    Args:
        task: an `interp.tasks.Task` that the samples are of.
        runs: [run].
        videos: for each step its number, its sigma, and the decoded clean estimate of every run in order: pixels or
            block colours [frame, row, col, rgb]; the last frame is enough for tasks that are scored on it.

    Example:
        ``read_answers(task, specs, ((s, sigmas[s], clean.videos(s)) for s in range(20)))``
    """
    reader = _Reader(task)
    specs, rows = specs_of(runs), []
    for step, sigma, of_step in videos:
        shown = list(of_step)
        if len(shown) != len(specs):
            raise InterpError(f"step {step} has {len(shown)} videos for {len(specs)} runs; give one a run, in order")
        rows += [reader.row(run, step, sigma, video) for run, video in zip(specs, shown, strict=True)]
    return _finished(rows)


def read_runs(lab: Lab, results: Sequence[RunResult], task: Any) -> AnswerTrajectories:
    """Read finished runs, with edits or without; every step of their trajectories.

    Args:
        lab: the model.
        results: of ``lab.run``. Runs with different edits of one spec need a table each.
        task: an `interp.tasks.Task` that the samples are of.

    Raises:
        InterpError: no results, or two of one spec.
    """
    if len({result.spec.key for result in results}) < len(results):
        raise InterpError("two results are of one spec, so their rows could not be told apart; read them one by one")
    reader = _Reader(task)
    rows: list[dict[str, Any]] = []
    for result in results:
        first = getattr(result, "first", 0)  # edited runs may start part-way
        videos = frames_of(lab.pipe, result.trajectory.x0_hat, blocks=True)
        sigmas = result.trajectory.schedule.sigmas
        rows += [reader.row(result.spec, first + k, sigmas[first + k], video) for k, video in enumerate(videos)]
    return _finished(rows)


class _Reader:
    """Reads pictures of many problems; endings of a problem are made once."""

    def __init__(self, task: Any) -> None:
        if not hasattr(task, "score"):
            raise InterpError(f"{task!r} is no task; get one by name: interp.tasks.get('maze', size=4)")
        self.task = task
        self.endings: dict[Any, Endings] = {}

    def row(self, run: RunSpec, step: int, sigma: float, video: np.ndarray) -> dict[str, Any]:
        sample = run.sample
        score = self.task.score(sample, video)
        state = "right" if score.solved else "wrong" if score.valid else "none"
        about = {"run": run.key, "sample": sample.key, "seed": run.seed, "step": step, "sigma": sigma}
        return {**about, **self._soft(sample, video[-1]), "state": state, "answer": self._answer(sample, score)}

    def _answer(self, sample: Any, score: Any) -> str | None:
        """What the solver reads, by name."""
        if not score.valid:
            return None
        if hasattr(score, "path"):
            return name_of(score.path)
        number = getattr(score, "answer", None)
        if number is None:
            return "right" if score.solved else "wrong"
        return name_of(self.task.candidates(sample)[number])

    def _soft(self, sample: Any, picture: np.ndarray) -> dict[str, Any]:
        if not hasattr(self.task, "candidates"):
            return {"candidates": 0}
        key = (sample.key, sample.prompt, picture.shape)
        if key not in self.endings:
            self.endings[key] = Endings.of(self.task, sample, picture.shape)
        endings = self.endings[key]
        reading = endings.read(picture)
        drawn = np.sort(reading.drawn[np.isfinite(reading.drawn)])[::-1]
        return {
            "candidates": len(endings.names),
            "posterior": reading.posterior.tolist(),
            "drawn": [None if np.isnan(v) else float(v) for v in reading.drawn],
            "entropy": reading.entropy,
            "live": int(reading.live.sum()),
            "favourite": reading.favourite,
            "right_p": None if endings.right.all() else float(reading.posterior[endings.right].sum()),
            "drawn_best": float(drawn[0]) if len(drawn) else None,
            "drawn_second": float(drawn[1]) if len(drawn) > 1 else None,
            "solid": reading.solid,
            "blur": reading.blur,
            "mode": reading.mode,
        }


def _finished(rows: Sequence[dict[str, Any]]) -> AnswerTrajectories:
    """The table, with what only the last step can tell."""
    if not rows:
        raise InterpError("there were no videos to read")
    last: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["run"] not in last or row["step"] > last[row["run"]]["step"]:
            last[row["run"]] = row
    full = []
    for row in rows:
        end = last[row["run"]]["answer"]
        full.append({**dict.fromkeys(COLUMNS), **row, "final": None if end is None else row["answer"] == end})
    table = pl.DataFrame(full, schema={name: _SCHEMA[name] for name in COLUMNS})
    return AnswerTrajectories(table.sort("sample", "seed", "run", "step"))


def _pairs(steps: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """Pairs of runs of one problem at one step."""
    for (sample, step), part in steps.group_by("sample", "step", maintain_order=True):
        rows = part.to_dicts()
        for i, a in enumerate(rows):
            for b in rows[:i]:
                many = a["candidates"] > 1
                yield {
                    "sample": sample, "step": step, "sigma": a["sigma"],
                    "favourite": _same(a["favourite"], b["favourite"]) if many else None,
                    "answer": _same(a["answer"], b["answer"]),
                    "overlap": float(np.minimum(a["posterior"], b["posterior"]).sum()) if many else None,
                    "chance": 1 / a["candidates"] if many else None,
                }  # fmt: skip


def _same(a: Any, b: Any) -> bool | None:
    return None if a is None or b is None else bool(a == b)
