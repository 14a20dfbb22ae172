"""Render the page of what the studies found: ``python -m docs.make_study_claims DIR [DIR ...]``, of ``studies all``.

Of a study that several folders hold on one model, the first one's claims count: full sets first, ``--quick`` after.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from interp.model import bundled_models
from studies import NAMES, study_named
from studies.base.claim import VERDICTS
from studies.base.signs import DASH, SPACE
from studies.base.words import interval, sentence
from studies.frame.claims import READING, SIGNS, counted

SPELT = "; ".join(f"{sign}{SPACE}{verdict}" for verdict, sign in SIGNS.items())
INTRO = f"""# What the studies found

Every claim of every study on the bundled models, as `python -m studies all --out DIR` leaves them in
`DIR/claims.parquet`; this page is made of such files by `python -m docs.make_study_claims DIR [DIR ...]`. Nothing here
is chosen or worded by hand: results that contradict the paper stand as they are. A study whose set is *quick* was run
with `--quick`: fewer problems, wider intervals; one that is not here had not been run. How verdicts
follow from numbers: [Studies](studies.md).

{READING.replace("Below each number", "In brackets")} {SPELT}.
"""
COLUMNS = ("claim", "paper", "model", "here", "chance or bar", "placebo", "n", "seeds", "set", "verdict")


def render(claims: pl.DataFrame) -> str:
    """The page as MyST Markdown.

    Args:
        claims: as `studies.frame.index.claims_table` makes them.
    """
    lines = [INTRO, *_table(("model", *VERDICTS), _totals(claims)), ""]
    for name in NAMES:
        of = claims.filter(study=name)
        if len(of):
            heading = name.replace("_", " ").capitalize()
            of = of.sort("model", maintain_order=True)
            lines += [f"## {heading}", "", study_named(name).question, "", *_table(COLUMNS, map(_cells, of.to_dicts()))]
            lines += [""]
    lines += ["Source files: `docs/make_study_claims.py`, `studies/frame/index.py`.", ""]
    return "\n".join(lines)


def first_of(tables: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The claims of several runs of all studies; of each study on each model, those of the first table that has it."""
    found = tables[0]
    for table in tables[1:]:
        found = pl.concat([found, table.join(found, on=["study", "model"], how="anti", maintain_order="left")])
    return found


def _totals(claims: pl.DataFrame) -> list[list[str]]:
    """How many claims of each verdict, by model."""
    claims = claims.sort("model", maintain_order=True)
    return [
        [f"`{model}`", *(str(of["verdict"].to_list().count(verdict)) for verdict in VERDICTS)]
        for (model,), of in claims.group_by(["model"], maintain_order=True)
    ]


def _cells(row: Mapping[str, Any]) -> list[str]:
    value, low, high = (math.nan if row[name] is None else row[name] for name in ("value", "low", "high"))
    number, bounds = interval(value, low, high)
    return [
        sentence(row["claim"]),
        row["paper"] or DASH,
        f"`{row['model']}`",
        f"{number} ({bounds})",
        _number(row["chance"]),
        _number(row["placebo"]),
        str(row["n"]),
        str(row["seeds"]),
        "quick" if "--quick" in row["command"].split() else "full",
        f"{SIGNS[row['verdict']]}{SPACE}{row['verdict']}",
    ]


def _number(value: float | None) -> str:
    return DASH if value is None or math.isnan(value) else f"{value:.3g}"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    names = list(head)
    body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return ["| " + " | ".join(names) + " |", "|" + "---|" * len(names), *body]


if __name__ == "__main__":
    found = first_of([pl.read_parquet(Path(folder) / "claims.parquet") for folder in sys.argv[1:]])
    page = Path(__file__).with_name("study_claims.md")
    page.write_text(render(found.filter(pl.col("model").is_in(bundled_models()))))
    print(f"{page}: {len(found)} claims: {counted(found['verdict'].to_list())}")
