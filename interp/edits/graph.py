"""Edits and graphs of edits: frozen values that compare, hash, print, and are saved.

A graph is a sequence. Where two edits touch the same address, the later one is given what the earlier one left; every
other order is the order of the computation, whatever the order in the graph.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from interp.edits.op import Op
from interp.edits.sources import Source
from interp.errors import InterpError
from interp.selection import Selection


@dataclass(frozen=True)
class Edit:
    """One edit: what is changed, how, from what, and in which worlds.

    Attributes:
        selection: addresses.
        op: the operation.
        sources: as many as the operation takes.
        rows: worlds that are changed; None for all of the runs asked for.
    """

    selection: Selection
    op: Op
    sources: tuple[Source, ...] = ()
    rows: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.sources) != self.op.sources:
            raise InterpError(f"{self.op.name} takes {self.op.sources} sources, and {len(self.sources)} were given")
        rows = self.rows
        if rows is not None and (not rows or len(set(rows)) != len(rows) or min(rows) < 0):
            raise InterpError(f"rows={rows}: name each world that is changed once, from 0 on")

    def __or__(self, other: Edit | EditGraph) -> EditGraph:
        """This edit, then the other."""
        return EditGraph((self,)) | other

    def __str__(self) -> str:
        given = "".join(f" from {source}" for source in self.sources)
        rows = "" if self.rows is None else f" in world{'s' * (len(self.rows) != 1)} {', '.join(map(str, self.rows))}"
        return f"{self.op} at {self.selection}{given}{rows}"


@dataclass(frozen=True)
class EditGraph:
    """Edits, applied in order."""

    edits: tuple[Edit, ...] = ()

    def __or__(self, other: Edit | EditGraph) -> EditGraph:
        """These edits, then the others."""
        if not isinstance(other, Edit | EditGraph):
            return NotImplemented
        return EditGraph((*self.edits, *graph_of(other).edits))

    def __iter__(self) -> Iterator[Edit]:
        return iter(self.edits)

    def __len__(self) -> int:
        return len(self.edits)

    def __str__(self) -> str:
        return "\n".join(f"{i}. {edit}" for i, edit in enumerate(self.edits)) or "no edits"

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits of the content, the same in every process; graphs with functions have none.

        Raises:
            InterpError: an operation cannot be saved.
        """
        from interp.edits.files import described

        return hashlib.sha256(described(self).encode()).hexdigest()[:16]

    def save(self, path: str | Path) -> Path:
        """Write JSON, and a safetensors file beside it if the graph holds tensors; see `interp.edits.save`."""
        from interp.edits.files import save

        return save(self, path)


def graph_of(*said: Any) -> EditGraph:
    """A graph from edits, graphs and sequences of them, in order.

    Raises:
        InterpError: something else.
    """
    edits: list[Edit] = []
    for one in said:
        if one is None:
            continue
        if isinstance(one, Edit):
            edits.append(one)
        elif isinstance(one, EditGraph):
            edits += one.edits
        elif isinstance(one, list | tuple):
            edits += graph_of(*one).edits
        else:
            raise InterpError(f"{one!r} is not an edit; make one with interp.edits.patch, zero, add, noise, …")
    return EditGraph(tuple(edits))
