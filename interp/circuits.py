"""Circuit search: the smallest set of addresses that keeps, or destroys, the answer.

Every candidate set is one row of a replayed batch. Faithfulness of a set: everything but it is patched from the source,
and the metric is put on a scale of 0 (all patched) to 1 (nothing patched). Completeness: the set alone is patched; 0
says that it holds all of the effect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from interp.edits.graph import Edit, EditGraph
from interp.edits.make import patch
from interp.edits.run import EditedRun, run_with
from interp.edits.sources import Stored
from interp.errors import InterpError
from interp.replay import Recording, record, replay, unedited
from interp.runspec import RunSpec
from interp.selection import Selection, select

if TYPE_CHECKING:
    import polars as pl

    from interp.lab import Lab

Metric = Callable[[EditedRun], float]
GOALS = ("keep", "destroy")


@dataclass(frozen=True)
class Circuit:
    """A search, one set after another, each the one before and one address more.

    Attributes:
        order: addresses as they were added.
        faithfulness: of the first k addresses, k from 0 to all: everything else patched.
        completeness: of the first k addresses: they alone patched.
        clean, patched: the metric with nothing and with everything patched.
        goal: "keep" or "destroy".
        runs: rows that were run.
    """

    order: tuple[Selection, ...]
    faithfulness: tuple[float, ...]
    completeness: tuple[float, ...]
    clean: float
    patched: float
    goal: str
    runs: int

    def smallest(self, share: float = 0.9) -> tuple[Selection, ...]:
        """The first addresses that keep ``share`` of the answer (or, when destroying, take ``share`` of it away).

        Args:
            share: 0 to 1.
        """
        curve = self.faithfulness if self.goal == "keep" else [1 - value for value in self.completeness]
        for count, value in enumerate(curve):
            if value >= share:
                return self.order[:count]
        return self.order

    @property
    def table(self) -> pl.DataFrame:
        """polars, one row a set: size, added, faithfulness, completeness."""
        import polars as pl

        added = ["", *map(str, self.order)]
        size = range(len(added))
        return pl.DataFrame(
            {"size": size, "added": added, "faithfulness": self.faithfulness, "completeness": self.completeness}
        )

    def plot(self, path: str | Path) -> Path:
        """Both curves over the size of the set."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 4), layout="constrained")
        ax = figure.add_subplot()
        ax.plot(self.faithfulness, marker="o", label="faithfulness: only these are as in the clean run")
        ax.plot(self.completeness, marker="s", label="completeness: only these are patched")
        ax.axhline(0, color="grey", linewidth=0.6)
        ax.axhline(1, color="grey", linewidth=0.6)
        ax.set(xlabel="addresses in the set", ylabel="share of the answer")
        ax.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
        figure.savefig(path, dpi=120)
        return Path(path)


def search(
    lab: Lab,
    run: RunSpec | Recording,
    source: RunSpec | Stored,
    addresses: Sequence[str | Selection],
    metric: Metric,
    *,
    goal: str = "keep",
    order: Sequence[float] | None = None,
    early: bool = False,
    batch_size: int = 16,
) -> Circuit:
    """Find a small set of addresses that the answer depends on.

    Greedy: each round adds the address that brings the metric furthest; n addresses cost n (n + 1) / 2 rows. With
    ``order`` (such as attribution's effects), addresses are added by size of that number: 2 n rows.

    Args:
        lab: the pipeline.
        run: the clean run, or a recording of it.
        source: the run that addresses are patched from, or what was kept of it there.
        addresses: candidates, one selection each.
        metric: an `EditedRun` to a number.
        goal: "keep": the set that keeps the answer while all else is patched. "destroy": the set that, patched alone,
            takes it away.
        order: one number an address, the largest by size first; None searches greedily.
        early: stop after the last edited step, and read ``result.x0_hat`` or ``result.early_frames``.
        batch_size: sets in one forward.

    Raises:
        SelectionError: an address selects nothing.
        InterpError: no addresses, an unknown goal, or an order of another length.
    """
    if goal not in GOALS:
        raise InterpError(f"goal={goal!r} is not known; use 'keep' or 'destroy'")
    if not addresses:
        raise InterpError("addresses: give at least one candidate")
    if order is not None and len(order) != len(addresses):
        raise InterpError(f"order has {len(order)} numbers for {len(addresses)} addresses; give one each")
    tried = _Tried(lab, run, source, [select(one) for one in addresses], metric, early, batch_size)
    everything = frozenset(range(len(addresses)))

    def patched_by(kept: frozenset[int]) -> frozenset[int]:
        return everything - kept if goal == "keep" else kept

    clean, gone = tried.values([frozenset(), everything])
    chosen: list[int] = []
    if order is not None:
        chosen = sorted(everything, key=lambda i: -abs(order[i]))
    while order is None and len(chosen) < len(addresses):
        left = sorted(everything - set(chosen))
        found = tried.values([patched_by(frozenset((*chosen, one))) for one in left])
        towards = clean if goal == "keep" else gone
        chosen.append(min(zip(left, found, strict=True), key=lambda pair: abs(pair[1] - towards))[0])
    sets = [frozenset(chosen[:k]) for k in range(len(chosen) + 1)]
    span = (clean - gone) or float("nan")
    faithful = tuple((value - gone) / span for value in tried.values([everything - s for s in sets]))
    complete = tuple((value - gone) / span for value in tried.values(sets))
    return Circuit(
        tuple(tried.addresses[i] for i in chosen), faithful, complete, clean, gone, goal, len(tried.known) - 1
    )


class _Tried:
    """The metric with sets of addresses patched; each set is run once."""

    def __init__(
        self,
        lab: Lab,
        run: RunSpec | Recording,
        source: RunSpec | Stored,
        addresses: Sequence[Selection],
        metric: Metric,
        early: bool,
        batch_size: int,
    ) -> None:
        self.lab, self.addresses, self.metric, self.batch_size = lab, addresses, metric, batch_size
        self.recording = run if isinstance(run, Recording) else record(lab, run)
        if len(self.recording.specs) != 1:
            raise InterpError(f"a search is of one run, and the recording has {len(self.recording.specs)}")
        spec = self.recording.specs[0]
        resolved = [one.resolve(lab.space(spec)) for one in addresses]
        last = max(step for one in resolved for step in one.steps)
        self.stop = last + 1 if early else None
        if isinstance(source, Stored):
            self.source = source
        else:
            whole = addresses[0]
            for one in addresses[1:]:
                whole = whole | one
            self.source = Stored.of(run_with(lab, source, (), whole))
        if early:
            from interp.edits.run import results_of

            (clean,) = results_of(lab, self.recording.plan, 1, self.recording.steps[: last + 1])
        else:
            (clean,) = unedited(lab, self.recording)
        self.known = {frozenset[int](): float(metric(clean))}

    def values(self, sets: Sequence[frozenset[int]]) -> list[float]:
        """The metric of each set."""
        todo = [one for one in dict.fromkeys(sets) if one not in self.known]
        for start in range(0, len(todo), self.batch_size):
            batch = todo[start : start + self.batch_size]
            graph = EditGraph(tuple(self._patch(i, row) for row, one in enumerate(batch) for i in sorted(one)))
            base = self.recording.rows([0] * len(batch))
            results = replay(self.lab, base, graph, stop=self.stop, share_text=len(batch) > 1)
            for one, result in zip(batch, results, strict=True):
                self.known[one] = float(self.metric(result))
        return [self.known[one] for one in sets]

    def _patch(self, address: int, row: int) -> Edit:
        return patch(self.addresses[address], self.source, rows=row)


__all__ = ["Circuit", "search"]
