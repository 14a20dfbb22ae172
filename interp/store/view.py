"""One site over some runs: checks that they fit together, then reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from interp.errors import StoreError
from interp.store.gather import Cells, Steps, Tokens, gather, positions, shaped, token_rows
from interp.store.part import Part


class SiteView:
    """A site over runs.

    Args:
        parts: where the runs lie.
        site: hook point.

    Raises:
        StoreError: the runs keep the site with different axes or dtypes.
    """

    def __init__(self, parts: Sequence[Part], site: str) -> None:
        self.parts, self.site = parts, site
        self.runs = sum(len(part.places) for part in parts)
        self.layout = parts[0].site
        for name in ("axes", "dtype"):
            kinds = Counter(getattr(part.site, name) for part in parts)
            if len(kinds) > 1:
                raise StoreError(f"site {site} has different {name} in these runs ({dict(kinds)}); choose with runs=")
        self.token_axis = self.layout.axes.index("token") - 2 if "token" in self.layout.axes else None

    def read(self, step: Steps, branch: str | Sequence[str] | None, tokens: Tokens, as_: str) -> Any:
        """See `interp.store.Store.read`."""
        chosen = [self._choose(part, step, branch) for part in self.parts]
        rows = [self._rows(part, tokens) for part in self.parts]
        cell_shape = self._one_shape(rows)
        sizes = {(len(steps), len(branches)) for steps, branches, *_ in chosen}
        if len(sizes) > 1:
            raise StoreError(f"site {self.site} has (steps, branches) {sorted(sizes)} in these runs; choose with step=")
        (steps, branches), keep_step, keep_branch = sizes.pop(), *chosen[0][2:]
        # Read in the order in which most of it lies, so that long stretches go straight into the result.
        run_first = all(part.total == 1 for part in self.parts)
        order = (self.runs, steps, branches) if run_first else (steps, branches, self.runs)
        slots = np.arange(self.runs * steps * branches).reshape(order)
        slots = slots.transpose(1, 2, 0) if run_first else slots
        bits = np.empty((slots.size, *cell_shape), self.layout.kind.bits)
        gather(self._requests(chosen, rows, slots), bits, self.token_axis)
        bits = bits.reshape(*order, *cell_shape)
        bits = bits if run_first else np.moveaxis(bits, 2, 0)
        keep = (slice(None), slice(None) if keep_step else 0, slice(None) if keep_branch else 0)
        return shaped(bits[keep], self.layout.kind, as_)

    def _requests(self, chosen: Sequence[Any], rows: Sequence[np.ndarray | None], slots: np.ndarray) -> Any:
        for part, (steps, branches, *_), row in zip(self.parts, chosen, rows, strict=True):
            cells, places = part.cells(steps, branches), slots[..., part.places]
            if part.total == 1:  # cells of a shard follow one another over steps and branches
                cells, places = cells.transpose(2, 0, 1), places.transpose(2, 0, 1)
            yield Cells(part.extent, cells.reshape(-1), places.reshape(-1), part.site.cell_shape, row)

    def _choose(self, part: Part, step: Steps, branch: Any) -> tuple[list[int], list[int], bool, bool]:
        """Positions of the wanted steps and branches, and which axes are kept."""
        what = f"{part.name}, site {self.site}"
        steps, keep_step = positions(step, part.run.steps, what)
        have = part.branches
        if branch is None and len(have) > 1:
            raise StoreError(f"{what} has the branches {', '.join(have)}; say which, as branch={have[0]!r} or a list")
        names = [have[0]] if branch is None else [branch] if isinstance(branch, str) else list(branch)
        for name in names:
            if name not in have:
                raise StoreError(f"{what}: branch {name!r} was not kept; there are {', '.join(have)}")
        return steps, [have.index(name) for name in names], keep_step, not (branch is None or isinstance(branch, str))

    def _rows(self, part: Part, tokens: Tokens) -> np.ndarray | None:
        what = f"{part.name}, site {self.site}"
        if tokens is None:
            return None
        if self.token_axis is None:
            raise StoreError(f"{what} has no axis 'token' among {self.layout.axes}; leave tokens= out")
        return token_rows(tokens, part.tokens(), part.run.grid, what)

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
                grid, count = parts[0].run.grid, sum(len(part.places) for part in parts)
                lines.append(f"{list(shape)} in {count} runs (grid {grid.frames} x {grid.rows} x {grid.cols})")
            raise StoreError(
                f"site {self.site} has no one shape: {list(self.layout.axes[2:])} is {', '.join(lines)}; choose runs "
                "of one size with runs=store.runs_frame.filter(polars.col('rows') == ...)['run'], or equally many "
                "tokens of each with tokens="
            )
        return next(iter(found))
