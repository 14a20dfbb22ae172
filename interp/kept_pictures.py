"""Encoded first frames that are kept from batch to batch, where somebody asks for it.

A first frame goes through the VAE with the whole length of the video behind it, which on a small model costs as much as
a dozen denoising steps. Whoever runs one problem again and again, as a study does, opens `keeping_pictures`; what is
given then is the very tensor that the first encoding made.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextvars import ContextVar
from typing import TypeVar

from torch import Tensor

Row = TypeVar("Row")


class KeptPictures:
    """Rows by key; those that were asked for longest ago go when there is no room.

    Args:
        room: bytes.
    """

    def __init__(self, room: int) -> None:
        self.room, self.nbytes = room, 0
        self._rows: OrderedDict[Hashable, tuple[object, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: Hashable, make: Callable[[], Row]) -> Row:
        """The row of a key, made if it is not there; its attributes that are tensors count for the room."""
        if key in self._rows:
            self._rows.move_to_end(key)
            kept: Row = self._rows[key][0]  # type: ignore[assignment]  # what `make` of this key gave
            return kept
        row = make()
        nbytes = sum(value.nbytes for value in vars(row).values() if isinstance(value, Tensor))
        self._rows[key] = (row, nbytes)
        self.nbytes += nbytes
        while self.nbytes > self.room:
            self.nbytes -= self._rows.popitem(last=False)[1][1]
        return row


_kept: ContextVar[KeptPictures | None] = ContextVar("kept_pictures", default=None)


@contextlib.contextmanager
def keeping_pictures(room: int = 1 << 28) -> Iterator[KeptPictures]:
    """Encode each first frame once within the block; a block within a block shares what the outer one keeps.

    Args:
        room: bytes kept at most, on the device where the model runs.
    """
    outer = _kept.get()
    kept = KeptPictures(room) if outer is None else outer
    token = _kept.set(kept)
    try:
        yield kept
    finally:
        _kept.reset(token)


def kept_or_made(key: Hashable, make: Callable[[], Row]) -> Row:
    """What is kept under a key, or what ``make`` gives where nobody keeps anything."""
    kept = _kept.get()
    return make() if kept is None else kept.get(key, make)
