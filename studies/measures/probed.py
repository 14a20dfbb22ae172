"""A question put to the hidden states of every step and layer, and to what the network was given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from interp import Selection, select
from interp.grid import TokenGrid
from interp.runspec import RunSpec
from probes import GridResult, fit_grid
from studies.base.claim import Estimate
from studies.base.columns import INTERVAL
from studies.measures.cells import BASELINES, FOLDS, STRENGTHS
from studies.measures.questions import Question, first_frame_seen
from studies.measures.targets import Rows
from studies.runs.bench import Bench
from studies.runs.clean import CleanRuns

HIDDEN, FIRST = "hidden", "first_frame"
HOOK = "hook_resid_post"
COLUMNS = {
    "question": "what tokens were asked",
    "frame": "latent frame of the tokens",
    "source": "hidden: the residual stream after a block; x0_hat, x_t: the same tokens of the clean estimate and of "
    "the noisy latents of the step; first_frame: the picture that was given, around the token",
    "layer": "block after which it was read; null for the others",
    "step": "denoising step, from 0; null for the first frame",
    "sigma": "noise level of the step",
    "score": "balanced accuracy, out of fold; no problem on both sides of a split",
    **INTERVAL,
    "chance": "mean score of the same probe on shuffled labels",
    "chance_high": "97.5 % bound of that",
    "n": "rows: tokens asked",
    "problems": "different problems",
}
_SCHEMA: dict[str, Any] = {
    **dict.fromkeys(COLUMNS, pl.Float64),
    **dict.fromkeys(("question", "source"), pl.String),
    **dict.fromkeys(("frame", "layer", "step", "n", "problems"), pl.Int64),
}


@dataclass(frozen=True)
class Probed:
    """Probes for one question.

    Attributes:
        question: what was asked.
        hidden: step x layer, with the first frame as a baseline if the runs were given one.
        given: the same by source, "x0_hat" and "x_t", with layer 0 only.
    """

    question: Question
    hidden: GridResult
    given: Mapping[str, GridResult]

    @property
    def table(self) -> pl.DataFrame:
        """One row a probe; columns as in `COLUMNS`."""
        rows = []
        for source, grid in {HIDDEN: self.hidden, **self.given}.items():
            for row in grid.table.rename({"groups": "problems"}).to_dicts():
                rows.append({**row, "source": source, "layer": row["layer"] if source == HIDDEN else None})
        if len(self.hidden.baselines):
            about = {name: rows[0][name] for name in ("n", "problems")}
            rows.append({**self.hidden.baselines.row(0, named=True), **about, "source": FIRST, "step": None})
        asked = {"question": self.question.name, "frame": self.question.frame}
        return pl.DataFrame([{name: (asked | row).get(name) for name in COLUMNS} for row in rows], schema=_SCHEMA)

    def curve(self, source: str = HIDDEN, layer: int = 0) -> pl.DataFrame:
        """Rows of `GridResult.table` of one layer, by step."""
        return (self.hidden if source == HIDDEN else self.given[source]).table.filter(layer=layer).sort("step")

    def gain(self, source: str, layer: int) -> Estimate:
        """Score of the hidden states after a block minus that of another source, mean over steps, with its interval.

        Both are resampled over the same problems.
        """
        grids = [(self.hidden, layer), (self.given[source], 0)]
        cells = [[grid.cell(step, at) for step in grid.steps] for grid, at in grids]
        points, drawn = [], []
        for (grid, _), of in zip(grids, cells, strict=True):
            points.append(grid.table["score"].to_numpy()[of].mean())
            drawn.append(grid.resamples()[:, of].mean(1))
        low, high = np.percentile(drawn[0] - drawn[1], [2.5, 97.5])
        return Estimate(float(points[0] - points[1]), float(low), float(high), self.hidden.sums.shape[1])


def states(bench: Bench, specs: Sequence[RunSpec], frames: Sequence[int], steps: Sequence[int]) -> CleanRuns:
    """Runs without edits whose store also holds the residual stream of some latent frames; of these steps only."""
    store = bench.store("states", specs, kept(frames, steps), dtype="bfloat16")
    return CleanRuns(bench.lab, bench.task, store, tuple(specs))


def kept(frames: Sequence[int], steps: Sequence[int]) -> Selection:
    """What the store of `states` keeps."""
    what = select(f"blocks.*.{HOOK}", branch="cond", frames=sorted(set(frames)), step=list(steps))
    for site in BASELINES.values():
        what = what | select(site, step=list(steps))
    return what


def hidden_sites(runs: CleanRuns) -> list[str]:
    """The residual stream of the store, by layer."""
    found = [s for s in runs.store.sites if s.startswith("blocks.") and s.endswith(HOOK)]
    return sorted(found, key=lambda site: int(site.split(".")[1]))


def tokens_of(frame: int) -> Callable[[TokenGrid], range]:
    """Which tokens of the whole grid a latent frame has."""

    def chosen(grid: TokenGrid) -> range:
        return range(frame * grid.rows * grid.cols, (frame + 1) * grid.rows * grid.cols)

    return chosen


def probe(
    runs: CleanRuns, question: Question, steps: Sequence[int], *, shuffles: int, max_rows: int, seed: int = 0
) -> Probed:
    """Fit the probes of one question.

    Args:
        runs: of `states`.
        question: asked of the same runs.
        steps: of the hidden states.
        shuffles: label shuffles behind a chance level.
        max_rows: tokens a probe is fitted on, at most.
        seed: of folds, shuffles and which tokens are taken.

    Raises:
        TaskError: there are no tokens to ask.
    """
    samples, keys = [spec.sample for spec in runs.specs], [spec.key for spec in runs.specs]
    rows = question.rows(samples, seed)
    grid, sites = runs.lab.grid(samples[0]), hidden_sites(runs)
    tokens, problems = tokens_of(question.frame), np.unique(rows.maze, return_inverse=True)[1]
    schedule = runs.store.schedule(keys[:1])
    sigmas = dict(zip(schedule["step"].to_list(), schedule["sigma"].to_list(), strict=True))

    def at(site: str, step: int) -> Callable[[], np.ndarray]:
        return lambda: rows.take(runs.store.read(site, step=step, runs=keys, tokens=tokens))

    def fitted(cells: Mapping[tuple[int, int], Any], name: str, baselines: Mapping[str, Any]) -> GridResult:
        return fit_grid(
            cells,
            rows.label,
            groups=problems,
            sigmas=sigmas,
            folds=min(FOLDS, int(problems.max()) + 1),
            path=STRENGTHS,
            shuffles=shuffles,
            max_rows=max_rows,
            baselines=baselines,
            seed=seed,
            progress=_bar(f"probes, {question.name} in {name}"),
        )

    given = {name: fitted({(step, 0): at(site, step) for step in steps}, name, {}) for name, site in BASELINES.items()}
    seen = {FIRST: _seen(rows, runs, grid)} if all(sample.image is not None for sample in samples) else {}
    cells = {(step, layer): at(site, step) for step in steps for layer, site in enumerate(sites)}
    return Probed(question, fitted(cells, HIDDEN, seen), given)


def _seen(rows: Rows, runs: CleanRuns, grid: TokenGrid) -> np.ndarray:
    """The first frame as each row's token sees it: [row, feature]."""
    features = []
    for run in np.unique(rows.run):
        image = runs.specs[run].sample.image
        assert image is not None
        features.append(first_frame_seen(image, grid, rows.token[rows.run == run]))
    return np.concatenate(features)


def _bar(name: str) -> Callable[[Iterable[Any]], Iterable[Any]]:
    from tqdm.auto import tqdm

    return lambda keys: tqdm(list(keys), desc=name, unit="cell")
