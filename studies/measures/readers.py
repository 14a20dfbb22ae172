"""Probes fitted on undisturbed runs, to be asked again of disturbed ones: each reads problems it was not fitted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from interp.edits import EditedRun
from probes import LogisticProbe
from studies.measures.cells import FOLDS, STRENGTHS
from studies.measures.probed import hidden_sites, tokens_of
from studies.measures.questions import Question
from studies.runs.bench import Bench
from studies.runs.clean import CleanRuns

RIGHT, START = "right", "start"


@dataclass(frozen=True)
class Readers:
    """Probes of one question for some layers and steps.

    Attributes:
        runs: undisturbed.
        question: asked of the same runs.
        sites: hook point by layer.
        fold: of each run; no problem lies in two: [run].
        probes: by layer, step and the fold that was left out.
    """

    runs: CleanRuns
    question: Question
    sites: Mapping[int, str]
    fold: np.ndarray
    probes: Mapping[tuple[int, int, int], LogisticProbe]

    @staticmethod
    def fit(
        runs: CleanRuns, question: Question, sites: Mapping[int, str], steps: Sequence[int], seed: int = 0
    ) -> Readers:
        """Fit the probes.

        Args:
            runs: of `studies.measures.probed.states`.
            question: what they are to read.
            sites: hook points by layer.
            steps: at which they are to read.
            seed: of the folds.

        Raises:
            TaskError: there are no tokens to ask.
        """
        samples, keys = [spec.sample for spec in runs.specs], [spec.key for spec in runs.specs]
        rows = question.rows(samples, seed)
        problems = np.array([sample.key for sample in samples])
        names = np.random.default_rng(seed).permutation(np.unique(rows.maze))
        parts = np.array_split(names, min(FOLDS, len(names)))
        fold = np.full(len(problems), -1)
        for number, part in enumerate(parts):
            fold[np.isin(problems, part)] = number
        probes = {}
        for layer, site in sites.items():
            for step in steps:
                values = runs.store.read(site, step=step, runs=keys, tokens=tokens_of(question.frame))
                features = rows.take(values)
                for number in range(len(parts)):
                    train = fold[rows.run] != number
                    probe = LogisticProbe(C=STRENGTHS[-1], class_weight="balanced", tol=1e-4)
                    probes[layer, step, number] = probe.fit(features[train], rows.label[train])
        return Readers(runs, question, sites, fold, probes)

    def score(self, run: int, layer: int, step: int, hidden: np.ndarray | None = None) -> float | None:
        """Balanced accuracy over the tokens of one run; None if there are not two classes of them.

        Args:
            run: its number among the undisturbed runs.
            layer, step: where it was read.
            hidden: what was read, [token of the frame, feature]; the undisturbed run's own if None.
        """
        labels = self.question.labels[run]
        if not ((labels == 1).any() and (labels == 0).any()):
            return None
        if hidden is None:
            key, tokens = self.runs.specs[run].key, tokens_of(self.question.frame)
            hidden = np.asarray(self.runs.store.read(self.sites[layer], step=step, runs=[key], tokens=tokens))[0]
        said = self.probes[layer, step, int(self.fold[run])].predict(hidden)
        return float(np.mean([(said[labels == kind] == kind).mean() for kind in (0, 1)]))


class Reading:
    """Reads the answer and the start state of a run, with edits or without.

    Args:
        bench: of the study.
        clean: undisturbed runs, those that are read among them.
        question: where the start state is asked for.
        steps, layers: where it is read.
    """

    def __init__(
        self, bench: Bench, clean: CleanRuns, question: Question, steps: Sequence[int], layers: Sequence[int]
    ) -> None:
        self.bench, self.steps = bench, steps
        sites = hidden_sites(clean)
        self.number = {spec.key: k for k, spec in enumerate(clean.specs)}
        self.readers = Readers.fit(clean, question, {layer: sites[layer] for layer in layers}, steps, bench.given.seed)

    def read(self, run: EditedRun) -> dict[str, Any]:
        """``right``, and ``start LAYER STEP`` at every step from the first edited one on; null before it."""
        number, found = self.number[run.spec.key], {}
        for layer, site in self.readers.sites.items():
            captured = run.captured[site] if run.edits.edits else None
            first = 0 if captured is None else run.trajectory.schedule.steps - len(captured)
            for step in self.steps:
                hidden = captured[step - first, 0].numpy() if captured is not None and step >= first else None
                score = self.readers.score(number, layer, step, hidden) if step >= first else None
                found[start_of(layer, step)] = score
        return {RIGHT: int(self.bench.task.score(run.spec.sample, run.frames).solved), **found}


def start_of(layer: int, at: int | tuple[int, int]) -> str:
    return f"{START} {layer} {at}"
