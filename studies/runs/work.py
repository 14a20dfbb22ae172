"""The work of a study, counted before it is run: forwards, bytes kept and videos decoded.

A study says what it will do in the verbs that it does it with: `Terms.clean` and `Terms.stored` for runs that go to a
store, `Terms.measured` for conditions over the same runs. Nothing is run; what is counted is what `Bench` (`bench.py`)
and `measure` (`conditions.py`) would ask of the model in a fresh folder. A test holds both together.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from interp.edits import EditGraph
from interp.grid import TokenGrid
from interp.runspec import SamplerSettings
from interp.selection import AddressSpace, select
from interp.views import ViewPlan, views_of
from studies.base.blueprint import Blueprint
from studies.base.sampling import settings_of
from studies.base.tasks import fitted, task_of
from studies.runs.clean import CLEAN_SITES


@dataclass(frozen=True)
class Forward:
    """One call of a transformer: which expert, on how many rows of how many tokens."""

    expert: str
    rows: int
    tokens: int


@dataclass(frozen=True)
class Work:
    """What a study asks of a model.

    Attributes:
        forwards: how many of each kind.
        nbytes: of activations written to stores.
        videos: how many decoded, by token grid.
    """

    forwards: Counter[Forward] = field(default_factory=Counter)
    nbytes: int = 0
    videos: Counter[TokenGrid] = field(default_factory=Counter)

    def __add__(self, other: Work) -> Work:
        return Work(self.forwards + other.forwards, self.nbytes + other.nbytes, self.videos + other.videos)

    def times(self, count: int) -> Work:
        """The same so many times."""
        forwards = Counter({one: n * count for one, n in self.forwards.items()})
        return Work(forwards, self.nbytes * count, Counter({grid: n * count for grid, n in self.videos.items()}))

    @property
    def calls(self) -> int:
        """Calls of a transformer."""
        return self.forwards.total()

    @property
    def row_forwards(self) -> int:
        """Forwards of one row: what the time depends on, however rows are put into batches."""
        return sum(one.rows * count for one, count in self.forwards.items())


@dataclass(frozen=True)
class Terms:
    """What the work of a study depends on.

    Attributes:
        given: the command line.
        model: see `studies.base.blueprint`.
        video: frames, height and width in pixels of the task's videos.
    """

    given: argparse.Namespace
    model: Blueprint
    video: tuple[int, int, int]

    @staticmethod
    def of(given: argparse.Namespace, video: tuple[int, int, int] | None = None) -> Terms:
        """The terms of a command line.

        Args:
            given: the command line.
            video: see `Terms`; of the task's first problem if None.

        Raises:
            ModelError, TaskError: there is no such model or task.
        """
        if video is None:
            task = task_of(given)
            given, sample = fitted(given, task), task.sample(1)[0]
            video = (sample.num_frames, sample.height, sample.width)
        return Terms(given, Blueprint.named(given.model), video)

    def with_video(self, frames: int) -> Terms:
        """The same with another number of frames."""
        return replace(self, video=(frames, *self.video[1:]))

    @property
    def runs(self) -> int:
        """Runs that the command line asks for: every problem with every seed."""
        return int(self.given.problems * self.given.seeds)

    @property
    def layers(self) -> int:
        """Blocks of a transformer."""
        return self.model.layers

    @property
    def steps(self) -> int:
        """Denoising steps of a run."""
        return self.settings().steps

    @cached_property
    def grid(self) -> TokenGrid:
        """The token grid of a video."""
        return self.model.grid(*self.video)

    def settings(self, **other: Any) -> SamplerSettings:
        """How runs are sampled; see `studies.base.sampling.settings_of`."""
        return SamplerSettings(**settings_of(self.given, **other))

    def space(self, **other: Any) -> AddressSpace:
        """Every address of a run."""
        settings = self.settings(**other)
        schedule = self.model.schedule(settings)
        return AddressSpace.of_model(
            self.model.config, self.grid, sigmas=schedule.sigmas[: schedule.steps], experts=schedule.experts,
            branches=settings.branches, text_tokens=settings.max_sequence_length,
            per_token_time=self.model.per_token_time,
        )  # fmt: skip

    def clean(self, runs: int | None = None, *, read: int = 0, **settings: Any) -> Work:
        """What ``bench.clean`` costs.

        Args:
            runs: how many; those of the command line if None.
            read: at how many steps x0_hat is decoded.
            settings: sampler settings in place of the command line's.
        """
        return self.stored(CLEAN_SITES, runs, read=read, **settings)

    def stored(
        self,
        what: Any,
        runs: int | None = None,
        *,
        dtype: str = "float32",
        views: Any = None,
        labels: bool = False,
        read: int = 0,
        **settings: Any,
    ) -> Work:
        """What ``bench.store`` costs: every step of every run, and the bytes of what is kept.

        Args:
            what, dtype, views, labels: as ``bench.store`` takes them.
            runs, read, settings: see `clean`.
        """
        count = self.runs if runs is None else runs
        space = self.space(**settings)
        kept = ViewPlan.of(select(what).resolve(space), views_of(views), dtype)
        return self.sampled(runs, read=read + labels, **settings) + Work(nbytes=kept.nbytes * count)

    def measured(
        self,
        firsts: Iterable[int | EditGraph],
        runs: int | None = None,
        *,
        group: int = 1,
        early: bool = False,
        read: int = 1,
        **settings: Any,
    ) -> Work:
        """What `measure` of `conditions.py` costs: the clean runs once, and every condition from its first step on.

        Args:
            firsts: of each condition the first step that it edits, or its edits; equal edits are run once.
            runs, settings: see `clean`.
            group, early: as `studies.runs.conditions.measure` takes them.
            read: videos that reading one run decodes.
        """
        count = self.runs if runs is None else runs
        space = self.space(**settings)
        asked = list(firsts)
        different = {first.key: first for first in asked if isinstance(first, EditGraph)}  # one ledger entry each
        begin = [first for first in asked if isinstance(first, int)]
        begin += [first_step(graph, space) for graph in different.values()]
        found = Work(videos=Counter({self.grid: count * (len(begin) + 1) * read}))
        for rows in _batches(count, max(1, self.given.batch_size // group) * group):
            found += self._steps(space, rows, range(space.steps))
            for first in begin:
                found += self._steps(space, rows, range(first, first + 1 if early else space.steps))
        return found

    def sampled(self, runs: int | None = None, *, stop: int | None = None, read: int = 0, **settings: Any) -> Work:
        """Runs in batches, up to a step.

        Args:
            runs, settings: see `clean`.
            stop: the step before which they end.
            read: videos decoded of one run.
        """
        count = self.runs if runs is None else runs
        space = self.space(**settings)
        found = Work(videos=Counter({self.grid: count * read}))
        for rows in _batches(count, self.given.batch_size):
            found += self._steps(space, rows, range(space.steps if stop is None else stop))
        return found

    def rows(self, steps: Iterable[int], count: int = 1, *, read: int = 0) -> Work:
        """Some steps of so many runs, one row at a time; each decoded so many times."""
        return self._steps(self.space(), 1, list(steps)).times(count) + Work(videos=Counter({self.grid: count * read}))

    def _steps(self, space: AddressSpace, rows: int, steps: Sequence[int]) -> Work:
        calls: Counter[Forward] = Counter()
        for step in steps:
            calls[Forward(space.experts[step], rows, self.grid.tokens)] += len(space.branches)
        return Work(calls)


def first_step(graph: EditGraph, space: AddressSpace) -> int:
    """The first step that a graph edits."""
    return min(edit.selection.resolve(space).steps[0] for edit in graph)


def _batches(count: int, size: int) -> Iterator[int]:
    """Sizes of the batches of so many runs."""
    for first in range(0, count, size):
        yield min(size, count - first)
