"""What a study found, and the four things that it leaves: table.parquet, summary.json, figures and report.html."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from interp.collect import versions
from interp.errors import OutputError
from studies.base.claim import Claim
from studies.drawing.report import Report, Section, render
from studies.frame.claims import READING, RULES, claim_row

if TYPE_CHECKING:
    from studies.frame.study import Study
    from studies.runs.bench import Bench


@dataclass(frozen=True)
class Outcome:
    """What a study found.

    Attributes:
        table: one row a cell.
        columns: what each column of the table means; every column has to be there.
        claims: see `studies.base.claim`.
        findings: in sentences.
        sections: of the page, figures in them.
        n: how many problems, runs and whatever else was counted, by name.
        seeds: of the runs.
        settings: of the runs where they are not those of the command line, for the page.
        more: further entries of summary.json.
    """

    table: pl.DataFrame
    columns: Mapping[str, str]
    claims: Sequence[Claim]
    findings: str
    sections: Sequence[Section]
    n: Mapping[str, int]
    seeds: Sequence[int] = field(default_factory=tuple)
    settings: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)


def write_outcome(study: Study, bench: Bench, outcome: Outcome) -> Path:
    """Write the files; the path of the page. ``summary.json`` is written last: where it is, the study is finished.

    Raises:
        OutputError: a column without a description, or a file that cannot be written.
    """
    if set(outcome.table.columns) != set(outcome.columns):
        differ = sorted(set(outcome.table.columns) ^ set(outcome.columns))
        raise OutputError(f"{study.name}: columns and their descriptions differ in {', '.join(differ)}")
    given, folder = bench.given, bench.folder
    claims = [claim.row() for claim in outcome.claims]
    folder.write_with("table.parquet", outcome.table.write_parquet)
    facts = {
        "model": given.model,
        "weights": bench.lab.model_hash,
        "task": given.task,
        **outcome.n,
        "seeds of noise": _seeds(outcome.seeds),
        "denoising steps": given.steps,
        "guidance": given.guidance_scale,
        **outcome.settings,
        "versions": ", ".join(f"{k} {v}" for k, v in versions().items() if k in ("torch", "diffusers")),
    }
    explained = Section("How it is measured", explained=study.method)
    ruled = Section("Claims", (f"{RULES} {READING}",), tables=([claim_row(row) for row in claims],))
    described = Section(
        "Columns of table.parquet", tables=([{"column": k, "meaning": v} for k, v in outcome.columns.items()],)
    )
    page = Report(
        title=study.name.replace("_", " ").capitalize(),
        question=study.question,
        findings=outcome.findings,
        facts=facts,
        sections=[explained, ruled, *outcome.sections, described],
        command=given.command,
    )
    path = folder.write_text("report.html", render(page))
    folder.write_json(
        "summary.json",
        {
            "study": study.name,
            "command": given.command,
            "model": given.model,
            "model_hash": bench.lab.model_hash,
            "n": dict(outcome.n),
            "seeds": list(outcome.seeds),
            "settings": {k: v for k, v in vars(given).items() if k not in ("command", "out", "cache")},
            "versions": versions(),
            "findings": outcome.findings,
            "claims": claims,
            **outcome.more,
        },
    )
    return path


def _seeds(seeds: Sequence[int]) -> str:
    """Which seeds there are, or how many of which to which."""
    each = sorted(set(seeds))
    return ", ".join(map(str, each)) if len(each) < 5 else f"{len(each)} ({each[0]} to {each[-1]})"
