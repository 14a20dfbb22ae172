"""Patterns over hook point names, part by part between the dots.

``*`` stands for anything within one part, ``**`` for any number of parts, ``{q,k,v}`` for one of several words. A part
that is a number, a slice or a list of them (``3``, ``-1``, ``3:6``, ``{0,5,7}``) picks layers, counted as in Python.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property

from interp.address.names import ALIASES, STACKS, site_named, template_of
from interp.address.picks import Picks
from interp.address.site import layer_of
from interp.address.table import SITES
from interp.errors import SelectionError, suggest

_INTEGERS = re.compile(r"\{?[-0-9:., ]+\}?")
_WORDS = re.compile(r"(?:[A-Za-z0-9_*]|\{[A-Za-z0-9_*]+(?:,[A-Za-z0-9_*]+)*\})+")
_BRACES = re.compile(r"\{([^{}]*)\}")

Counts = Mapping[str, int]


@dataclass(frozen=True)
class Pattern:
    """A parsed pattern; ``text`` is canonical, so equal patterns say the same.

    Attributes:
        text: the pattern as it is printed.
        parts: one per dot: `Picks` for numbers, text for words.
    """

    text: str
    parts: tuple[str | Picks, ...]

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read a pattern, a hook point name or an alias of one.

        Raises:
            SelectionError: not a pattern, or one that no hook point of any model matches.
        """
        if not isinstance(text, str):
            raise SelectionError(
                f"{text!r} is not a hook point; give a name or pattern such as 'blocks.*.hook_resid_post'"
            )
        raw = _split(text.strip(), text)
        if "{layer}" in raw:
            raise SelectionError(f"{text!r}: {{layer}} is a placeholder; fill in a layer, or write `*` for all")
        parts = tuple(_part(part, text) for part in _unaliased(raw))
        pattern = cls(".".join(str(part) for part in parts), parts)
        if not any(pattern.fits_template(site.name) for site in SITES):
            raise SelectionError(pattern._unknown())
        return pattern

    @property
    def wild_end(self) -> bool:
        """Whether the last part leaves open which tensor is meant, so that heavy sites are not."""
        last = self.parts[-1]
        return isinstance(last, str) and "*" in last

    def matches(self, names: Iterable[str], counts: Counts) -> tuple[str, ...]:
        """The names that match, in their order.

        Args:
            names: concrete hook points.
            counts: for every beginning of a name that a number follows, how many there are.

        Raises:
            SelectionError: a number out of range.
        """
        names = tuple(names)
        if self.text in names:  # one name, said in full
            return (self.text,)
        picks = [part for part in self.parts if isinstance(part, Picks)]

        @cache
        def picked(part: Picks, before: str) -> frozenset[int]:
            return frozenset(part.resolve(counts[before], "layer", "the model"))

        found = []
        for name in names:
            match = self.regex.fullmatch(name)
            if match is None or (self.wild_end and site_named(name).heavy):
                continue
            numbers = ((match[i + 1], name[: match.start(i + 1) - 1], part) for i, part in enumerate(picks))
            if all(int(number) in picked(part, before) for number, before, part in numbers):
                found.append(name)
        return tuple(found)

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """Matches names, with a group for each number."""
        found = ""
        for i, part in enumerate(self.parts):
            last = i == len(self.parts) - 1
            if part == "**":
                found += r"(?:[^.]+\.)*[^.]+" if last else r"(?:[^.]+\.)*"
                continue
            found += r"([0-9]+)" if isinstance(part, Picks) else _word_regex(part)
            found += "" if last else r"\."
        return re.compile(found)

    def fits_template(self, name: str) -> bool:
        """Whether the pattern matches a site's name in some layer, heavy or not."""
        return self.regex.fullmatch(name.replace("{layer}", "0")) is not None

    def _unknown(self) -> str:
        wider = ".".join("**" if part == "*" else str(part) for part in self.parts)
        if wider != self.text and any(Pattern("", _split_parsed(wider)).fits_template(site.name) for site in SITES):
            return f"no hook point matches {self.text!r}: `*` stands for one part between dots; write {wider!r}"
        layer = str(self.parts[1]) if len(self.parts) > 1 else "*"
        known = [s.name.replace("{layer}", layer) for s in SITES if s.family != "vace" or "vace" in self.text]
        return f"no hook point matches {self.text!r}{suggest(self.text, known)}"


def layer_counts(names: Iterable[str]) -> dict[str, int]:
    """How many layers there are after each beginning that numbers follow: {"blocks": 30}."""
    counts: dict[str, int] = {}
    for name in names:
        layer = layer_of(name)
        if layer is not None:
            before = name.split(".")[0]
            counts[before] = max(counts.get(before, 0), layer + 1)
    return counts


def _word_regex(word: str) -> str:
    """One part with ``*`` and ``{a,b}`` as a regular expression."""
    wild = word.replace("*", "[^.]*")
    return _BRACES.sub(lambda m: "(?:" + m[1].replace(",", "|") + ")", wild)


def _split(text: str, asked: str) -> list[str]:
    """At the dots, but not inside braces and not at the two dots of a run."""
    if len(text) > 2000:
        raise SelectionError(f"a pattern of {len(text)} characters is too long to be a hook point")
    parts = re.split(r"\.(?![^{}]*\})", text)
    if not text or not all(parts):
        raise SelectionError(f"{asked!r} is not a hook point pattern: a part between dots is empty")
    return [part.strip() for part in parts]


def _split_parsed(text: str) -> tuple[str | Picks, ...]:
    return tuple(_part(part, text) for part in _split(text, text))


def _part(part: str, asked: str) -> str | Picks:
    if part == "**":
        return part
    if _INTEGERS.fullmatch(part):
        return Picks.parse(part, "layer")
    if not _WORDS.fullmatch(part) or "**" in part:
        raise SelectionError(
            f"{asked!r}: {part!r} is no part of a hook point pattern; use names, `*`, `**`, {{a,b}}, and numbers or "
            "slices for layers"
        )
    return _BRACES.sub(lambda m: _braced(m[1]), part)


def _braced(inner: str) -> str:
    words = sorted(set(inner.split(",")))
    return words[0] if len(words) == 1 else "{" + ",".join(words) + "}"


def _unaliased(parts: list[str]) -> list[str]:
    """Canonical parts where the pattern, its layer aside, is an alias."""
    if len(parts) > 1 and parts[0] in STACKS and parts[1] != "**":
        name = ALIASES.get(".".join([parts[0], "{layer}", *parts[2:]]))
        if name is not None:
            return [*parts[:2], *name.split(".")[2:]] if "{layer}" in name else name.split(".")
    name = template_of(".".join(parts))
    return parts if name is None else name.split(".")
