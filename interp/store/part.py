"""Some runs of one site that lie in one file: a shard holds one run, a site-major file many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from interp.store.codedextent import CodedExtent
from interp.store.extent import Extent
from interp.store.layout import RunLayout, SiteLayout

Stretch = tuple[int, int, int]
"""Things that follow one another in two places: number of the first here and there, and how many."""


@dataclass(frozen=True)
class Chosen:
    """Runs of a file that are wanted.

    Attributes:
        stretches: their numbers in the file, and their places in the result.
    """

    stretches: tuple[Stretch, ...]

    @staticmethod
    def of(pairs: Iterable[tuple[int, int]]) -> Chosen:
        """Of each run its number in the file and its place in the result."""
        return Chosen(tuple(joined((number, place, 1) for number, place in pairs)))

    def __len__(self) -> int:
        return sum(count for *_, count in self.stretches)

    @cached_property
    def numbers(self) -> np.ndarray:
        """Numbers in the file, int64 [run]."""
        return np.concatenate([np.arange(first, first + count) for first, _, count in self.stretches])

    @cached_property
    def places(self) -> np.ndarray:
        """Places in the result, int64 [run]."""
        return np.concatenate([np.arange(first, first + count) for _, first, count in self.stretches])


@dataclass(frozen=True)
class Part:
    """Runs of one site in one file.

    Attributes:
        name: how errors call them.
        run: layout of a run; all of a part have the same steps, branches and grid.
        site: layout of the site in a run.
        tokens: gives the kept tokens int64 [token], None for all.
        extent: the bytes; cells are ordered (step, branch, run).
        total: runs in the file.
        chosen: those that are wanted.
    """

    name: str
    run: RunLayout
    site: SiteLayout
    tokens: Callable[[], np.ndarray | None]
    extent: Extent | CodedExtent
    total: int
    chosen: Chosen

    @property
    def branches(self) -> tuple[str, ...]:
        """Names along the site's axis "branch"."""
        return self.run.branches_of(self.site)

    def cells(self, steps: Sequence[int], branch: int) -> np.ndarray:
        """Numbers of cells in the extent, int64 [step, run], for positions along steps and branches."""
        pairs = np.array(steps, np.int64) * self.site.shape[1] + branch
        return pairs[:, None] * self.total + self.chosen.numbers

    def stretches(self, steps: Sequence[int], branches: Sequence[int], runs: int | None) -> tuple[Stretch, ...]:
        """Cells in the extent, and where they go in a result of cells.

        Args:
            steps, branches: positions along these axes.
            runs: the result is [step, branch, run] of so many runs; None: [run, step, branch], of a file with one run.
        """
        pairs = [step * self.site.shape[1] + branch for step in steps for branch in branches]
        to_next_pair, to_next_run = (1, len(pairs)) if runs is None else (runs, 1)
        return tuple(
            joined(
                (pair * self.total + number, i * to_next_pair + place * to_next_run, count)
                for i, pair in enumerate(pairs)
                for number, place, count in self.chosen.stretches
            )
        )


def joined(stretches: Iterable[Stretch]) -> Iterator[Stretch]:
    """Stretches, those made one that follow one another."""
    here = there = count = 0
    for a, b, more in stretches:
        if count and (a, b) == (here + count, there + count):
            count += more
            continue
        if count:
            yield here, there, count
        here, there, count = a, b, more
    if count:
        yield here, there, count
