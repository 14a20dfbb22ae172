"""Attention knock-out: chosen queries cannot see chosen keys; the softmax is over what is left."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from interp.edits.op import Moment, Op
from interp.errors import InterpError
from interp.selection import AddressSpace, Selection


@dataclass(frozen=True)
class Knockout(Op):
    """Closes the way from query tokens (the edit's selection) to key tokens.

    Attributes:
        keys: key tokens as a selection on the grid (``select(frames=0)``), for self-attention.
        positions: key positions as numbers: tokens for self-attention, text positions for cross-attention.
    """

    keys: Selection | None = None
    positions: tuple[int, ...] | None = None

    name = "knockout"

    def __post_init__(self) -> None:
        if (self.keys is None) == (self.positions is None):
            raise InterpError("knockout needs keys as a selection of tokens, or as positions, one of the two")

    def closed(self, space: AddressSpace, site: str) -> tuple[int, ...]:
        """Key positions that are closed at a site.

        Raises:
            InterpError: positions that do not exist, all of them, or grid tokens where keys are text.
        """
        axes, count = space.axes_of(site), space.widths[site][-1]
        if self.positions is not None:
            wrong = [p for p in self.positions if not 0 <= p < count]
            if wrong:
                raise InterpError(
                    f"knockout: key {wrong[0]} does not exist; {site} has {count} ({axes[-1]}s 0 to {count - 1})"
                )
            found = tuple(sorted(set(self.positions)))
        elif axes[-1] != "key_token":
            raise InterpError(
                f"knockout: keys of {site} are {axes[-1]}s, not tokens of the grid; give positions as numbers"
            )
        else:
            assert self.keys is not None
            tokens = self.keys.resolve(space).tokens
            found = tuple(range(count)) if tokens is None else tokens
        if len(found) == count:
            raise InterpError(
                f"knockout: all {count} keys of {site} would be closed, and a softmax over nothing is not defined"
            )
        return found

    def apply(self, part: Tensor, given: tuple[Tensor, ...], moment: Moment) -> Tensor:
        raise InterpError("a knock-out is applied inside the attention, not to a tensor")
