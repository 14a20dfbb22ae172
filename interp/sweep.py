"""Sweeps: one edit, tried at every cell of a grid of addresses, with placebos, packed into few forwards.

Cells that start at the same step share one recording of the clean run; each is a row of a batch. In its first step a
row joins the batch at the first layer that it edits, from the recorded residual stream. What all rows have of one
prompt is computed once, and values are then those of a full rerun to rounding; with ``batch_size=1`` they are equal to
the bit. A placebo is a change of the same size in a random direction.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from interp.edits.graph import Edit, EditGraph, graph_of
from interp.edits.mixing import Resample, Wire, WorldMean
from interp.edits.program import bind
from interp.edits.random_change import RandomChange
from interp.edits.run import EditedRun, execute, results_of
from interp.edits.sources import OtherRun, Stored
from interp.errors import InterpError
from interp.hooks import Clock
from interp.replay import Recording, first_layer, record, replay
from interp.runspec import RunSpec
from interp.sampler import Plan, prepare
from interp.selection import AddressSpace, Selection, select
from interp.shared_text import keeping_text, no_sharing, sharing_text
from interp.sweep_result import CellFile, Sweep, pooled

if TYPE_CHECKING:
    from interp.lab import Lab

Metric = Callable[[EditedRun], float]
KEPT_BYTES = 2e9  # of residual streams of the clean run


@dataclass(frozen=True)
class Cell:
    """One point of the grid.

    Attributes:
        at: axis to value.
        edits: the edit there.
        draw: -1 for the effect itself, else the number of a placebo.
        step, layer: where the run starts to differ.
        last: the last step that is edited.
        number: its place among the cells and placebos.
    """

    at: tuple[tuple[str, Any], ...]
    edits: EditGraph
    draw: int
    step: int
    layer: int
    last: int
    number: int

    @cached_property
    def key(self) -> str:
        """What the cell is called in a results file; a cell with a function has no such name."""
        return f"{self.edits.key}/{self.draw}"


def sweep(
    lab: Lab,
    run: RunSpec | Recording,
    template: Edit | EditGraph,
    over: Mapping[str, Sequence[Any]],
    metric: Metric,
    *,
    early: bool = False,
    capture: str | Selection | Sequence[str | Selection] | None = None,
    placebos: int = 0,
    batch_size: int | None = None,
    to: str | Path | None = None,
    progress: bool = False,
) -> Sweep:
    """Try an edit at every cell.

    Args:
        lab: the pipeline.
        run: the clean run, or a recording of it, as several sweeps of one run can share.
        template: the edit; every cell narrows its selection. It must not name rows or mix worlds.
        over: axes of `interp.select` to values, as ``{"step": range(20), "layer": range(12)}``.
        metric: an `EditedRun` to a number; with ``early`` it sees a run that stopped after its last edited step, and
            reads ``result.x0_hat`` or ``result.early_frames``.
        early: stop there.
        capture: what the metric reads as ``result.captured``, such as a probe's input: the steps that a cell ran, the
            last one last. Rows are then computed whole, which takes longer.
        placebos: changes of the same size in random directions, for each cell; needs an edit with a source.
        batch_size: cells in one forward; None takes what fits in half of the free memory, 16 at most.
        to: a file that results are appended to as they come; cells that are in it are not run again. It belongs to one
            run and one metric, which is known by its ``key`` or its name.
        progress: show a progress bar.

    Raises:
        SelectionError: a cell selects nothing; nothing has run then.
        InterpError: the template cannot be swept.
    """
    recording = run if isinstance(run, Recording) else None
    if isinstance(run, Recording):
        if len(run.specs) != 1:
            raise InterpError(
                f"a sweep is of one run, and the recording has {len(run.specs)}; take recording.rows([i])"
            )
        run = run.specs[0]
    cells = plan_cells(lab, run, template, over, placebos)
    known = CellFile(None if to is None else Path(to), f"{run.key}/{_name_of(metric)}/{early}")
    batch_size = batch_size or fitting(lab.pipe, lab.space(run))
    names = {cell.number: str(cell.number) if to is None else cell.key for cell in cells}
    todo = [cell for cell in cells if names[cell.number] not in known.values]
    share = batch_size > 1  # cells of several rows are equal to a rerun to rounding anyway
    recording = recording or record(lab, run, kept_at(lab, run, todo), share_text=share)
    sources = _Sources(lab, run, todo, share)
    for batch in _bar(_batches(todo, batch_size), len(todo), progress):
        given = [sources.given(cell.edits) for cell in batch]
        graph = EditGraph(tuple(replace(e, rows=(i,)) for i, g in enumerate(given) for e in g))
        base = recording.rows([0] * len(batch))
        enter = [cell.layer for cell in batch] if capture is None else None
        stop = batch[0].last + 1 if early else None
        results = replay(
            lab, base, graph, capture, stop=stop, enter=enter, share_text=len(batch) > 1, history=not early
        )
        for cell, result in zip(batch, results, strict=True):
            known.add(names[cell.number], float(metric(result)))
    values = [known.values[names[cell.number]] for cell in cells]
    ends = sorted({cell.last for cell in cells}) if early else [len(recording.steps) - 1]
    found = {end: float(metric(_clean(lab, recording, end, capture, early))) for end in ends}
    clean = {cell.last: found[cell.last if early else ends[-1]] for cell in cells}
    return _table(cells, values, clean, tuple(over), found[ends[-1]])


def plan_cells(
    lab: Lab, run: RunSpec, template: Edit | EditGraph, over: Mapping[str, Sequence[Any]], placebos: int = 0
) -> list[Cell]:
    """The cells of a sweep, checked against the run's addresses; arguments as in `sweep`."""
    graph, space = graph_of(template), lab.space(run)
    if not over or not all(len(values) for values in over.values()):
        raise InterpError(
            "over= needs at least one axis with values, as in over={'step': range(20), 'layer': range(12)}"
        )
    for edit in graph:
        if edit.rows is not None or isinstance(edit.op, Wire | WorldMean | Resample):
            raise InterpError(f"{edit} is about worlds of a batch, and a sweep makes its own; sweep edits of one run")
    cells: list[Cell] = []
    for values in itertools.product(*over.values()):
        at = dict(zip(over, values, strict=True))
        here = EditGraph(tuple(replace(e, selection=e.selection & select(**at)) for e in graph))
        bare = EditGraph(tuple(replace(e, sources=tuple(_one_row(s) for s in e.sources)) for e in here))
        program = bind(bare, space, 2, 1, range(space.steps))
        first, last = program.first_step(), program.last_step()
        assert first is not None
        assert last is not None
        where = (first, first_layer(program, first), last)
        graphs = [here, *(_placebo(here, draw) for draw in range(placebos))]
        number = len(cells)
        cells += [Cell(tuple(at.items()), one, i - 1, *where, number + i) for i, one in enumerate(graphs)]
    return cells


