"""What two graphs differ in, and a graph as a picture."""

from __future__ import annotations

import difflib
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.edits.graph import Edit, EditGraph, graph_of
from interp.edits.order import Order


@dataclass(frozen=True)
class GraphDiff:
    """Two graphs beside each other.

    Attributes:
        lines: in order, (sign, edit): " " in both, "-" in the first only, "+" in the second only.
    """

    lines: tuple[tuple[str, Edit], ...]

    @property
    def same(self) -> bool:
        """Whether the graphs are equal."""
        return all(sign == " " for sign, _ in self.lines)

    @property
    def removed(self) -> tuple[Edit, ...]:
        """Edits of the first graph only."""
        return tuple(edit for sign, edit in self.lines if sign == "-")

    @property
    def added(self) -> tuple[Edit, ...]:
        """Edits of the second graph only."""
        return tuple(edit for sign, edit in self.lines if sign == "+")

    def __str__(self) -> str:
        return "\n".join(f"{sign} {edit}" for sign, edit in self.lines) or "no edits"


def diff(first: Edit | EditGraph, second: Edit | EditGraph) -> GraphDiff:
    """What has to be taken from the first graph and put into it to make the second; order counts."""
    a, b = graph_of(first).edits, graph_of(second).edits
    lines: list[tuple[str, Edit]] = []
    for kind, i1, i2, j1, j2 in difflib.SequenceMatcher(a=a, b=b, autojunk=False).get_opcodes():
        if kind == "equal":
            lines += [(" ", edit) for edit in a[i1:i2]]
        else:
            lines += [("-", edit) for edit in a[i1:i2]] + [("+", edit) for edit in b[j1:j2]]
    return GraphDiff(tuple(lines))


def draw(edits: Edit | EditGraph | Order, path: str | Path) -> Path:
    """Draw a graph: one row an edit, in order, from what it reads, through what it does, to where.

    Args:
        edits: the graph; or its `Order` in a run, whose overlaps are then drawn from the earlier edit to the later.
        path: where the picture goes; its suffix says the format.
    """
    from matplotlib.figure import Figure

    graph, overlaps = (edits.graph, edits.overlaps) if isinstance(edits, Order) else (graph_of(edits), ())
    rows = [_row(edit) for edit in graph] or [("", "no edits", "")]
    heights = [1 + max(text.count("\n") for text in row) for row in rows]
    figure = Figure(figsize=(9, 0.5 + 0.28 * sum(heights) + 0.25 * len(rows)), layout="constrained")
    ax = figure.add_subplot()
    top, places = 0.0, []
    for row, height in zip(rows, heights, strict=True):
        middle = top + height / 2
        places.append(middle)
        for x, text, colour in zip((0.14, 0.45, 0.82), row, ("#dbe9f6", "#fff3cd", "#e3f1df"), strict=True):
            if text:
                box = {"boxstyle": "round,pad=0.35", "facecolor": colour, "edgecolor": "#555555", "linewidth": 0.6}
                ax.text(x, middle, text, ha="center", va="center", fontsize=8, family="monospace", bbox=box)
        for x0, x1, there in ((0.25, 0.33, row[0]), (0.57, 0.65, row[2])):
            if there:
                ax.annotate("", (x1, middle), (x0, middle), arrowprops={"arrowstyle": "->", "color": "#555555"})
        top += height + 0.9
    for i, place in enumerate(places):
        ax.text(0.0, place, str(i), ha="left", va="center", fontsize=8, color="#555555")
    for one in overlaps:
        start, end = (-0.005, places[one.first]), (-0.005, places[one.second])
        style = {"arrowstyle": "->", "color": "#b3541e", "connectionstyle": "arc3,rad=0.4"}
        ax.annotate("", end, start, arrowprops=style)
    ax.set(xlim=(-0.08 if overlaps else 0, 1), ylim=(top, -0.6))
    for x, heading in ((0.14, "reads"), (0.45, "does"), (0.82, "at")):
        ax.text(x, -0.3, heading, ha="center", va="center", fontsize=9, color="#555555")
    ax.axis("off")
    figure.savefig(path, dpi=120)
    return Path(path)


def _row(edit: Edit) -> tuple[str, str, str]:
    rows = "all worlds asked for" if edit.rows is None else "world " + ", ".join(map(str, edit.rows))
    source = "\n".join(_wrapped(source, 24) for source in edit.sources)
    return source, _wrapped(edit.op, 26), f"{_wrapped(edit.selection, 42)}\n({rows})"


def _wrapped(said: Any, width: int) -> str:
    return "\n".join(
        textwrap.wrap(str(said), width, break_on_hyphens=False, break_long_words=len(str(said)) > 4 * width)[:4]
    )
