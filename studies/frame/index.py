"""The index page of many studies: every claim with the paper's figure, ours, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from studies import NAMES
from studies.base.claim import NOT, OPEN, SHOWS
from studies.base.folder import StudyFolder
from studies.base.signs import SPACE
from studies.drawing.report import Link, Noted, Report, Section, render
from studies.frame.claims import READING, SIGNS, claim_row, counted

LINES = (
    f"How many claims of each study show ({SIGNS[SHOWS]}), do not show ({SIGNS[NOT]}) or cannot be told at this size "
    f"({SIGNS[OPEN]}); its report says by which rules. {READING}"
)


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

    @property
    def title(self) -> str:
        """The name in words."""
        return self.name.replace("_", " ").capitalize()


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


def write_index(folder: StudyFolder, entries: Sequence[Entry], command: str) -> None:
    """Write index.html and claims.parquet; the command is the last one that added to them."""
    entries = sorted(entries, key=lambda entry: _order(entry, entries))
    table = claims_table(entries)
    if len(table):
        folder.write_with("claims.parquet", table.write_parquet)
    verdicts = table["verdict"].to_list() if len(table) else []
    models = {e.summary["model"]: e.summary["model_hash"] for e in entries if e.summary}
    studies = dict.fromkeys(entry.name for entry in entries)
    page = Report(
        title="Studies of video reasoning",
        question="Which claims about reasoning along the denoising steps show on these models?",
        findings=f"{len(table)} claims: {counted(verdicts)}.",
        facts={"models": ", ".join(models), "weights": ", ".join(models.values()), "studies": len(studies)},
        sections=[
            Section("Studies", (LINES,), tables=(_overview(entries),)),
            *(_study(entry) for entry in sorted(entries, key=lambda entry: list(studies).index(entry.name))),
        ],
        command=command,
    )
    folder.write_text("index.html", render(page))


def _order(entry: Entry, entries: Sequence[Entry]) -> tuple[int, int]:
    """Models as they come, and each one's studies in the order of the list."""
    models = list(dict.fromkeys(one.model for one in entries))
    return models.index(entry.model), NAMES.index(entry.name) if entry.name in NAMES else len(NAMES)


def _overview(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """One row a study: what it asks, and its verdicts on every model."""
    models = dict.fromkeys(Path(entry.model).name for entry in entries)
    rows: dict[str, dict[str, Any]] = {}
    for entry in entries:
        row = rows.setdefault(entry.name, {"study": Noted(entry.title, entry.question), **dict.fromkeys(models)})
        row[Path(entry.model).name] = _verdicts(entry)
    return list(rows.values())


def _verdicts(entry: Entry) -> Link | str:
    if entry.summary is None:
        return "failed"
    verdicts = [claim["verdict"] for claim in entry.summary["claims"]]
    counts = (f"{sign}{SPACE}{verdicts.count(verdict)}" for verdict, sign in SIGNS.items())
    return Link((SPACE * 3).join(counts), f"{entry.place}/report.html")


def _study(entry: Entry) -> Section:
    """One study on one model: what was found, every claim, and the command."""
    heading = f"{entry.title}, {Path(entry.model).name}"
    if entry.summary is None:
        return Section(heading, (f"Failed: {entry.error}",))
    took = "" if entry.seconds is None else f" It took {entry.seconds:.0f} s."
    return Section(
        heading,
        (entry.question, f"{entry.summary['findings']}{took}"),
        tables=([_claim(claim, entry.summary["seeds"]) for claim in entry.summary["claims"]],),
        commands=(entry.summary["command"],),
    )


def _claim(claim: dict[str, Any], seeds: Any) -> dict[str, Any]:
    """A row without the rule, with the number of seeds after n."""
    row = claim_row({**claim, "rule": ""})
    verdict = row.pop("verdict")
    return {**row, "seeds": len(set(_flat(seeds))), "verdict": verdict}
