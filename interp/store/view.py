"""One site over some runs: checks that they fit together, then reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from interp.errors import StoreError
from interp.store.gather import Cells, Steps, Tokens, gather, positions, shaped, token_rows
from interp.store.shard import Shard


class SiteView:
    """A site over runs.

    Args:
        shards: the runs, in the order wanted.
        site: hook point.

    Raises:
        StoreError: a run does not keep the site, or they keep it with different axes or dtypes.
    """

    def __init__(self, shards: Sequence[Shard], site: str) -> None:
        self.shards, self.site = shards, site
        self.layouts = [shard.site(site) for shard in shards]
        self.layout = self.layouts[0]
        for name in ("axes", "dtype"):
            kinds = Counter(getattr(layout, name) for layout in self.layouts)
            if len(kinds) > 1:
                raise StoreError(f"site {site} has different {name} in these runs ({dict(kinds)}); choose with runs=")
        self.token_axis = self.layout.axes.index("token") - 2 if "token" in self.layout.axes else None

    def read(self, step: Steps, branch: str | Sequence[str] | None, tokens: Tokens, as_: str) -> Any:
        """See `interp.store.Store.read`."""
        places = [
            self._cells(shard, layout, step, branch) for shard, layout in zip(self.shards, self.layouts, strict=True)
        ]
        _, keep_step, keep_branch = places[0]
        rows = [self._rows(shard, tokens) for shard in self.shards]
        shapes = [self._shape(*item) for item in zip(self.layouts, rows, strict=True)]
        self._check_one(shapes, [cells.shape for cells, _, _ in places])
        counts = places[0][0].shape
        per_run = counts[0] * counts[1]
        bits = np.empty((len(self.shards) * per_run, *shapes[0]), self.layout.kind.bits)
        requests = (
            Cells(
                shard.extent(self.site),
                places[i][0].reshape(-1),
                np.arange(i * per_run, (i + 1) * per_run),
                self.layouts[i].cell_shape,
                rows[i],
            )
            for i, shard in enumerate(self.shards)
        )
        gather(requests, bits, self.token_axis)
        axes = [len(self.shards), *([counts[0]] if keep_step else []), *([counts[1]] if keep_branch else [])]
        return shaped(bits.reshape(*axes, *shapes[0]), self.layout.kind, as_)

    def _cells(self, shard: Shard, layout: Any, step: Steps, branch: Any) -> tuple[np.ndarray, bool, bool]:
        """Numbers of the wanted cells [step, branch], and which axes are kept."""
        what = f"run {shard.run}, site {self.site}"
        steps, keep_step = positions(step, shard.index.run.steps, what)
        have = shard.index.run.branches_of(layout)
        if branch is None and len(have) > 1:
            raise StoreError(f"{what} has the branches {', '.join(have)}; say which, as branch={have[0]!r} or a list")
        names = [have[0]] if branch is None else [branch] if isinstance(branch, str) else list(branch)
        for name in names:
            if name not in have:
                raise StoreError(f"{what}: branch {name!r} was not kept; there are {', '.join(have)}")
        branches = [have.index(name) for name in names]
        cells = np.array(steps)[:, None] * len(have) + np.array(branches)[None]
        return cells, keep_step, not (branch is None or isinstance(branch, str))

    def _rows(self, shard: Shard, tokens: Tokens) -> np.ndarray | None:
        what = f"run {shard.run}, site {self.site}"
        if tokens is not None and self.token_axis is None:
            raise StoreError(f"{what} has no axis 'token' among {self.layout.axes}; leave tokens= out")
        return token_rows(tokens, None if tokens is None else shard.tokens(self.site), shard.index.run.grid, what)

    def _shape(self, layout: Any, rows: np.ndarray | None) -> tuple[int, ...]:
        shape = list(layout.cell_shape)
        if rows is not None and self.token_axis is not None:
            shape[self.token_axis] = len(rows)
        return tuple(shape)

    def _check_one(self, shapes: list[tuple[int, ...]], counts: list[tuple[int, ...]]) -> None:
        found: dict[tuple[int, ...], list[int]] = {}
        for i, shape in enumerate(shapes):
            found.setdefault(shape, []).append(i)
        if len(found) > 1:
            sizes = []
            for shape, members in found.items():
                grid = self.shards[members[0]].index.run.grid
                sizes.append(f"{list(shape)} in {len(members)} runs (grid {grid.frames} x {grid.rows} x {grid.cols})")
            raise StoreError(
                f"site {self.site} has no one shape: {list(self.layout.axes[2:])} is {', '.join(sizes)}; choose runs "
                "of one size with runs=store.runs_frame.filter(polars.col('rows') == ...)['run'], or equally many "
                "tokens of each with tokens="
            )
        if len(set(counts)) > 1:
            raise StoreError(
                f"site {self.site} has {sorted(set(counts))} steps and branches in these runs; choose with step="
            )
