"""Where an edit's values come from: constants, stored activations, another world of the batch, another run, a store.

A source is a frozen value. What it needs from outside (a store to be read, a run to be sampled) is fetched once, before
the run, for the addresses that the edit fires at.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.edits.values import Values
from interp.errors import InterpError, SelectionError
from interp.runspec import RunSpec
from interp.selection import Part, Resolution
from interp.tasks.sample import Sample


@dataclass(frozen=True)
class Constant:
    """A number, a direction or a whole tensor, broadcast over the site's axes from the right."""

    values: Values

    def __str__(self) -> str:
        return repr(self.values)


@dataclass(frozen=True)
class World:
    """Another row of the same batch, at the same address."""

    index: int

    def __str__(self) -> str:
        return f"world {self.index}"


@dataclass(frozen=True)
class Activation:
    """What was kept of one site.

    Attributes:
        site: concrete hook point.
        steps, branches: what the first axes after the run are.
        tokens, heads: positions kept, None for all.
        values: [run, step, branch, <site axes>].
    """

    site: str
    steps: tuple[int, ...]
    branches: tuple[str, ...]
    tokens: tuple[int, ...] | None
    heads: tuple[int, ...] | None
    values: Values

    def read(self, step: int, branch: str, part: Part, axes: tuple[str, ...]) -> Tensor:
        """The part at one step and branch: [run, <part axes>].

        Raises:
            SelectionError: it was not kept.
        """
        if step not in self.steps or branch not in self.branches:
            raise SelectionError(
                f"the source has {self.site} at steps {list(self.steps)} and branches {list(self.branches)}, "
                f"not at step {step}, {branch}"
            )
        found = self.values.tensor[:, self.steps.index(step), self.branches.index(branch)]
        for axis, kept, wanted in (("token", self.tokens, part.tokens), ("head", self.heads, part.heads)):
            if axis in axes:
                found = _pick(found, 1 + axes.index(axis), kept, wanted, f"{axis}s of {self.site}")
        return found


@dataclass(frozen=True)
class Stored:
    """Activations kept earlier, of one run for all rows or of as many runs as rows are changed.

    Attributes:
        activations: one a site.
        step, branch: read this step or branch, whatever the step and branch of the edit; None reads the same.
        site: read this site, whatever the site of the edit; None reads the same.
    """

    activations: tuple[Activation, ...]
    step: int | None = None
    branch: str | None = None
    site: str | None = None

    @classmethod
    def of(cls, results: Any, **at: Any) -> Stored:
        """What was captured in one result of a run, or in several.

        Raises:
            InterpError: nothing was captured, or the results were captured differently.
        """
        many = list(results) if isinstance(results, list | tuple) else [results]
        if not many or not many[0].captured:
            raise InterpError("the source run captured nothing; run it with capture= set to what the edit reads")
        resolutions = [_resolution(result) for result in many]
        if any(list(r.addresses()) != list(resolutions[0].addresses()) for r in resolutions[1:]):
            raise InterpError("the source runs were captured with different selections")
        first = resolutions[0]
        return cls(
            tuple(
                Activation(
                    site,
                    first.steps_of(site),
                    first.branches_of(site),
                    first.tokens_of(site),
                    first.heads_of(site),
                    Values.of(torch.stack([result.captured[site] for result in many])),
                )
                for site in first.sites
            ),
            **at,
        )

    def at(self, site: str) -> Activation:
        """The activation of a site.

        Raises:
            SelectionError: the site was not kept.
        """
        wanted = self.site or site
        for activation in self.activations:
            if activation.site == wanted:
                return activation
        kept = ", ".join(a.site for a in self.activations[:4]) + (" …" if len(self.activations) > 4 else "")
        raise SelectionError(f"the source does not have {wanted}; it has {kept}")

    def mean(self) -> Stored:
        """The mean over its runs, for mean ablation."""
        means = (a.values.tensor.float().mean(0, keepdim=True) for a in self.activations)
        return Stored(
            tuple(
                Activation(a.site, a.steps, a.branches, a.tokens, a.heads, Values.of(mean))
                for a, mean in zip(self.activations, means, strict=True)
            ),
            self.step,
            self.branch,
            self.site,
        )

    def __str__(self) -> str:
        runs = self.activations[0].values.shape[0]
        digest = "".join(a.values.digest for a in self.activations)[:8]
        at = ", ".join(
            f"{k} {v}" for k, v in (("site", self.site), ("step", self.step), ("branch", self.branch)) if v is not None
        )
        return f"stored {digest} ({runs} run{'s' * (runs != 1)}{', read at ' + at if at else ''})"


