"""The index page of many studies: every claim with the paper's figure, ours, and the verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from studies.base.claim import VERDICTS
from studies.base.folder import StudyFolder
from studies.base.signs import DASH
from studies.frame.report import Link, Report, Section, render, shown


@dataclass(frozen=True)
class Entry:
    """One study of the index.

    Attributes:
        name, question: of the study.
        model: that it ran on.
        place: its folder, relative to the page.
        summary: its summary.json; None if it failed.
        seconds: how long it took; None if it was finished before.
        error: what went wrong, or None.
    """

    name: str
    question: str
    model: str
    place: str
    summary: dict[str, Any] | None
    seconds: float | None
    error: str | None


def claims_table(entries: Sequence[Entry]) -> pl.DataFrame:
    """All claims: study, model, claim, paper, value, low, high, chance, placebo, n, verdict, rule, seeds, command."""
    rows = [
        {
            "study": entry.name,
            "model": entry.model,
            **{k: claim.get(k) for k in ("claim", "paper")},
            **{k: _number(claim.get(k)) for k in ("value", "low", "high", "chance", "placebo")},
            "n": claim.get("n"),
            **{k: claim.get(k) for k in ("verdict", "rule")},
            "seeds": len(set(_flat(entry.summary["seeds"]))),
            "command": entry.summary["command"],
        }
        for entry in entries
        if entry.summary
        for claim in entry.summary["claims"]
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def _flat(seeds: Any) -> list[int]:
    if isinstance(seeds, dict):
        return [seed for of in seeds.values() for seed in _flat(of["all"] if isinstance(of, dict) else of)]
    return list(seeds)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def write_index(folder: StudyFolder, entries: Sequence[Entry]) -> None:
    """Write index.html and claims.parquet."""
    table = claims_table(entries)
    if len(table):
        folder.write_with("claims.parquet", table.write_parquet)
    counted = Counter(table["verdict"].to_list() if len(table) else [])
    findings = f"{len(table)} claims: " + ", ".join(f"{counted[verdict]} {verdict}" for verdict in VERDICTS) + "."
    places = {(entry.name, entry.model): entry.place for entry in entries}
    models = {e.summary["model"]: e.summary["model_hash"] for e in entries if e.summary}
    page = Report(
        title="Studies of video reasoning",
        question="Which claims about reasoning along the denoising steps show on this model?",
        findings=findings,
        facts={"model": ", ".join(models), "weights": ", ".join(models.values()), "studies": len(entries)},
        sections=[
            Section(
                "Claims",
                (
                    "Value, 95 % interval and chance are of this model. The rule that turns numbers into a verdict "
                    "stands in each study's report. Figures of the paper are of another model and of other problems.",
                ),
                tables=([_shown(row, places, len(models) > 1) for row in table.to_dicts()],),
            ),
            Section("Studies", tables=([_line(entry) for entry in entries],)),
        ],
        command=f"python -m studies all --out {folder.path}",
    )
    folder.write_text("index.html", render(page))


def _shown(row: dict[str, Any], places: Mapping[tuple[str, str], str], several: bool) -> dict[str, Any]:
    return {
        "study": Link(row["study"], f"{places[row['study'], row['model']]}/report.html"),
        **({"model": row["model"]} if several else {}),
        "claim": row["claim"],
        "paper": row["paper"],
        "value": row["value"],
        "interval": f"{shown(row['low'])} {DASH} {shown(row['high'])}",
        "chance": row["chance"],
        "placebo": row["placebo"],
        "n": row["n"],
        "verdict": row["verdict"],
    }


def _line(entry: Entry) -> dict[str, Any]:
    about = {"study": entry.name, "model": entry.model, "question": entry.question}
    if entry.error:
        return {**about, "took": "failed", "note": entry.error}
    took = "before" if entry.seconds is None else f"{entry.seconds:.0f} s"
    findings = entry.summary["findings"] if entry.summary else ""
    return {**about, "study": Link(entry.name, f"{entry.place}/report.html"), "took": took, "note": findings}
