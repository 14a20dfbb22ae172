"""Sweeps: one edit, tried at every cell of a grid of addresses, with placebos, packed into few forwards.

Cells that start at the same step share one recording of the clean run; each is a row of a batch. In its first step a
row joins the batch at the first layer that it edits, from the recorded residual stream. What all rows have of one
prompt is computed once. A placebo is a change of the same size in a random direction.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.edits.graph import Edit, EditGraph, graph_of
from interp.edits.mixing import Resample, Wire, WorldMean
from interp.edits.program import bind
from interp.edits.random_change import RandomChange
from interp.edits.run import EditedRun, run_with
from interp.edits.sources import OtherRun, Stored
from interp.errors import InterpError, OutputError
from interp.replay import Recording, first_layer, record, replay, unedited
from interp.runspec import RunSpec
from interp.selection import Selection, select

if TYPE_CHECKING:
    import polars as pl

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
    """

    at: tuple[tuple[str, Any], ...]
    edits: EditGraph
    draw: int
    step: int
    layer: int
    last: int

    @property
    def key(self) -> str:
        """What the cell is called in a results file."""
        return f"{self.edits.key}/{self.draw}"


@dataclass(frozen=True)
class Sweep:
    """Results of a sweep.

    Attributes:
        table: polars, one row a cell: the axes, value, effect (value - clean), and, with placebos, placebo (their mean
            effect), placebo_low, placebo_high, and p, the share of effects at least as large by chance.
        clean: the metric of the unedited run.
        axes: the axes, in order.
    """

    table: pl.DataFrame
    clean: float
    axes: tuple[str, ...]

    def grid(self, column: str = "effect") -> np.ndarray:
        """A column over the axes: float [len(axis) ...]."""
        sizes = [self.table[axis].n_unique() for axis in self.axes]
        return self.table[column].to_numpy().reshape(sizes)

    def plot(self, path: str | Path, column: str = "effect") -> Path:
        """A heatmap of the first two axes (a line for one)."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 4), layout="constrained")
        ax = figure.add_subplot()
        values = self.grid(column)
        if values.ndim == 1:
            ax.plot(self.table[self.axes[0]].to_list(), values, marker="o")
            ax.set(xlabel=self.axes[0], ylabel=column)
        else:
            values = values.reshape(*values.shape[:2], -1).mean(-1)
            size = float(np.abs(values).max()) or 1.0
            image = ax.imshow(values.T, origin="lower", aspect="auto", cmap="RdBu_r", vmin=-size, vmax=size)
            ax.set(xlabel=self.axes[0], ylabel=self.axes[1])
            figure.colorbar(image, label=column)
        figure.savefig(path)
        return Path(path)


def sweep(
    lab: Lab,
    run: RunSpec | Recording,
    template: Edit | EditGraph,
    over: Mapping[str, Sequence[Any]],
    metric: Metric,
    *,
    early: bool = False,
    placebos: int = 0,
    batch_size: int = 16,
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
        placebos: changes of the same size in random directions, for each cell; needs an edit with a source.
        batch_size: cells in one forward.
        to: a file that results are appended to as they come; cells that are in it are not run again.
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
    known = _Known(None if to is None else Path(to), f"{run.key}/{getattr(metric, '__qualname__', 'metric')}/{early}")
    todo = [cell for cell in cells if cell.key not in known.values]
    recording = recording or record(lab, run, kept_at(lab, run, todo))
    sources = _Sources(lab, run, todo)
    for batch in _bar(_batches(todo, batch_size), len(todo), progress):
        given = [sources.given(cell.edits) for cell in batch]
        graph = EditGraph(tuple(replace(e, rows=(i,)) for i, g in enumerate(given) for e in g))
        base = recording.rows([0] * len(batch))
        enter = [cell.layer for cell in batch]
        stop = batch[0].last + 1 if early else None
        results = replay(lab, base, graph, stop=stop, enter=enter, share_text=len(batch) > 1, history=not early)
        for cell, result in zip(batch, results, strict=True):
            known.add(cell.key, float(metric(result)))
    whole = unedited(lab, recording)[0]
    if early:
        return _early_table(lab, recording, cells, known, metric, tuple(over))
    return _table(cells, known, {cell.last: float(metric(whole)) for cell in cells}, tuple(over), float(metric(whole)))


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
    cells = []
    for values in itertools.product(*over.values()):
        at = dict(zip(over, values, strict=True))
        here = EditGraph(tuple(replace(e, selection=e.selection & select(**at)) for e in graph))
        bare = EditGraph(tuple(replace(e, sources=tuple(_one_row(s) for s in e.sources)) for e in here))
        program = bind(bare, space, 2, 1, range(space.steps))
        first, last = program.first_step(), program.last_step()
        assert first is not None
        assert last is not None
        where = (first, first_layer(program, first), last)
        cells.append(Cell(tuple(at.items()), here, -1, *where))
        cells += [Cell(tuple(at.items()), _placebo(here, k), k, *where) for k in range(placebos)]
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

    def __init__(self, lab: Lab, run: RunSpec, cells: Sequence[Cell]) -> None:
        wanted: dict[str, tuple[RunSpec, Selection]] = {}
        for edit in (edit for cell in cells if cell.draw <= 0 for edit in cell.edits):
            for source in edit.sources:
                if isinstance(source, OtherRun):
                    spec = self._spec(source, run)
                    before = wanted.get(source.identity)
                    wanted[source.identity] = (spec, edit.selection if before is None else before[1] | edit.selection)
        self.stored = {
            identity: Stored.of(run_with(lab, spec, (), selection)) for identity, (spec, selection) in wanted.items()
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


class _Known:
    """Values of cells, in memory and appended to a file."""

    def __init__(self, path: Path | None, header: str) -> None:
        self.path, self.values = path, dict[str, float]()
        if path is None:
            return
        if path.exists():
            lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
            if not lines or lines[0].get("sweep") != header:
                raise OutputError(f"{path} holds another sweep, or something else; give another file")
            self.values = {line["cell"]: line["value"] for line in lines[1:]}
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"sweep": header}) + "\n")

    def add(self, key: str, value: float) -> None:
        self.values[key] = value
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps({"cell": key, "value": value}) + "\n")


def _early_table(
    lab: Lab, recording: Recording, cells: Sequence[Cell], known: _Known, metric: Metric, axes: tuple[str, ...]
) -> Sweep:
    """Early effects are measured against the clean run stopped at the same step."""
    from interp.edits.run import results_of

    ends = sorted({cell.last for cell in cells})
    clean = {end: float(metric(results_of(lab, recording.plan, 1, recording.steps[: end + 1])[0])) for end in ends}
    return _table(cells, known, clean, axes, clean[ends[-1]])


def _table(cells: Sequence[Cell], known: _Known, clean: dict[int, float], axes: tuple[str, ...], whole: float) -> Sweep:
    import polars as pl

    drawn: dict[Any, list[float]] = {}
    for cell in cells:
        if cell.draw >= 0:
            drawn.setdefault(cell.at, []).append(known.values[cell.key] - clean[cell.last])
    rows = []
    for cell in cells:
        if cell.draw >= 0:
            continue
        value = known.values[cell.key]
        effect = value - clean[cell.last]
        row = {axis: v if isinstance(v, int | float | str) else str(v) for axis, v in cell.at}
        row |= {"value": value, "clean": clean[cell.last], "effect": effect}
        if chance := drawn.get(cell.at):
            low, high = np.quantile(chance, [0.025, 0.975])
            larger = sum(abs(one) >= abs(effect) for one in chance)
            row |= {"placebo": float(np.mean(chance)), "placebo_low": float(low), "placebo_high": float(high)}
            row |= {"p": (1 + larger) / (1 + len(chance))}
        rows.append(row)
    return Sweep(pl.DataFrame(rows), whole, axes)


def _bar(batches: Iterator[list[Cell]], total: int, shown: bool) -> Iterator[list[Cell]]:
    if not shown:
        yield from batches
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, unit="cell", desc="sweep") as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))


__all__ = ["Cell", "Sweep", "kept_at", "plan_cells", "sweep"]
