"""What happens to answers over steps: candidates pruned, favourites switched, the answer found, lost or corrected."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import polars as pl

from interp.answers.reading import LIVE

EVENTS = {
    "run": "key of the run",
    "sample": "key of the problem",
    "seed": "of the run's noise",
    "step": "the later of the two steps compared",
    "sigma": "its noise level",
    "kind": "prune (a candidate is no longer live), revive, switch (of the favourite), state (of the solver's verdict)",
    "candidate": "number of the candidate that is pruned, revived or switched to; null for state",
    "before": "favourite or state before; null for prune and revive",
    "after": "favourite or state after",
}
RUNS = {
    "run": "key of the run",
    "sample": "key of the problem",
    "seed": "of the run's noise",
    "candidates": "how many candidate answers the problem has",
    "answer": "what the run ends with; null for none",
    "solved": "it is right",
    "committed": "first step from which the solver reads that answer in every step to the end; null without an answer",
    "committed_sigma": "its noise level",
    "leaned": "first step from which the final favourite stays the favourite; null with one candidate or a tie",
    "leaned_sigma": "its noise level",
    "prunes": "candidates dropped",
    "revivals": "candidates that came back",
    "switches": "changes of the favourite",
    "wrong_to_right": "times a wrong answer was followed by a right one, with or without steps of none between",
    "right_to_wrong": "the other way",
    "lost": "times a right answer was there and then none",
}


def event_table(steps: pl.DataFrame) -> pl.DataFrame:
    """Changes between one step and the next that was read.

    Args:
        steps: one row a run and step, as in `interp.answers.AnswerTrajectories`.

    Returns:
        One row an event; columns as in `EVENTS`.
    """
    rows = [
        {"run": run, "sample": part[0]["sample"], "seed": part[0]["seed"], **event}
        for run, part in _runs(steps)
        for event in _events(part)
    ]
    types: dict[str, Any] = dict.fromkeys(EVENTS, pl.String)
    types |= {"seed": pl.Int64, "step": pl.Int64, "candidate": pl.Int64, "sigma": pl.Float64}
    return pl.DataFrame(rows, schema=types)


def _runs(steps: pl.DataFrame) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for (run,), part in steps.sort("step").group_by("run", maintain_order=True):
        yield str(run), part.to_dicts()


def _events(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for a, b in pairwise(rows):
        at = {"step": b["step"], "sigma": b["sigma"], "before": None, "after": None, "candidate": None}
        for k, (was, now) in enumerate(zip(_live(a), _live(b), strict=True)):
            if was != now:
                yield {**at, "kind": "prune" if was else "revive", "candidate": k}
        if b["favourite"] is not None and a["favourite"] not in (None, b["favourite"]):
            names = {"before": str(a["favourite"]), "after": str(b["favourite"])}
            yield {**at, "kind": "switch", "candidate": b["favourite"], **names}
        if a["state"] != b["state"]:
            yield {**at, "kind": "state", "before": a["state"], "after": b["state"]}


def _live(row: dict[str, Any]) -> list[bool]:
    posterior = row["posterior"] or []
    return [p >= LIVE * max(posterior) for p in posterior]


def run_table(steps: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    """One row a run; columns as in `RUNS`.

    Args:
        steps: one row a run and step.
        events: of the same runs, from `event_table`.
    """
    counted = {
        (run, kind): count for run, kind, count in events.group_by("run", "kind").agg(pl.len()).iter_rows()
    }  # fmt: skip
    rows = []
    for run, part in _runs(steps):
        end = part[-1]
        committed = _since(part, lambda row, end=end: row["answer"] == end["answer"]) if end["answer"] else None
        leans = end["candidates"] > 1 and end["favourite"] is not None
        leaned = _since(part, lambda row, end=end: row["favourite"] == end["favourite"]) if leans else None
        verdicts = [row["state"] for row in part if row["state"] != "none"]
        rows.append(
            {
                **{name: end[name] for name in ("run", "sample", "seed", "candidates", "answer")},
                "solved": end["state"] == "right",
                "committed": committed and committed["step"],
                "committed_sigma": committed and committed["sigma"],
                "leaned": leaned and leaned["step"],
                "leaned_sigma": leaned and leaned["sigma"],
                "prunes": counted.get((run, "prune"), 0),
                "revivals": counted.get((run, "revive"), 0),
                "switches": counted.get((run, "switch"), 0),
                "wrong_to_right": list(pairwise(verdicts)).count(("wrong", "right")),
                "right_to_wrong": list(pairwise(verdicts)).count(("right", "wrong")),
                "lost": list(pairwise(row["state"] for row in part)).count(("right", "none")),
            }
        )
    types: dict[str, Any] = dict.fromkeys(RUNS, pl.Int64)
    types |= {"run": pl.String, "sample": pl.String, "answer": pl.String, "solved": pl.Boolean}
    types |= {"committed_sigma": pl.Float64, "leaned_sigma": pl.Float64}
    return pl.DataFrame(rows, schema=types)


def _since(rows: Sequence[dict[str, Any]], holds: Callable[..., bool]) -> dict[str, Any] | None:
    """First row from which it holds in every row to the end."""
    found = None
    for row in reversed(rows):
        if not holds(row):
            break
        found = row
    return found
