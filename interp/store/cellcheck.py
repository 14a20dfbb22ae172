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
        run: key of the run, for errors.
    """

    def __init__(self, layout: SiteLayout, run: str) -> None:
        self.layout = layout
        self._where = f"run {run}, site {layout.site}"
        self._seen = bytearray(layout.cells)
        self._steps, self._branches = layout.shape[:2]
        self._kind, self._shape = layout.given, layout.cell_shape

    def check(self, step: int, branch: int, tensor: Any) -> tuple[int, Given | dict[str, np.ndarray]]:
        """Number of the cell, and where its bits are; with codec "int8", those of each of its sites.

        Raises:
            StoreError: the tensor does not fit, or the cell was written before.
        """
        if not (0 <= step < self._steps and 0 <= branch < self._branches):
            where = f"its {self._steps} steps, {self._branches} branches"
            raise StoreError(f"{self._where}: position ({step}, {branch}) is outside {where}")
        cell = step * self._branches + branch
        if self._seen[cell]:
            raise StoreError(f"{self._where}: position ({step}, {branch}) was written before")
        if self.layout.codec == "int8":
            parts = self._coded(tensor)
            self._seen[cell] = 1
            return cell, parts
        address = None if isinstance(tensor, np.ndarray) else self._kind.address_of(tensor, self._shape)
        if address is not None:
            self._seen[cell] = 1
            return cell, address
        try:
            bits = self._kind.bits_of(tensor)
        except StoreError as error:
            raise StoreError(f"{self._where}: {error}") from error
        self._check_shape(bits)
        self._seen[cell] = 1
        return cell, bits

    def _coded(self, tensor: Any) -> dict[str, np.ndarray]:
        from interp.store import int8

        self._check_shape(tensor)
        if getattr(tensor, "dtype", None) is not self._kind.torch:
            tensor = self._kind.to_torch(self._kind.bits_of(tensor))
        return {name: part.cpu().numpy() for name, part in int8.coded(self.layout.site, tensor).items()}

    def _check_shape(self, tensor: Any) -> None:
        got = tuple(getattr(tensor, "shape", ()))
        if got != self._shape:
            raise StoreError(f"{self._where}: got shape {got} where {self.layout.axes[2:]} is {self._shape}")

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
        self._sites = {site.site: SiteCheck(site, layout.run) for site in layout.sites}

    def site(self, name: str) -> SiteCheck:
        """A site of the run.

        Raises:
            StoreError: there is none of that name.
        """
        try:
            return self._sites[name]
        except KeyError:
            find_site(name, self._sites, f"the layout of run {self.layout.run}")
            raise

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