@dataclass(frozen=True)
class OtherRun:
    """A run that joins the batch as another world: a spec, or a sample with the seed and settings of the edited run."""

    identity: str  # canonical JSON
    run: RunSpec | Sample | None = field(compare=False, repr=False, default=None)

    @classmethod
    def of(cls, run: RunSpec | Sample) -> OtherRun:
        """A source that samples ``run`` beside the edited one."""
        if isinstance(run, RunSpec):
            said = {"run": run.provenance()}
        else:
            said = {"sample": {"task": run.task, "key": run.key, "prompt": run.prompt, "meta": dict(run.meta)}}
        return cls(json.dumps(said, sort_keys=True), run)

    def __str__(self) -> str:
        said = json.loads(self.identity)
        if "sample" in said:
            return f"sample {said['sample']['key'] or '?'}"
        return f"run of {said['run']['sample']} seed {said['run']['seed']}"


@dataclass(frozen=True)
class FromStore:
    """Runs of a store, read before the edited run starts. It is known by what they hold, not by where they lie.

    Attributes:
        path: folder of the store.
        runs: keys of the runs.
        mean: their mean in place of each.
        sums: checksum of each run's shard, which covers every byte of it; looked up where the source is made.

    Raises:
        SelectionError: the store has no such run.
        StoreError: there is no store.
    """

    path: str = field(compare=False)
    runs: tuple[str, ...]
    mean: bool = False
    sums: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.sums:
            store = self._store()
            object.__setattr__(self, "sums", tuple(store.line(run).xxh3 for run in self.runs))

    def _store(self) -> Any:
        from interp.store import Store

        store = Store.open(Path(self.path))
        missing = [run for run in self.runs if run not in store]
        if missing:
            raise SelectionError(f"the store {self.path} has no run {missing[0]!r}")
        return store

    def read(self, resolution: Resolution) -> Stored:
        """The activations that an edit's addresses need.

        Raises:
            SelectionError: a run is gone, or is not the one that the source was made from.
        """
        store = self._store()
        for run, seen in zip(self.runs, self.sums, strict=True):
            if store.line(run).xxh3 != seen:
                raise SelectionError(
                    f"run {run!r} of the store {self.path} is not what this source was made from: it was captured "
                    "again since; make the edit anew, or give the store that it was made from"
                )
        activations = []
        for site in resolution.sites:
            steps, branches = resolution.steps_of(site), resolution.branches_of(site)
            kept = resolution.tokens_of(site)
            read = [
                [torch.as_tensor(np.asarray(self._one(store, site, step, branch, kept))) for branch in branches]
                for step in steps
            ]
            values = torch.stack([torch.stack(row, dim=1) for row in read], dim=1)
            activations.append(Activation(site, steps, branches, kept, None, Values.of(values)))
        found = Stored(tuple(activations))
        return found.mean() if self.mean else found

    def _one(self, store: Any, site: str, step: int, branch: str, tokens: tuple[int, ...] | None) -> Any:
        return store.read(site, step=step, branch=branch, runs=list(self.runs), tokens=tokens)

    def __str__(self) -> str:
        return f"{'mean of ' * self.mean}{len(self.runs)} run{'s' * (len(self.runs) != 1)} of {self.path}"


Source = Constant | World | Stored | OtherRun | FromStore


def source_of(said: Any) -> Source:
    """A source from what a user says: a source, a result (or several), a run, a sample, a world's number, numbers.

    Raises:
        InterpError: anything else.
    """
    if isinstance(said, Source):
        return said
    if isinstance(said, bool) or said is None:
        raise InterpError(
            f"source={said!r}: give a run, a sample, a result with captures, a world's number, or a tensor"
        )
    if isinstance(said, int):
        return World(said)
    if isinstance(said, RunSpec | Sample):
        return OtherRun.of(said)
    if hasattr(said, "captured") or (isinstance(said, list | tuple) and said and hasattr(said[0], "captured")):
        return Stored.of(said)
    return Constant(Values.of(said))


def _resolution(result: Any) -> Resolution:
    found = getattr(result, "resolution", None)
    if found is None:
        raise InterpError(
            "this result does not say which addresses it captured; run the source with "
            "edits.run_with(lab, run, (), capture=...), or give the run itself as the source"
        )
    return found


def _pick(
    found: Tensor, dimension: int, kept: tuple[int, ...] | None, wanted: tuple[int, ...] | None, what: str
) -> Tensor:
    """The wanted positions of an axis of which some were kept."""
    if kept is None:
        return found if wanted is None else found.index_select(dimension, torch.tensor(wanted))
    if wanted is None or not set(wanted) <= set(kept):
        raise SelectionError(f"the edit reads {what} that the source did not keep; it kept {len(kept)}")
    if wanted == kept:
        return found
    place = {position: i for i, position in enumerate(kept)}
    return found.index_select(dimension, torch.tensor([place[w] for w in wanted]))
