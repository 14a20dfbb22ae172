"""Runs of one kind of mazes, and what is asked of them."""

from __future__ import annotations

from dataclasses import dataclass

from interp import RunSpec
from interp.tasks import Sample
from studies.measures.targets import Target, target_named
from studies.runs.bench import Bench


@dataclass(frozen=True)
class Settings:
    """The study's own options; the help of each describes it."""

    targets: tuple[Target, ...]
    hook: str
    apart: int
    shuffles: int
    rows: int
    seeds: int
    seed: int

    @staticmethod
    def of(bench: Bench) -> Settings:
        """From the command line.

        Raises:
            TaskError: an unknown target.
        """
        given = bench.given
        targets = tuple(target_named(name) for name in dict.fromkeys(given.target))
        return Settings(targets, given.hook, given.apart, given.shuffles, given.rows, given.seeds, given.seed)


@dataclass(frozen=True)
class Set:
    """One kind of mazes and its runs, in one order.

    Attributes:
        name: "fork" or "ordinary".
        samples: of each run: [run].
        specs: [run].
    """

    name: str
    samples: tuple[Sample, ...]
    specs: tuple[RunSpec, ...]

    @property
    def keys(self) -> list[str]:
        """Run keys."""
        return [spec.key for spec in self.specs]

    @property
    def mazes(self) -> int:
        """Different mazes."""
        return len({sample.key for sample in self.samples})