def _one_row(source: Any) -> Any:
    """For planning: another run is another world."""
    from interp.edits.sources import World

    return World(1) if isinstance(source, OtherRun) else source


def _placebo(graph: EditGraph, draw: int) -> EditGraph:
    if not all(edit.op.sources for edit in graph):
        raise InterpError("placebos are changes as large as the source's, and this edit has no source; set placebos=0")
    return EditGraph(
        tuple(replace(e, op=RandomChange(e.op.share if hasattr(e.op, "share") else 1.0, draw)) for e in graph)
    )


class _Sources:
    """Runs that cells read from, each run once and kept at exactly the addresses that cells need."""

    def __init__(self, lab: Lab, run: RunSpec, cells: Sequence[Cell], share_text: bool) -> None:
        wanted: dict[str, tuple[RunSpec, Selection]] = {}
        once = {cell.number - cell.draw: cell for cell in cells}.values()  # a cell and its placebos read the same
        for edit in (edit for cell in once for edit in cell.edits):
            for source in edit.sources:
                if isinstance(source, OtherRun):
                    spec = self._spec(source, run)
                    before = wanted.get(source.identity)
                    wanted[source.identity] = (spec, edit.selection if before is None else before[1] | edit.selection)
        self.stored = {
            identity: kept_source(lab, prepare(lab.pipe, [spec]), selection, share_text=share_text)
            for identity, (spec, selection) in wanted.items()
        }

    @staticmethod
    def _spec(source: OtherRun, run: RunSpec) -> RunSpec:
        if source.run is None:
            raise InterpError(
                f"the source {source} cannot be made again from its description: its sample is of no task"
            )
        return source.run if isinstance(source.run, RunSpec) else replace(run, sample=source.run)

    def given(self, graph: EditGraph) -> EditGraph:
        """The graph with stored activations for other runs."""

        def known(source: Any) -> Any:
            return self.stored[source.identity] if isinstance(source, OtherRun) else source

        return EditGraph(tuple(replace(e, sources=tuple(known(s) for s in e.sources)) for e in graph))


