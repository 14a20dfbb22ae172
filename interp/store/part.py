"""Some runs of one site that lie in one file: a shard holds one run, a site-major file many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from interp.store.codedextent import CodedExtent
from interp.store.extent import Extent
from interp.store.layout import RunLayout, SiteLayout


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
        which: their numbers in the file, int64 [n].
        places: their places in the result, int64 [n].
    """

    name: str
    run: RunLayout
    site: SiteLayout
    tokens: Callable[[], np.ndarray | None]
    extent: Extent | CodedExtent
    total: int
    which: np.ndarray
    places: np.ndarray

    @property
    def branches(self) -> tuple[str, ...]:
        """Names along the site's axis "branch"."""
        return self.run.branches_of(self.site)

    def cells(self, steps: list[int], branches: list[int]) -> np.ndarray:
        """Numbers of cells in the extent, int64 [step, branch, run], for positions along steps and branches."""
        pairs = np.array(steps, np.int64)[:, None] * self.site.shape[1] + np.array(branches, np.int64)
        return pairs[..., None] * self.total + self.which
