"""Named points inside a Wan block and its attention, for what module hooks cannot write.

The instrumented forward and processor make the same operations in the same order as diffusers 0.42.1
(``transformer_wan.py``), with a named point between them. They are placed only on the layers that ask, only for the
length of a ``with`` block. A source that is not the one they were written against is compared to the bit before
anything runs.
"""

from __future__ import annotations

from interp.hooks import replaced
from interp.instrument.attention import NamedProcessor
from interp.instrument.block import innermost, named_forward
from interp.instrument.known import source_is_known
from interp.instrument.place import instrumented, needed, part_of
from interp.instrument.points import Points
from interp.instrument.watch import Watched, watched_sites

__all__ = [
    "NamedProcessor",
    "Points",
    "Watched",
    "innermost",
    "instrumented",
    "named_forward",
    "needed",
    "part_of",
    "replaced",
    "source_is_known",
    "watched_sites",
]
