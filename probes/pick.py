"""Which of the steps or layers that are there a user asks for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from probes.errors import ProbeError

Asked = int | slice | Sequence[int] | None
"""One, a slice of numbers, a list of them, or all."""


def pick(asked: Asked, held: Sequence[int], name: str, holder: str) -> list[int]:
    """Those of the numbers ``held`` that are asked for, in order: all (None), one, a slice, or a list of them.

    Raises:
        ProbeError: none, or one that is not held.
    """
    if asked is None:
        return list(held)
    if isinstance(asked, slice):
        chosen = [n for n in held if n in range(*asked.indices(max(held) + 1))]
    elif isinstance(asked, (int, np.integer)):
        chosen = [int(asked)]
    else:
        chosen = list(asked) if isinstance(asked, Iterable) else []
        if not isinstance(asked, Iterable) or not all(isinstance(n, (int, np.integer)) for n in chosen):
            raise ProbeError(f"{name}s={asked!r}: give one {name}, a slice, or a list of whole numbers.")
    lacking = sorted(set(chosen) - set(held))
    if lacking or not chosen:
        what = f"no {name} {lacking[0]}" if lacking else f"none of the {name}s asked for ({asked!r})"
        raise ProbeError(f"{holder} {what}; there are {', '.join(map(str, held))}.")
    return sorted({int(n) for n in chosen})
