"""Answer trajectories: which candidate answers the clean estimate shows, step by step, and what becomes of them.

``follow(lab, runs, task)`` runs the model; ``read_runs`` reads finished runs, with edits or without, ``read_answers``
videos from anywhere. The result
holds polars tables: ``steps`` (posterior over candidates, entropy, live candidates, the solver's verdict), ``events``
(prunes, switches, corrections) and ``runs`` (when each run committed), with bootstrap intervals grouped by problem.
"""

from __future__ import annotations

from interp.answers.events import EVENTS, RUNS, event_table, run_table
from interp.answers.follow import COLUMNS, AnswerTrajectories, follow, read_answers, read_runs
from interp.answers.reading import MODES, Endings, Reading

__all__ = [
    "COLUMNS",
    "EVENTS",
    "MODES",
    "RUNS",
    "AnswerTrajectories",
    "Endings",
    "Reading",
    "event_table",
    "follow",
    "read_answers",
    "read_runs",
    "run_table",
]
