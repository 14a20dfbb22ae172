"""Numbers as readers see them, in claims, captions and tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from studies.base.signs import DASH, SPACE, X0


def sentence(text: str) -> str:
    """With a capital letter, unless a sign begins it.

    >>> sentence("noise hurts"), sentence(f"{X0} is right") == f"{X0} is right"
    ('Noise hurts', True)
    """
    return text if text.startswith(X0) else text[:1].upper() + text[1:]


def counted(number: int, noun: str) -> str:
    """So many of something.

    >>> counted(1, "frame"), counted(5, "frame")
    ('1 frame', '5 frames')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def numbered(numbers: Sequence[int], noun: str) -> str:
    """Things by their numbers.

    >>> numbered([4], "step"), numbered([4, 8, 11], "step")
    ('step 4', 'steps 4, 8, 11')
    """
    return f"{noun}{'' if len(numbers) == 1 else 's'} {', '.join(map(str, numbers))}"


def spanned(first: int, last: int, noun: str) -> str:
    r"""Things from one number to another.

    >>> spanned(2, 2, "layer"), spanned(2, 5, "layer")
    ('layer 2', 'layers 2\u20135')
    """
    return f"{noun} {first}" if first == last else f"{noun}s {first}{DASH}{last}"


def decimals(values: Sequence[Any]) -> int:
    """How many decimals tell numbers apart that are written below one another: none if all are whole.

    >>> decimals([0.917, 0.25]), decimals([20.8, 44.0]), decimals([0.004, None]), decimals([1.0, 20.0])
    (2, 1, 4, 0)
    """
    known = [abs(value) for value in values if isinstance(value, int | float) and math.isfinite(value)]
    if all(value == int(value) for value in known):
        return 0
    most = max(known)
    return 1 if most >= 10 else 2 if most >= 0.1 else min(1 - math.floor(math.log10(most)), 5)


def shown(value: Any, places: int | None = None) -> str:
    r"""A value as readers see it: no more decimals than say something, a dash for nothing.

    Args:
        value: a number, text, True, False or None.
        places: decimals of a number; see `decimals` for those it has if not given.

    >>> shown(0.91249), shown(None), shown(12), shown(True), shown(-0.001, 2)
    ('0.91', '\u2013', '12', 'yes', '0.00')
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return str(value)
    places = decimals([value]) if places is None else places
    return f"{round(value, places) + 0.0:.{places}f}"  # adding zero takes the sign from -0.0


def interval(value: float, low: float, high: float) -> tuple[str, str]:
    r"""A value, and its interval, with the decimals that the width of the interval bears out.

    >>> [" ".join(text.split()) for text in interval(0.70833, 0.4333, 0.9)]
    ['0.71', '0.43 to 0.90']
    >>> interval(0.0281, 0.0141, 0.0413)[0], interval(float("nan"), 0, 1)
    ('0.028', ('\u2013', ''))
    """
    if not math.isfinite(value):
        return DASH, ""
    width = high - low
    places = min(max(2, 1 - math.floor(math.log10(width))), 4) if width > 0 else 2
    number, *ends = (shown(float(part), places) for part in (value, low, high))
    return number, f"{SPACE}to{SPACE}".join(ends)