def kept_source(lab: Lab, plan: Plan, selection: Selection, *, share_text: bool = False) -> Stored:
    """What cells read of another run.

    Args:
        lab: the pipeline.
        plan: that run, prepared; it is left as it is.
        selection: the addresses that are read.
        share_text: see `interp.replay.replay`.
    """
    tokens, none = lab.grid(plan.specs[0].sample).tokens, EditGraph()
    read = selection.resolve(lab.space(plan.specs[0])).sites
    given, sharing = sharing_text(lab.pipe, replace(plan), read, least=1) if share_text else (replace(plan), no_sharing)

    @contextlib.contextmanager
    def around(clock: Clock) -> Iterator[None]:
        with sharing(clock), keeping_text(lab.pipe, tokens):
            yield

    return Stored.of(execute(lab, given, 1, none, none, selection, around=around))


def kept_at(lab: Lab, run: RunSpec, cells: Sequence[Cell]) -> set[tuple[int, int]]:
    """(step, layer) at which the clean run's residual stream is kept: where cells begin, if it fits."""
    wanted = {(cell.step, cell.layer) for cell in cells if cell.layer}
    space = lab.space(run)
    size = int(np.prod(space.widths["blocks.0.hook_resid_post"])) * 4 * len(run.settings.branches)
    return wanted if len(wanted) * size <= KEPT_BYTES else set()


def _batches(cells: Sequence[Cell], size: int) -> Iterator[list[Cell]]:
    """Cells of one first and last step together, by layer."""
    ordered = sorted(cells, key=lambda cell: (cell.step, cell.last, cell.layer))
    for _, group in itertools.groupby(ordered, key=lambda cell: (cell.step, cell.last)):
        same = list(group)
        yield from (same[i : i + size] for i in range(0, len(same), size))


def _name_of(metric: Metric) -> str:
    """What a results file calls a metric."""
    return str(getattr(metric, "key", None) or getattr(metric, "__qualname__", type(metric).__qualname__))


def _clean(lab: Lab, recording: Recording, end: int, capture: Any, early: bool) -> EditedRun:
    """The clean run up to a step, which cells that end there are measured against."""
    if capture is None:
        return results_of(lab, recording.plan, 1, recording.steps[: end + 1])[0]
    none, first = EditGraph(), end if early else 0
    start, past = recording.states[first], recording.steps[:first]
    return execute(lab, replace(recording.plan), 1, none, none, capture, start=start, stop=end + 1, past=past)[0]


def _table(
    cells: Sequence[Cell], values: list[float], clean: dict[int, float], axes: tuple[str, ...], whole: float
) -> Sweep:
    import polars as pl

    effects = [value - clean[cell.last] for cell, value in zip(cells, values, strict=True)]
    draws = max(cell.draw for cell in cells) + 1  # a cell, then its placebos, then the next
    rows, placebos = [], []
    for cell, value, effect in zip(cells, values, effects, strict=True):
        if cell.draw >= 0:
            placebos.append({**_plain(cell), "draw": cell.draw, "effect": effect})
            continue
        row = _plain(cell) | {"value": value, "clean": clean[cell.last], "effect": effect}
        if chance := effects[cell.number + 1 : cell.number + 1 + draws]:
            low, high = np.quantile(chance, [0.025, 0.975])
            larger = sum(abs(one) >= abs(effect) for one in chance)
            row |= {"placebo": float(np.mean(chance)), "placebo_low": float(low), "placebo_high": float(high)}
            row |= {"p": (1 + larger) / (1 + len(chance))}
        rows.append(row)
    return Sweep(pl.DataFrame(rows), whole, axes, pl.DataFrame(placebos) if placebos else None)


def _plain(cell: Cell) -> dict[str, Any]:
    """The cell's place, as a table can hold it."""
    return {axis: v if isinstance(v, int | float | str) else str(v) for axis, v in cell.at}


def fitting(pipe: Any, space: AddressSpace) -> int:
    """Rows of a batch that fit in half of the free memory, 1 to 16.

    A row is taken to need, at once, its residual stream sixteen times over and the MLP's inside three times, in fp32.
    """
    device = pipe._execution_device
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _free_memory()
    tokens, width = space.widths["blocks.0.hook_resid_post"]
    row = 4 * tokens * (16 * width + 3 * space.widths["blocks.0.mlp.hook_post"][-1])
    return int(min(16, max(1, free / 2 // row)))


def _free_memory() -> float:
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):  # not a system that says
        return 2e9


def _bar(batches: Iterator[list[Cell]], total: int, shown: bool) -> Iterator[list[Cell]]:
    if not shown:
        yield from batches
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, unit="cell", desc="sweep") as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))


__all__ = ["Cell", "Sweep", "fitting", "kept_at", "plan_cells", "pooled", "sweep"]
