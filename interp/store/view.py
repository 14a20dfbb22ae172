"""One site over some runs: checks that they fit together, then reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from interp.errors import StoreError
from interp.store import int8
from interp.store.files import Files
from interp.store.gather import Cells, Steps, Tokens, gather, positions, token_rows
from interp.store.layout import few
from interp.store.part import Part

MANY = 10_000
"""Plans that are remembered at most."""


@dataclass(frozen=True)
class Plan:
    """What is read for one question.

    Attributes:
        requests: cells and where they go.
        slots: cells that are read.
        shape: sizes of the array that is read.
        axes: the order of its axes in which the caller sees them, [run, step?, branch?, <cell axes>]; None: as it is.
    """

    requests: tuple[Cells, ...]
    slots: int
    shape: tuple[int, ...]
    axes: tuple[int, ...] | None


@dataclass(frozen=True)
class Places:
    """Steps and branches that are wanted, in one file.

    Attributes:
        steps, branches: positions along these axes.
        kept: the same by name: steps of the sampler's schedule, and branches.
        keep_step, keep_branch: whether the caller sees these axes.
    """

    steps: list[int]
    branches: list[int]
    kept: tuple[tuple[int, ...], tuple[str, ...]]
    keep_step: bool
    keep_branch: bool


class SiteView:
    """A site over runs.

    Args:
        parts: where the runs lie.
        site: hook point.
        scales: what codec "int8" keeps beside it; None without.

    Attributes:
        runs: how many.
        layout: of the site in a run.
        token_axis: where "token" is among the cell's axes; None without.
        apart: each run lies in a file of its own.

    Raises:
        StoreError: the runs keep the site with different axes or dtypes.
    """

    def __init__(self, parts: Sequence[Part], site: str, scales: SiteView | None = None) -> None:
        self.parts, self.site, self.scales = parts, site, scales
        self.apart = all(part.total == 1 for part in parts)
        self._plans: dict[tuple[int | None, str | None], Plan] = {}
        self._most = 0 if self.apart else MANY  # of few, large files they are small and used again
        self.runs = sum(len(part.chosen) for part in parts)
        self.layout = parts[0].site
        for name, have in (("axes", "axes"), ("dtype", "dtype"), ("codecs", "codec")):
            kinds = Counter(getattr(part.site, have) for part in parts)
            if len(kinds) > 1 and (name != "codecs" or "int8" in kinds):  # what is stored without loss is read alike
                raise StoreError(f"site {site} has different {name} in these runs ({dict(kinds)}); choose with runs=")
        self.token_axis = self.layout.axes.index("token") - 2 if "token" in self.layout.axes else None

    @staticmethod
    def of(files: Files, site: str, runs: Sequence[str] | None) -> SiteView:
        """The view of a site over runs of a store; None for all."""
        parts = files.parts(site, runs)
        coded = all(part.site.codec == "int8" for part in parts)  # of some only: refused
        beside = SiteView(files.parts(site + int8.SCALE, runs), site + int8.SCALE) if coded else None
        return SiteView(parts, site, beside)

    def read(self, step: Steps, branch: str | Sequence[str] | None, tokens: Tokens, as_: str) -> Any:
        """See `interp.store.Store.read`."""
        key = None
        if tokens is None and (step is None or isinstance(step, int)) and (branch is None or isinstance(branch, str)):
            key = (step, branch)
        plan = self._plans.get(key) if key else None
        if plan is None:
            plan = self._plan(step, branch, tokens)
            if key and len(self._plans) < self._most:
                self._plans[key] = plan
        kind = self.layout.kind
        bits = np.empty(plan.shape, kind.bits)
        gather(plan.requests, bits, plan.slots, self.token_axis)
        if plan.axes is not None:
            bits = bits.transpose(plan.axes)
        if self.scales is None:
            return kind.to_torch(bits) if as_ == "torch" else kind.widen(bits)
        return self.restored(bits, self.scales.read(step, branch, None, "numpy"), as_)

    def restored(self, codes: np.ndarray, scales: np.ndarray, as_: str) -> Any:
        """Values [..., <site axes>] of codes int8 and their scales [..., channel]: float32, or a tensor as given."""
        values = int8.restored(codes, scales)
        if as_ != "torch":
            return values
        import torch

        return torch.from_numpy(values).to(self.layout.given.torch)

    def _plan(self, step: Steps, branch: str | Sequence[str] | None, tokens: Tokens) -> Plan:
        chosen = self.choose(step, branch)
        rows = [self.rows(part, tokens) for part in self.parts]
        cell_shape = self._one_shape(rows)
        steps, branches = map(len, chosen[0].kept)
        runs = None if self.apart else self.runs
        requests = tuple(
            Cells(part.extent, part.stretches(at.steps, at.branches, runs), part.site.cell_shape, row)
            for part, at, row in zip(self.parts, chosen, rows, strict=True)
        )
        pairs = (steps,) * chosen[0].keep_step + (branches,) * chosen[0].keep_branch
        slots = self.runs * steps * branches
        if self.apart or not pairs:
            return Plan(requests, slots, (self.runs, *pairs, *cell_shape), None)
        # Read in the order in which it lies, so that long stretches go straight into the result.
        shape = (*pairs, self.runs, *cell_shape)
        run = len(pairs)
        return Plan(requests, slots, shape, (run, *range(run), *range(run + 1, len(shape))))

    def choose(self, step: Steps, branch: str | Sequence[str] | None) -> list[Places]:
        """Where the wanted steps and branches lie in each part.

        Raises:
            StoreError: one is not there, or other ones are meant in other runs.
        """
        places = [self._choose(part, step, branch) for part in self.parts]
        runs = Counter[tuple[tuple[int, ...], tuple[str, ...]]]()
        for part, at in zip(self.parts, places, strict=True):
            runs[at.kept] += len(part.chosen)
        if len(runs) > 1:
            said = "; ".join(
                f"steps {few(steps)} of {', '.join(branches)} in {count} runs"
                for (steps, branches), count in runs.most_common(3)
            )
            raise StoreError(f"site {self.site} was not kept alike: {said}; choose with step=, branch= or runs=")
        return places

    def _choose(self, part: Part, step: Steps, branch: str | Sequence[str] | None) -> Places:
        what = f"{part.name}, site {self.site}"
        steps, keep_step = positions(step, part.run.steps, what)
        have = part.branches
        if branch is None and len(have) > 1:
            raise StoreError(f"{what} has the branches {', '.join(have)}; say which, as branch={have[0]!r} or a list")
        names = have if branch is None else (branch,) if isinstance(branch, str) else tuple(branch)
        lost = [name for name in names if name not in have]
        if lost or not names:
            asked = lost[0] if lost else branch
            raise StoreError(f"{what}: branch {asked!r} was not kept; there are {', '.join(have)}")
        kept = tuple(part.run.steps[i] for i in steps), names
        keep_branch = not (branch is None or isinstance(branch, str))
        return Places(steps, [have.index(name) for name in names], kept, keep_step, keep_branch)

    def rows(self, part: Part, tokens: Tokens) -> np.ndarray | None:
        """Positions of the wanted tokens along the site's axis "token", int64 [token]; None for all that are kept."""
        what = f"{part.name}, site {self.site}"
        if tokens is None:
            return None
        if self.token_axis is None:
            raise StoreError(f"{what} has no axis 'token' among {self.layout.axes}; leave tokens= out")
        return token_rows(tokens, part.tokens(), part.run.grid, what)

    def on_grid(self, tokens: Tokens) -> np.ndarray:
        """Numbers on the full grid of the tokens that are read, int64 [run, token]."""
        found: dict[int, np.ndarray] = {}
        for part in self.parts:
            rows, kept = self.rows(part, tokens), part.tokens()
            count = part.site.cell_shape[self.token_axis or 0]
            rows = np.arange(count) if rows is None else rows
            found |= dict.fromkeys(part.chosen.places.tolist(), rows if kept is None else kept[rows])
        return np.stack([found[place] for place in range(self.runs)])

    def cell_shape(self, tokens: Tokens) -> tuple[int, ...]:
        """Sizes of a cell in the result.

        Raises:
            StoreError: a token is not there, or the runs differ.
        """
        return self._one_shape([self.rows(part, tokens) for part in self.parts])

    def _one_shape(self, rows: Sequence[np.ndarray | None]) -> tuple[int, ...]:
        """Sizes of a cell in the result."""
        found: dict[tuple[int, ...], list[Part]] = {}
        for part, row in zip(self.parts, rows, strict=True):
            sizes = list(part.site.cell_shape)
            if row is not None and self.token_axis is not None:
                sizes[self.token_axis] = len(row)
            found.setdefault(tuple(sizes), []).append(part)
        if len(found) > 1:
            lines = []
            for shape, parts in found.items():
                grid, count = parts[0].run.grid, sum(len(part.chosen) for part in parts)
                lines.append(f"{list(shape)} in {count} runs (grid {grid.frames} x {grid.rows} x {grid.cols})")
            raise StoreError(
                f"site {self.site} has no one shape: {list(self.layout.axes[2:])} is {', '.join(lines)}; choose runs "
                "of one size with runs=store.runs_frame.filter(polars.col('rows') == ...)['run'], or equally many "
                "tokens of each with tokens="
            )
        return next(iter(found))
