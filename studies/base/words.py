"""Numbers in words, for claims and captions."""

from __future__ import annotations

from collections.abc import Sequence

from studies.base.signs import DASH


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
