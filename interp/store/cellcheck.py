"""Does a tensor fit the layout of its run? Asked before a byte of it goes anywhere."""

from __future__ import annotations

from typing import Any

import numpy as np

from interp.errors import StoreError
from interp.store.layout import RunLayout, SiteLayout, find_site

Given = np.ndarray | int
"""A checked cell: its bits [<site axes>], or the address of its bytes, which the caller keeps alive."""


class SiteCheck:
    """One site of one run; remembers which cells were written.

    Args:
        layout: the site.
    """

    def __init__(self, layout: SiteLayout) -> None:
        self.layout = layout
        self._seen = bytearray(layout.cells)
        self._steps, self._branches = layout.shape[:2]
        self._kind, self._shape = layout.kind, layout.cell_shape

    def check(self, step: int, branch: int, tensor: Any) -> tuple[int, Given]:
        """Number of the cell, and where its bits are.

        Raises:
            StoreError: the tensor does not fit, or the cell was written before.
        """
        if not (0 <= step < self._steps and 0 <= branch < self._branches):
            raise StoreError(
                f"position ({step}, {branch}) is outside its {self._steps} steps, {self._branches} branches"
            )
        cell = step * self._branches + branch
        if self._seen[cell]:
            raise StoreError(f"position ({step}, {branch}) was written before")
        address = None if isinstance(tensor, np.ndarray) else self._kind.address_of(tensor, self._shape)
        if address is not None:
            self._seen[cell] = 1
            return cell, address
        bits = self._kind.bits_of(tensor)
        if bits.shape != self._shape:
            raise StoreError(f"got shape {tuple(bits.shape)} where {self.layout.axes[2:]} is {self._shape}")
        self._seen[cell] = 1
        return cell, bits

    def missing(self) -> tuple[int, int] | None:
        """Position (step, branch) of the first cell that was never written."""
        cell = self._seen.find(0)
        return None if cell < 0 else divmod(cell, self._branches)


class RunCheck:
    """All sites of one run.

    Args:
        layout: the run.
    """

    def __init__(self, layout: RunLayout) -> None:
        self.layout = layout
        self._sites = {site.site: SiteCheck(site) for site in layout.sites}

    def check(self, site: str, step: int, branch: int, tensor: Any) -> tuple[int, Given]:
        """Number of the cell in its site, and where its bits are.

        Raises:
            StoreError: there is no such site, the tensor does not fit, or the cell was written before.
        """
        try:
            return self._sites[site].check(step, branch, tensor)
        except KeyError:
            find_site(site, self._sites, f"the layout of run {self.layout.run}")
            raise
        except StoreError as error:
            raise StoreError(f"run {self.layout.run}, site {site}: {error}") from error

    def check_complete(self) -> None:
        """Was everything written?

        Raises:
            StoreError: no.
        """
        for name, site in self._sites.items():
            missing = site.missing()
            if missing is not None:
                step, branch = self.layout.steps[missing[0]], self.layout.branches_of(site.layout)[missing[1]]
                where = f"step {step}, branch {branch}"
                raise StoreError(f"run {self.layout.run}: site {name} was never written at {where}")
