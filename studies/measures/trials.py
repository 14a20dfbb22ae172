"""Swaps of one run's values for another's: what, where, when, from whom; cells are measured by sweeps of replays.

Pairs go both ways: the first problem's run takes values of the second's, and the other way round, with the same noise.
A source run is kept at a few layers at a time, so memory does not grow with the model's depth.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from interp import AddressSpace, RunSpec, Sample, select
from interp.edits import Edit, patch, random_change, run_with
from interp.edits.run import EditedRun
from interp.replay import Recording, record
from interp.sweep import sweep
from studies.base.claim import Estimate
from studies.base.ledger import key_of
from studies.measures.masks import disputed, elsewhere, tokens_of
from studies.runs.bench import Bench
from studies.runs.pairs import DECIDED, Between

OPS = {
    "resid": ("blocks.*.hook_resid_post",),
    "update": ("blocks.*.hook_attn_update", "blocks.*.hook_cross_attn_out", "blocks.*.hook_mlp_update"),
    "attn": ("blocks.*.hook_attn_update",),
    "cross_attn": ("blocks.*.hook_cross_attn_out",),
    "mlp": ("blocks.*.hook_mlp_update",),
}
TOKENS = ("all", "object", "random")
SOURCES = ("other", "third", "noise", "self")
DIRECTIONS = ("first from second", "second from first")
KEPT_BYTES = 1e9  # of source activations at once


@dataclass(frozen=True)
class Trial:
    """One way of swapping, over some steps and layers.

    Attributes:
        steps, layers: the cells.
        op: one of `OPS`.
        tokens: "all"; "object": tokens that tell the two answers apart; "random": as many others.
        branch: "both", "cond" or "uncond" passes.
        source: "other" problem of the pair; "third" problem; "noise": as far as the other's values, in a random
            direction; "self".
        read: "early" reads x0_hat of the step itself, "final" the finished video.
        until: every step up to the cell's is swapped, not that step alone.
    """

    steps: tuple[int, ...]
    layers: tuple[int, ...]
    op: str = "resid"
    tokens: str = "all"
    branch: str = "both"
    source: str = "other"
    read: str = "early"
    until: bool = False

    @property
    def facts(self) -> dict[str, Any]:
        """Columns of the table."""
        names = ("op", "tokens", "branch", "source", "read", "until")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Swaps:
    """Everything measured; a place is -1 for the run's own answer and 1 for that of the other problem.

    Attributes:
        cells: facts of each cell: those of its trial, step and layer.
        problems: of each swapped run [run].
        directions: of each swapped run [run].
        value: place of the swapped run [run, cell].
        clean: of the undisturbed run, read at the same step [run, cell].
        target: of the undisturbed run of the other problem [run, cell].
    """

    cells: list[dict[str, Any]]
    problems: np.ndarray
    directions: np.ndarray
    value: np.ndarray
    clean: np.ndarray
    target: np.ndarray

    @cached_property
    def share(self) -> np.ndarray:
        """How far the swap goes, 0 nowhere, 1 to the other run; NaN where the two are less than half of it apart."""
        way = self.target - self.clean
        return np.where(way >= 2 * DECIDED, (self.value - self.clean) / np.where(way == 0, 1, way), np.nan)

    @cached_property
    def flip(self) -> np.ndarray:
        """Whether the answer became the other one, 0 or 1; NaN where an undisturbed run does not show its own."""
        answered = (self.clean < -DECIDED) & (self.target > DECIDED)
        return np.where(answered, (self.value > DECIDED).astype(float), np.nan)

    def where(self, **facts: Any) -> list[int]:
        """Numbers of the cells with these facts; a list means any of its values."""
        wanted = {k: v if isinstance(v, list) else [v] for k, v in facts.items()}
        return [i for i, cell in enumerate(self.cells) if all(cell[k] in v for k, v in wanted.items())]

    def mean(
        self, measure: str, cells: Sequence[int], less: Sequence[int] = (), direction: str | None = None
    ) -> Estimate:
        """Mean of "share" or "flip" over cells, less the mean over other cells of the same runs."""
        values: np.ndarray = getattr(self, measure)
        chosen = np.full(len(values), True) if direction is None else self.directions == direction
        found = _row_mean(values[:, list(cells)])
        ends = (0.0, 1.0)
        if less:
            found, ends = found - _row_mean(values[:, list(less)]), (-1.0, 1.0)
        return Estimate.of(found[chosen], self.problems[chosen], ends)


def _row_mean(values: np.ndarray) -> np.ndarray:
    """Mean of each row over what is finite; NaN where nothing is."""
    known = np.isfinite(values)
    return np.where(known, values, 0).sum(1) / np.where(known.any(1), known.sum(1), np.nan)


def measure_swaps(bench: Bench, pairs: Sequence[tuple[Sample, Sample]], trials: Sequence[Trial]) -> Swaps:
    """Run every trial over all pairs but the last, whose first problem is the last one's third.

    Args:
        bench: of the study; what was measured is in its ledger.
        pairs: see `studies.runs.pairs.draw_pairs`.
        trials: what is tried; those with most layers first.
    """
    from tqdm.auto import tqdm

    specs = bench.specs([one for one, _ in pairs[:-1]])
    after = {one.key: (other, third) for (one, other), (third, _) in itertools.pairwise(pairs)}
    found: list[tuple[str, str, list[float], list[float]]] = []
    with tqdm(total=2 * len(specs) * len(trials), desc=bench.folder.study, unit="sweep") as bar:
        for spec in specs:
            scene = _Scene(bench, (spec, *(replace(spec, sample=sample) for sample in after[spec.sample.key])), trials)
            for direction, mine in zip(DIRECTIONS, (0, 1), strict=True):
                rows = []
                for trial in trials:
                    rows.append(scene.measured(trial, mine))
                    bar.update()
                value, clean = ([x for row in rows for x in row[name]] for name in ("value", "clean"))
                found.append((spec.sample.key, direction, value, clean))
    undisturbed = np.array([row[3] for row in found], dtype=float)
    opposite = np.arange(len(found)) ^ 1  # directions alternate
    return Swaps(
        cells=[
            {**trial.facts, "step": step, "layer": layer}
            for trial in trials
            for step, layer in itertools.product(trial.steps, trial.layers)
        ],
        problems=np.array([row[0] for row in found]),
        directions=np.array([row[1] for row in found]),
        value=np.array([row[2] for row in found], dtype=float),
        clean=undisturbed,
        target=-undisturbed[opposite],
    )


class _Scene:
    """Runs of a pair and of a third problem with one noise. Nothing is run before something is missing in the ledger.

    Args:
        bench: of the study.
        specs: of the first problem, the second, the third.
        trials: all that will be asked for.
    """

    def __init__(self, bench: Bench, specs: tuple[RunSpec, ...], trials: Sequence[Trial]) -> None:
        self.bench, self.specs = bench, specs
        self.space: AddressSpace = bench.lab.space(specs[0])
        self.last = max(step for trial in trials for step in trial.steps)
        until = any(trial.until for trial in trials)
        self.steps = range(self.last + 1) if until else sorted({step for trial in trials for step in trial.steps})
        self.sites = list(dict.fromkeys(site for trial in trials for site in OPS[trial.op]))
        self.recordings: dict[int, Recording] = {}
        self.kept: tuple[tuple[int, ...], list[EditedRun]] | None = None

    def measured(self, trial: Trial, mine: int) -> dict[str, list[float]]:
        """Places of a trial's cells, steps first, and those of the undisturbed run.

        Args:
            trial: what is swapped.
            mine: which run is changed, 0 or 1.
        """
        key = key_of(runs=[spec.key for spec in self.specs], mine=mine, trial=repr(trial))
        if key not in self.bench.ledger:
            self.bench.ledger.put(key, self._measure(trial, mine))
        found: dict[str, list[float]] = self.bench.ledger[key]
        return {name: [float("nan") if x is None else x for x in row] for name, row in found.items()}

    def _measure(self, trial: Trial, mine: int) -> dict[str, list[float | None]]:
        lab, early = self.bench.lab, trial.read == "early"
        between = Between.of(self.bench.task, self.specs[mine].sample, self.specs[1 - mine].sample)
        steps = [f"0:{step + 1}" for step in trial.steps] if trial.until else list(trial.steps)
        value = np.full((len(trial.steps), len(trial.layers)), np.nan)
        clean = np.full_like(value, np.nan)
        for layers in self._pieces(trial.layers):
            found = sweep(
                lab,
                self._recording(mine),
                self._edit(trial, mine, layers),
                {"step": steps, "layer": layers},
                lambda run: between(run.early_frames if early else run.frames),
                early=early,
            )
            at = [trial.layers.index(layer) for layer in layers]
            value[:, at], clean[:, at] = found.grid("value"), found.grid("clean")
        return {"value": _listed(value), "clean": _listed(clean)}

    def _edit(self, trial: Trial, mine: int, layers: tuple[int, ...]) -> Edit:
        axes: dict[str, Any] = {}
        if trial.branch != "both":
            axes["branch"] = trial.branch
        if trial.tokens != "all":
            axes["tokens"] = self._tokens(trial.tokens)
        run = {"other": 1 - mine, "noise": 1 - mine, "third": 2, "self": mine}[trial.source]
        change = random_change if trial.source == "noise" else patch
        return change(list(OPS[trial.op]), self._sources(layers)[run], **axes)

    def _tokens(self, name: str) -> list[int]:
        one, other = self.specs[0].sample, self.specs[1].sample
        grid = self.bench.lab.grid(one)
        mask = disputed(self.bench.task, one, other, grid)
        return tokens_of(elsewhere(mask, seed=int(one.key[:8], 16)) if name == "random" else mask, grid)

    def _recording(self, mine: int) -> Recording:
        """The undisturbed run; if they fit, with the residual streams that cells start from."""
        if mine not in self.recordings:
            layers = range(1, len(self.bench.lab.pipe.transformer.blocks) + 1)
            whole = set(itertools.product(self.steps, layers))
            fits = len(whole) * self._bytes("blocks.0.hook_resid_post") <= KEPT_BYTES
            self.recordings[mine] = record(self.bench.lab, self.specs[mine], whole if fits else ())
        return self.recordings[mine]

    def _sources(self, layers: tuple[int, ...]) -> list[EditedRun]:
        """The three runs, kept at some layers, the last ones asked for."""
        if self.kept is None or not set(layers) <= set(self.kept[0]):
            chosen = select(self.sites, layer=list(layers), step=list(self.steps))
            lab, last = self.bench.lab, max(self.steps)
            self.kept = layers, run_with(lab, self.specs, (), chosen, stop=last + 1, dtype=self._dtype)
        return self.kept[1]

    def _pieces(self, layers: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        """Layers in pieces whose source activations may be kept at once."""
        layer = len(self.specs) * len(self.steps) * sum(self._bytes(site.replace("*", "0")) for site in self.sites)
        size = max(1, int(KEPT_BYTES // layer))
        for first in range(0, len(layers), size):
            yield layers[first : first + size]

    def _bytes(self, site: str) -> int:
        """Of a site at one step, all passes."""
        size = 4 if self._dtype == "float32" else 2
        return int(np.prod(self.space.widths[site])) * size * len(self.specs[0].settings.branches)

    @property
    def _dtype(self) -> str:
        return str(self.bench.lab.pipe.transformer.dtype).removeprefix("torch.")


def _listed(values: np.ndarray) -> list[float | None]:
    """JSON-ready, steps first."""
    return [float(x) if np.isfinite(x) else None for x in values.reshape(-1)]
