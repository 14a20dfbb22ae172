"""What a study works with: the model, the task, the problems, a folder, and stores of runs that studies share."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

import interp
from interp import Lab, RunSpec, Sample, Store
from studies.base.folder import StudyFolder
from studies.base.ledger import Ledger, key_of
from studies.base.sampling import settings_of
from studies.base.tasks import fitted, task_of
from studies.runs.clean import CLEAN_SITES, CleanRuns


@dataclass(frozen=True)
class Bench:
    """Everything a study needs.

    Attributes:
        folder: where it writes.
        given: the command line, see `studies.frame.study.common_options`.
        lab: the model.
        task: makes problems and scores videos.
        cache: folder of stores that other studies may have filled.
        ledger: what this study has measured so far.
    """

    folder: StudyFolder
    given: argparse.Namespace
    lab: Lab
    task: Any
    cache: Path
    ledger: Ledger

    @staticmethod
    def open(folder: StudyFolder, given: argparse.Namespace) -> Bench:
        """Load what the command line asks for.

        Raises:
            ModelError, TaskError: there is no such model or task.
        """
        lab = lab_of(given.model, given.dtype, given.device)
        task = task_of(given)
        cache = Path(given.cache) if given.cache else folder / "cache"
        return Bench(folder, fitted(given, task), lab, task, cache, Ledger(folder / "measured.jsonl"))

    def samples(self, n: int | None = None, **kind: Any) -> list[Sample]:
        """Problems, as many as asked for on the command line if ``n`` is None; ``kind`` goes to the task."""
        return list(self.given_to_model(self.task.sample(n or self.given.problems, seed=self.given.seed, **kind)))

    def given_to_model(self, samples: Iterable[Sample]) -> tuple[Sample, ...]:
        """Samples as this model takes them: one that is not given a first frame gets the prompt alone."""
        sees = hasattr(self.lab.pipe, "image_encoder")
        return tuple(sample if sees else dataclasses.replace(sample, image=None) for sample in samples)

    def specs(self, samples: Sequence[Sample], seeds: int | None = None, **settings: Any) -> list[RunSpec]:
        """Runs of problems, problem by problem. Every run has noise of its own; the noise of run s of problem p does
        not depend on how many runs there are.

        Args:
            samples: problems.
            seeds: runs of each; the command line's if None.
            settings: sampler settings in place of the command line's.
        """
        given, chosen = self.given, settings_of(self.given, **settings)
        found: list[RunSpec] = []
        for number, sample in enumerate(samples):
            first = (given.seed * 10_000 + number) * 1000
            found += self.lab.plan(sample, seeds=range(first, first + (seeds or given.seeds)), **chosen)
        return found

    def clean(self, specs: Sequence[RunSpec]) -> CleanRuns:
        """Runs without edits, from the shared cache or sampled now: latents, velocity and x0_hat of every step."""
        return CleanRuns(self.lab, self.task, self.store("clean", specs, CLEAN_SITES), tuple(specs))

    def store(
        self,
        name: str,
        specs: Sequence[RunSpec],
        what: Any,
        dtype: str = "float32",
        views: Any = None,
        labels: bool = False,
    ) -> Store:
        """Capture runs of one kind to the shared cache; runs that are there already, from whichever study, stay.

        Args:
            name: of the store; what is kept, of which model and with which sampler settings, is added to it.
            specs: runs with the same settings.
            what: hook points, as ``lab.capture`` takes them.
            dtype, views, labels: see ``lab.capture``.
        """
        first = specs[0]
        kind = key_of(
            model=first.model_hash,
            settings=first.provenance()["settings"],
            scheduler=first.scheduler_config,
            what=str(interp.select(what)),
            dtype=dtype,
            views=str(views),
            labels=labels,
            share_text=True,
        )
        to = self.cache / f"{name}-{kind[:12]}"
        to.parent.mkdir(parents=True, exist_ok=True)
        keeping: dict[str, Any] = {"dtype": dtype, "views": views, "labels": labels}
        found: Store = self.lab.capture(
            specs, what, to=to, batch_size=self.given.batch_size, share_text=True, **keeping
        )
        return found

    def batches(self, items: Sequence[Any], size: int | None = None) -> Iterator[list[Any]]:
        """Consecutive pieces of at most ``size``, the command line's batch size if None."""
        step = size or self.given.batch_size
        for first in range(0, len(items), step):
            yield list(items[first : first + step])


@lru_cache(maxsize=2)
def lab_of(model: str, dtype: str | None, device: str | None) -> Lab:
    """The model, loaded once for studies that follow one another."""
    return open_lab(model, dtype, device)


def open_lab(model: str, dtype: str | None, device: str | None) -> Lab:
    """The model, loaded now. The VAE stays in fp32, which decodes truly."""
    options: dict[str, Any] = {}
    if dtype:
        options = {"torch_dtype": {"default": getattr(torch, dtype), "vae": torch.float32}}
    lab = interp.load(model, **options)
    if device:
        lab.pipe.to(device)
    return lab
