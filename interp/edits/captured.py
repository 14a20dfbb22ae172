"""Edited runs for a store: the graph is part of a run's key and provenance, so that no clean run stands for one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from interp.capture import Recorder
from interp.edits.editor import Editor
from interp.edits.files import described
from interp.edits.given import rescheduled
from interp.edits.graph import Edit, EditGraph, graph_of
from interp.edits.program import bind
from interp.edits.run import drive, results_of, with_worlds
from interp.edits.sources import Stored, World
from interp.errors import InterpError
from interp.hooks import Clock
from interp.runspec import RunSpec
from interp.sampler import prepare
from interp.trajectory import Schedule, Trajectory

if TYPE_CHECKING:
    from interp.lab import Lab


@dataclasses.dataclass(frozen=True)
class Edited:
    """What a capture does to its runs.

    Attributes:
        graph: the edits.
    """

    graph: EditGraph

    @classmethod
    def of(cls, edits: Any) -> Edited:
        """From an edit, a graph, or a list of them.

        Raises:
            InterpError: there is no edit.
        """
        graph = graph_of(edits)
        if not graph.edits:
            raise InterpError("edits= holds no edit; leave it out to capture clean runs")
        return cls(graph)

    def specs(self, runs: Sequence[RunSpec], batch_size: int) -> list[RunSpec]:
        """The runs as edited ones: another key each, and the graph in their provenance.

        Raises:
            InterpError: an edit is a function, which nobody could repeat; or it depends on which runs share a batch,
                and these do not fit into one.
        """
        said = {"key": self.graph.key, "graph": json.loads(described(self.graph))}
        unique = list({run.key: run for run in runs}.values())
        between = next((edit for edit in self.graph if _between_worlds(edit)), None)
        if between is not None:
            kinds = {(run.settings, run.sample.height, run.sample.width, run.sample.num_frames) for run in unique}
            if len(unique) > batch_size or len(kinds) > 1:
                raise InterpError(
                    f"{between}: what this edit does depends on which runs share a batch, and {len(unique)} runs of "
                    f"{len(kinds)} kinds do not fit into one of {batch_size}; capture each batch by itself, or raise "
                    "batch_size="
                )
            said["worlds"] = [run.key for run in unique]
        text = json.dumps(said, sort_keys=True)
        return [dataclasses.replace(run, edits=text) for run in unique]

    def schedule(self, lab: Lab, spec: RunSpec) -> Schedule:
        """The schedule of a run, with the experts that edits ask for."""
        return rescheduled(self.graph, lab.schedule(spec.settings), lab.space(spec))

    def sample(
        self, lab: Lab, specs: Sequence[RunSpec], recorder_of: Callable[[Sequence[RunSpec]], Recorder]
    ) -> list[Trajectory]:
        """Sample a batch with the edits, feeding a recorder.

        Args:
            lab: the pipeline.
            specs: the runs, as `specs` made them.
            recorder_of: from all rows of the batch to what records them; rows after the runs are there to be read by
                edits.
        """
        wired, worlds = with_worlds(self.graph, [dataclasses.replace(spec, edits="") for spec in specs])
        plan = prepare(lab.pipe, worlds)
        plan = dataclasses.replace(plan, schedule=self.schedule(lab, worlds[0]))
        steps = range(plan.schedule.steps)
        space = dataclasses.replace(lab.space(worlds[: len(specs)]), experts=plan.schedule.experts)
        program = bind(wired, space, len(worlds), len(specs), steps)
        editor = Editor(program, tuple(spec.seed for spec in worlds), Clock(), None)
        recorder = recorder_of(worlds)
        taken = drive(lab.pipe, plan, editor, recorder, None, steps.stop)
        editor.receipt()
        return [result.trajectory for result in results_of(lab, plan, len(specs), taken)]


def _between_worlds(edit: Edit) -> bool:
    """Whether an edit reads or changes some rows of a batch only, or tells them apart."""
    several = any(
        isinstance(source, World)
        or (isinstance(source, Stored) and any(len(kept.values.tensor) > 1 for kept in source.activations))
        for source in edit.sources
    )
    return several or edit.op.mixes or edit.rows is not None
