"""One run that another process writes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.errors import StoreError
from interp.store.cellcheck import Given, RunCheck
from interp.store.disk import bytes_at
from interp.store.labels import checked_labels
from interp.store.layout import RunLayout

if TYPE_CHECKING:
    from types import TracebackType

    from interp.store.background import BackgroundWriter


class BackgroundShard:
    """Takes the tensors of one run, as `ShardWriter` does. Made by `BackgroundWriter.writer`.

    Args:
        background: where they go.
        number: of the run.
        layout: what will be written.
    """

    def __init__(self, background: BackgroundWriter, number: int, layout: RunLayout) -> None:
        self.layout = layout
        self._background, self._number = background, number
        self._check = RunCheck(layout)
        self._places = {site.site: (i, site.cell_nbytes) for i, site in enumerate(layout.stored.sites)}
        self._over: str | None = None

    def write(self, site: str, step_index: int, branch_index: int, tensor: Any) -> None:
        """Keep one tensor; waits while all slots are full. See `ShardWriter.write`.

        Raises:
            StoreError: it does not fit the layout, or some run failed meanwhile.
        """
        if self._over is not None:
            raise StoreError(f"run {self.layout.run} takes no more data: {self._over}")
        cell, given = self._check.site(site).check(step_index, branch_index, tensor)
        parts = given if isinstance(given, dict) else {site: given}
        if self._background.borrow:
            self._put_later(site, cell, parts, tensor)
        else:
            self._put(cell, parts)

    def finish(self, labels: Mapping[str, Any] | None = None) -> None:
        """Have the run finished; it is once `BackgroundWriter.flush` or the block's end has returned.

        Raises:
            StoreError: something of the layout was never written, a label cannot be stored, or some run failed
                meanwhile.
        """
        if self._over is not None:
            raise StoreError(f"run {self.layout.run} cannot be finished: {self._over}")
        try:
            checked = checked_labels(labels or {}, f"run {self.layout.run}")
            self._check.check_complete()
        except StoreError:
            self.abort()
            raise
        self._over = "it is finished"
        self._background.have_done(lambda: self._background.finish(self._number, checked))

    def abort(self) -> None:
        """Throw the run away, unless it is finished."""
        if self._over is None:
            self._over = "it was aborted"
            with suppress(StoreError):  # what failed before is told by `BackgroundWriter.flush`, too
                self._background.have_done(lambda: self._background.abort(self._number))

    def __enter__(self) -> BackgroundShard:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.abort()

    def _put(self, cell: int, parts: Mapping[str, Given]) -> None:
        for name, part in parts.items():
            place, nbytes = self._places[name]
            self._background.put(self._number, place, cell * nbytes, part, nbytes)

    def _put_later(self, site: str, cell: int, parts: Mapping[str, Given], tensor: Any) -> None:
        """Have the tensor copied by the thread, which notices if it was changed in place before."""
        nbytes = sum(self._places[name][1] for name in parts)
        counted = not isinstance(tensor, np.ndarray) and not tensor.is_inference()
        if not counted:  # nobody would notice a change: copy now
            parts = {name: np.array(part) for name, part in self._arrays(parts).items()}
        version = tensor._version if counted else 0

        def copy() -> None:
            self._put(cell, parts)
            if counted and tensor._version != version:
                raise StoreError(
                    f"run {self.layout.run}: a tensor of site {site} was changed in place before it was copied; "
                    "write a copy of it, or write without borrow=True"
                )

        self._background.have_done(copy, nbytes)

    def _arrays(self, parts: Mapping[str, Given]) -> dict[str, np.ndarray]:
        """Parts as arrays, where an address stands for one."""
        layouts = {site.site: site for site in self.layout.stored.sites}
        out = {}
        for name, part in parts.items():
            if isinstance(part, int):
                layout, (_, nbytes) = layouts[name], self._places[name]
                part = np.frombuffer(bytes_at(part, nbytes), layout.kind.bits).reshape(layout.cell_shape)
            out[name] = part
        return out
