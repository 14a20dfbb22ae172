"""Render the page of tables from the code: ``python -m docs.make_tables``. A test compares both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from interp import answers, intervals, lenses
from probes import columns

INTRO = """# Tables

Every result is a polars table with fixed columns. Intervals are at 95 % where nothing else was asked for; `null` stands
for what does not apply.
"""

TABLES: tuple[tuple[str, str, Mapping[str, str]], ...] = (
    ("A grid of probes", "`fit_grid(...).table`; after these, `baseline_NAME`, the score of the named baseline at the "
     "step. `fit_regions(...).table` has the column `region`, its name, before them.", columns.GRID),
    ("Baselines of a grid", "`fit_grid(...).baselines`", columns.BASELINES),
    ("Onsets", "`grid.onset()`", columns.ONSET),
    ("What was said of each row", "`grid.predictions(step, layer)`", columns.PREDICTIONS),
    ("Bands over a grid", "`simultaneous_bands(grid)`", columns.BANDS),
    ("Differences of two grids", "`compare_grids(a, b)`", columns.DIFFERENCES),
    ("Probes tested in other cells", "`fit_transfer(...).table`", columns.TRANSFER),
    ("Probes tested on other kinds of runs", "`transfer_between(...)`", columns.BETWEEN),
    ("Description lengths", "`code_grid(...)`", columns.CODES),
    ("Blocks of an online code", "`online_code(...).table`", columns.CODE_BLOCKS),
    ("Calibration", "`calibration(...).table`", columns.CALIBRATION),
    ("Likeness of sites", "`probes.geometry.compare(...)`", columns.LIKENESS),
    ("Token energy", "`probes.geometry.energy_table(...)`", columns.ENERGY),
    ("Paths", "`pca_paths(...).table`, `umap_paths(...).table`; then further columns as given, and a coordinate a "
     "dimension: `pc0`, `pc1`, ... or `umap0`, `umap1`.", columns.PATHS),
    ("Lenses", "`x0_lens(...)`, `layer_lens(...)`; then the flags and numbers of the task's score, such as `solved`.",
     lenses.COLUMNS),
    ("Answers by step", "`follow(...).steps`", answers.COLUMNS),
    ("Answers: events", "`follow(...).events`", answers.EVENTS),
    ("Answers by run", "`follow(...).runs`", answers.RUNS),
    ("Means with intervals", "`mean_by(...)`, `follow(...).by_step(...)`; before these, what names a cell. "
     "`follow(...).agreement()` has the column `measure` after them.", intervals.COLUMNS),
)  # fmt: skip


def render() -> str:
    """The page as MyST Markdown."""
    lines = [INTRO]
    for title, source, held in TABLES:
        lines += [f"## {title}", "", source, "", "| column | what it holds |", "|---|---|"]
        lines += [f"| `{name}` | {meaning} |" for name, meaning in held.items()]
        lines.append("")
    lines += [
        "Source files: `probes/columns.py`, `interp/lenses/table.py`, `interp/answers/follow.py`, "
        "`interp/answers/events.py`, `interp/intervals.py`, `docs/make_tables.py`.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    page = Path(__file__).with_name("tables.md")
    page.write_text(render(), encoding="utf-8")
    print(page)
