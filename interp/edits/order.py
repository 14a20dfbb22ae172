"""In which order a run carries out the edits of a graph, and where they overlap; nothing is run to say so."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from interp.edits.given import rescheduled
from interp.edits.graph import EditGraph, graph_of
from interp.edits.program import Address, bind
from interp.edits.run import with_worlds
from interp.runspec import RunSpec
from interp.selection import AddressSpace, Part

if TYPE_CHECKING:
    import polars as pl

    from interp.lab import Lab

SHOWN = 12  # lines of a printed order


@dataclass(frozen=True)
class Overlap:
    """Two edits that change the same numbers.

    Attributes:
        first, second: their numbers in the graph; the second is given what the first has left.
        places: (site, step, branch), in the order of the computation.
    """

    first: int
    second: int
    places: tuple[Address, ...]

    def __str__(self) -> str:
        site, step, branch = self.places[0]
        more = f" and {len(self.places) - 1} more places" if len(self.places) > 1 else ""
        return f"edit {self.second} is given what edit {self.first} left at {site}, step {step}, {branch}{more}"


@dataclass(frozen=True)
class Order:
    """The edits of a graph as a run meets them.

    Attributes:
        graph: the edits.
        places: ((site, step, branch), numbers of the edits there), in the order of the computation.
        overlaps: pairs of edits that change the same numbers in the same world.
        experts: of each step.
    """

    graph: EditGraph
    places: tuple[tuple[Address, tuple[int, ...]], ...]
    overlaps: tuple[Overlap, ...]
    experts: tuple[str, ...]

    @property
    def table(self) -> pl.DataFrame:
        """polars, one row an edit and place: place, step, expert, branch, site, edit."""
        import polars as pl

        rows = [
            {"place": i, "step": step, "expert": self.experts[step], "branch": branch, "site": site, "edit": number}
            for i, ((site, step, branch), numbers) in enumerate(self.places)
            for number in numbers
        ]
        return pl.DataFrame(rows)

    def __str__(self) -> str:
        lines = [
            f"step {step} ({self.experts[step]}), {branch}, {site}: edit {', then '.join(map(str, numbers))}"
            for (site, step, branch), numbers in self.places
        ]
        if len(lines) > SHOWN:
            lines = [*lines[:SHOWN], f"… and {len(lines) - SHOWN} more places; see .table"]
        return "\n".join([*lines, *(map(str, self.overlaps) if self.overlaps else ["no two edits overlap"])])


def order(lab: Lab, runs: RunSpec | Sequence[RunSpec], edits: Any) -> Order:
    """Say where and in which order edits of a graph are carried out, and which of them overlap.

    Args:
        lab: the pipeline.
        runs: one run, or the worlds of a batch.
        edits: see `interp.edits.run_with`.

    Raises:
        SelectionError: an edit matches nothing.
        InterpError: edits that do not fit the batch.
    """
    specs = [runs] if isinstance(runs, RunSpec) else list(runs)
    graph = graph_of(edits)
    wired, worlds = with_worlds(graph, specs)
    space = lab.space(specs)
    schedule = rescheduled(wired, lab.schedule(specs[0].settings), space)
    space = replace(space, experts=schedule.experts)
    program = bind(wired, space, len(worlds), len(specs), range(space.steps))
    found: dict[Address, list[int]] = {}
    for number, site, step, branch in program.planned:
        found.setdefault((site, step, branch), []).append(number)
    ranks = {site: i for i, site in enumerate(space.sites)}
    places = sorted(found.items(), key=lambda item: _when(item[0], ranks, space))
    shared: dict[tuple[int, int], list[Address]] = {}
    resolutions = [edit.selection.resolve(space) for edit in wired]
    for address, numbers in places:
        for one, two in itertools.combinations(numbers, 2):
            rows = set(program.planned[one, *address]) & set(program.planned[two, *address])
            if rows and _meet(resolutions[one].parts(*address), resolutions[two].parts(*address)):
                shared.setdefault((one, two), []).append(address)
    overlaps = tuple(Overlap(one, two, tuple(at)) for (one, two), at in sorted(shared.items()))
    return Order(graph, tuple((at, tuple(numbers)) for at, numbers in places), overlaps, space.experts)


def _when(address: Address, ranks: dict[str, int], space: AddressSpace) -> tuple[int, int, int]:
    """What the order of the computation sorts by: the step, the pass (what is before or after all passes), the site."""
    site, step, branch = address
    if branch in space.branches:
        return step, 1 + space.branches.index(branch), ranks[site]
    return step, 0 if site == "latents.hook_in" else 1 + len(space.branches), ranks[site]


def _meet(one: Sequence[Part], two: Sequence[Part]) -> bool:
    """Whether rectangles of a tensor have any number in common."""
    return any(_share(a.tokens, b.tokens) and _share(a.heads, b.heads) for a, b in itertools.product(one, two))


def _share(one: tuple[int, ...] | None, two: tuple[int, ...] | None) -> bool:
    return one is None or two is None or not set(one).isdisjoint(two)
