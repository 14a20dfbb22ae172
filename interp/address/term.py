"""One condition on addresses: a pattern and what each axis may be. Selections are unions of intersections of terms."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from interp.address.pattern import Pattern
from interp.address.picks import Picks
from interp.address.region import PixelBox, PixelMask
from interp.errors import SelectionError, suggest

_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_FLOAT = r"[+-]?(?:[0-9]{1,40}\.?[0-9]{0,40}|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,3})?"
_SIGMA = re.compile(rf"\s*(?P<low>(?:{_FLOAT})?)\s*<\s*\.\.\s*(?P<high>(?:{_FLOAT})?)\s*")


@dataclass(frozen=True)
class SigmaRange:
    """Noise levels ``low < sigma <= high``; None leaves a side open."""

    low: float | None
    high: float | None

    @classmethod
    def of(cls, said: Any) -> SigmaRange:
        """From (low, high), either None, or its text "0.5<..0.9".

        Raises:
            SelectionError: anything else, or a range that holds nothing.
        """
        if isinstance(said, SigmaRange):
            return said
        if isinstance(said, str):
            found = _SIGMA.fullmatch(said)
            if found is None:
                raise SelectionError(f"sigma={said}: write low<..high, as in sigma=0.5<..0.9 (0.9 is in, 0.5 is not)")
            said = (found["low"] or None, found["high"] or None)
        if not isinstance(said, Sequence) or len(said) != 2:
            raise SelectionError(
                f"sigma={said!r}: give (low, high); high is included, low is not, None leaves a side open"
            )
        try:
            low, high = (None if side is None else float(side) for side in said)
        except (TypeError, ValueError, OverflowError):
            raise SelectionError(f"sigma={said!r}: low and high are numbers or None") from None
        given = [side for side in (low, high) if side is not None]
        if not given or not all(math.isfinite(side) for side in given) or (len(given) == 2 and given[0] >= given[1]):
            raise SelectionError(f"sigma={said!r} holds no noise level; give (low, high) with low < high")
        return cls(low, high)

    def __contains__(self, sigma: float) -> bool:
        return (self.low is None or sigma > self.low) and (self.high is None or sigma <= self.high)

    def __str__(self) -> str:
        low, high = ("" if side is None else repr(side) for side in (self.low, self.high))
        return f"{low}<..{high}"


def words_of(said: Any, what: str) -> tuple[str, ...]:
    """Names such as branches, sorted: from "cond", "{cond,uncond}" or a list.

    Raises:
        SelectionError: anything else.
    """
    if isinstance(said, str):
        text = said.strip()
        said = text[1:-1].split(",") if text.startswith("{") and text.endswith("}") else [text]
    if not isinstance(said, list | tuple | set | frozenset):
        raise SelectionError(f"{what}={said!r}: give a name or a list of names")
    words = [word.strip() if isinstance(word, str) else word for word in said]
    bad = [word for word in words if not (isinstance(word, str) and _WORD.fullmatch(word))]
    if bad or not words:
        raise SelectionError(f"{what}={bad[0] if bad else ''!r}: not a name; give one such as {_EXAMPLES[what]}")
    return tuple(sorted(set(words)))


_EXAMPLES = {"branch": "cond or uncond", "expert": "high, low or main", "region": "goal"}


@dataclass(frozen=True)
class Term:
    """One pattern with conditions on the axes; None leaves an axis free. Fields are as in `select`."""

    pattern: Pattern | None = None
    step: Picks | None = None
    sigma: SigmaRange | None = None
    branch: tuple[str, ...] | None = None
    expert: tuple[str, ...] | None = None
    layer: Picks | None = None
    head: Picks | None = None
    frames: Picks | None = None
    rows: Picks | None = None
    cols: Picks | None = None
    tokens: Picks | None = None
    box: PixelBox | None = None
    mask: PixelMask | None = None
    region: tuple[str, ...] | None = None

    @classmethod
    def of(cls, pattern: str | None, **said: Any) -> Term:
        """From a pattern and what was said of the axes.

        Raises:
            SelectionError: an unknown axis, or something that cannot be read.
        """
        unknown = sorted(set(said) - set(READERS))
        if unknown:
            raise SelectionError(
                f"{unknown[0]!r} is nothing to select by{suggest(unknown[0], READERS)}; select by {', '.join(READERS)}"
            )
        read = {axis: READERS[axis](value) for axis, value in said.items() if value is not None}
        if pattern is None and not read:
            raise SelectionError("nothing was selected; give a hook point such as 'blocks.*.hook_resid_post'")
        return cls(None if pattern is None else Pattern.parse(pattern), **read)

    @property
    def on_tokens(self) -> bool:
        """Whether it asks for some tokens only."""
        return any(getattr(self, axis) is not None for axis in ON_TOKENS)

    def __str__(self) -> str:
        said = [(f.name, getattr(self, f.name)) for f in fields(self) if f.name != "pattern"]
        inner = ", ".join(f"{name}={_text(value)}" for name, value in said if value is not None)
        pattern = "" if self.pattern is None else self.pattern.text
        return f"{pattern}[{inner}]" if inner else pattern


def _picks(what: str) -> Callable[[Any], Picks]:
    return lambda said: Picks.of(said, what)


READERS: dict[str, Callable[[Any], Any]] = {
    "step": _picks("step"),
    "sigma": SigmaRange.of,
    "branch": lambda said: words_of(said, "branch"),
    "expert": lambda said: words_of(said, "expert"),
    "layer": _picks("layer"),
    "head": _picks("head"),
    "frames": _picks("frames"),
    "rows": _picks("rows"),
    "cols": _picks("cols"),
    "tokens": _picks("tokens"),
    "box": PixelBox.of,
    "mask": PixelMask.of,
    "region": lambda said: words_of(said, "region"),
}
ON_TOKENS = ("frames", "rows", "cols", "tokens", "box", "mask", "region")


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return value[0] if len(value) == 1 else "{" + ",".join(value) + "}"
    return str(value)
