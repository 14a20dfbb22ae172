"""Picks: numbers, Python slices and lists of both, kept as they were said until the length of the axis is known."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from interp.errors import SelectionError

LARGEST = 10**9
MANY = 10**7  # numbers that one text may stand for

_NUMBER = re.compile(r"-?[0-9]{1,9}")
_SLICE = re.compile(r"(-?[0-9]{1,9})?:(-?[0-9]{1,9})?(?::(-?[0-9]{1,9})?)?")
_RUN = re.compile(r"([0-9]{1,9})\.\.([0-9]{1,9})")

Span = tuple[int | None, int | None, int | None]


@dataclass(frozen=True)
class Picks:
    """Positions on an axis.

    Attributes:
        numbers: single positions, sorted; negative ones count from the end and each has to exist.
        spans: slices as (start, stop, step), sorted; like Python's they may reach past the end.
    """

    numbers: tuple[int, ...] = ()
    spans: tuple[Span, ...] = ()

    @classmethod
    def of(cls, said: Any, what: str) -> Picks:
        """From an int, a slice, a range, an iterable of them, or text such as "3", "1:", "{0,2,5:8}".

        Args:
            said: the picks.
            what: the axis, for messages.

        Raises:
            SelectionError: anything else, or nothing at all.
        """
        if isinstance(said, Picks):
            return said
        if isinstance(said, str):
            return cls.parse(said, what)
        if isinstance(said, slice):
            return cls(spans=(_span(said, what),))
        if isinstance(said, np.ndarray):
            if said.dtype == bool:
                raise SelectionError(
                    f"{what}: a mask of booleans is not a list of positions; use numpy.flatnonzero(mask)"
                )
            said = said.ravel().tolist()  # what is not whole is refused below
        if isinstance(said, range) and len(said) > MANY:
            raise SelectionError(f"{what}={said!r}: stands for too many numbers; use a slice")
        if isinstance(said, Iterable) and not isinstance(said, bytes | bytearray):
            numbers: set[int] = set()
            spans: set[Span] = set()
            for item in said:
                if isinstance(item, slice):
                    spans.add(_span(item, what))
                else:
                    numbers.add(_number(item, what))
            if not numbers and not spans:
                raise SelectionError(f"{what}: an empty list selects nothing; leave {what} out to select all")
            return cls(tuple(sorted(numbers)), tuple(sorted(spans, key=_order)))
        return cls((_number(said, what),))

    @classmethod
    def parse(cls, text: str, what: str) -> Picks:
        """From text; see `of`."""
        text = text.strip()
        inner = text[1:-1] if text.startswith("{") and text.endswith("}") else text
        if inner == text and "," in text:
            raise SelectionError(f"{what}={text}: put a list in braces, as in {what}={{0,2,5:8}}")
        numbers: set[int] = set()
        spans: set[Span] = set()
        for item in (part.strip() for part in inner.split(",")):
            if _NUMBER.fullmatch(item):
                numbers.add(int(item))
            elif run := _RUN.fullmatch(item):
                first, last = int(run[1]), int(run[2])
                if last < first or len(numbers) + last - first > MANY:
                    raise SelectionError(f"{what}={text}: {item} runs backwards or stands for too many numbers")
                numbers.update(range(first, last + 1))
            elif found := _SLICE.fullmatch(item):
                start, stop, step = (None if part in (None, "") else int(part) for part in found.groups())
                spans.add(_span(slice(start, stop, step), what))
            else:
                raise SelectionError(
                    f"{what}={text}: {item or 'nothing'!r} is no position; write a number (3), a slice (1:, -2:, ::2) "
                    "or a list ({0,2,5:8})"
                )
        return cls(tuple(sorted(numbers)), tuple(sorted(spans, key=_order)))

    def resolve(self, size: int, what: str, where: str = "") -> tuple[int, ...]:
        """Positions on an axis of ``size``, sorted.

        Args:
            size: length of the axis.
            what: name of one position, for messages.
            where: what has the axis, for messages ("the run", "the model").

        Raises:
            SelectionError: a number out of range, or slices that hold nothing.
        """
        for number in self.numbers:
            if not -size <= number < size:
                raise SelectionError(f"{what} {number} is out of range: {_extent(size, what, where)}")
        found = {number % size for number in self.numbers}
        for start, stop, step in self.spans:
            found.update(range(*slice(start, stop, step).indices(size)))
        if not found:
            raise SelectionError(f"{what} {self} selects nothing: {_extent(size, what, where)}")
        return tuple(sorted(found))

    def __str__(self) -> str:
        items = [*_runs(self.numbers), *(_span_text(span) for span in self.spans)]
        return items[0] if len(items) == 1 and ".." not in items[0] else "{" + ",".join(items) + "}"


def runs_text(numbers: Iterable[int]) -> str:
    """Sorted numbers for people: "0-4, 7, 9"."""
    return ", ".join(item.replace("..", "-") for item in _runs(tuple(numbers)))


def _extent(size: int, what: str, where: str) -> str:
    has = f"{where} has" if where else "there are"
    return f"{has} {size} {what}{'s' * (size != 1)}" + (f" (0 to {size - 1})" if size else "")


def _number(said: Any, what: str) -> int:
    if isinstance(said, bool | np.bool_):
        raise SelectionError(f"{what}={said!r}: a truth value is no position")
    try:
        number = operator.index(said)
    except TypeError:
        raise SelectionError(f"{what}={said!r}: give a whole number, a slice, or a list of them") from None
    if abs(number) >= LARGEST:
        raise SelectionError(f"{what}={number}: too large to be a position")
    return number


def _span(said: slice, what: str) -> Span:
    parts = [None if part is None else _number(part, what) for part in (said.start, said.stop, said.step)]
    if parts[2] == 0:
        raise SelectionError(f"{what}: a slice cannot have a step of 0")
    return parts[0], parts[1], None if parts[2] == 1 else parts[2]


def _order(span: Span) -> tuple[tuple[bool, int], ...]:
    return tuple((part is not None, part or 0) for part in span)


def _span_text(span: Span) -> str:
    start, stop, step = ("" if part is None else str(part) for part in span)
    return f"{start}:{stop}" + (f":{step}" if step else "")


def _runs(numbers: tuple[int, ...]) -> list[str]:
    """Runs of three or more non-negative numbers as "first..last"."""
    items: list[str] = []
    start = 0
    for i in range(1, len(numbers) + 1):
        if i < len(numbers) and numbers[i] == numbers[i - 1] + 1 and numbers[start] >= 0:
            continue
        run = numbers[start:i]
        items += [f"{run[0]}..{run[-1]}"] if len(run) > 2 else [str(n) for n in run]
        start = i
    return items
