"""Patterns over hook point names, part by part between the dots.

``*`` stands for anything within one part, ``**`` for any number of parts, ``{q,k,v}`` for one of several words. A part that
is a number, a slice or a list of them (``3``, ``-1``, ``3:6``, ``{0,5,7}``) picks layers, counted as Python counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from interp.address.names import ALIASES, site_named, template_of
from interp.address.picks import Picks
from interp.address.site import layer_of
from interp.address.table import SITES
from interp.errors import SelectionError, suggest

_INTEGERS = re.compile(r"\{?[-0-9:., ]+\}?")
_WORDS = re.compile(r"(?:[A-Za-z0-9_*]|\{[A-Za-z0-9_*]+(?:,[A-Za-z0-9_*]+)*\})+")
_BRACES = re.compile(r"\{([^{}]*)\}")

Counts = Mapping[tuple[str, ...], int]


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
            raise SelectionError(f"{text!r} is not a hook point; give a name or pattern such as 'blocks.*.hook_resid_post'")
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
        picked = {
            (part, before): frozenset(part.resolve(size, "layer", "the model"))
            for part in self.parts
            if isinstance(part, Picks)
            for before, size in counts.items()
        }
        split = ((name, tuple(name.split("."))) for name in names)
        found = [name for name, parts in split if _fits(self.parts, parts, 0, 0, picked)]
        return tuple(name for name in found if not (self.wild_end and site_named(name).heavy))

    def fits_template(self, name: str) -> bool:
        """Whether the pattern matches a site's name in some layer, heavy or not."""
        return _fits(self.parts, tuple(name.split(".")), 0, 0, None)

    def _unknown(self) -> str:
        wider = ".".join("**" if part == "*" else str(part) for part in self.parts)
        if wider != self.text and any(Pattern("", _split_parsed(wider)).fits_template(site.name) for site in SITES):
            return f"no hook point matches {self.text!r}: `*` stands for one part between dots; write {wider!r}"
        layer = str(self.parts[1]) if len(self.parts) > 1 else "*"
        known = [site.name.replace("{layer}", layer) for site in SITES]
        return f"no hook point matches {self.text!r}{suggest(self.text, known)}"


def layer_counts(names: Iterable[str]) -> dict[tuple[str, ...], int]:
    """How many layers there are after each beginning that numbers follow: {("blocks",): 30}."""
    counts: dict[tuple[str, ...], int] = {}
    for name in names:
        layer = layer_of(name)
        if layer is not None:
            before = (name.split(".")[0],)
            counts[before] = max(counts.get(before, 0), layer + 1)
    return counts


def _fits(
    parts: tuple[str | Picks, ...],
    name: tuple[str, ...],
    i: int,
    j: int,
    picked: Mapping[tuple[Picks, tuple[str, ...]], frozenset[int]] | None,
) -> bool:
    """Whether ``parts[i:]`` match ``name[j:]``; without ``picked`` the name is a template, and any layer will do."""
    if i == len(parts):
        return j == len(name)
    part = parts[i]
    if part == "**":
        return any(_fits(parts, name, i + 1, k, picked) for k in range(j, len(name) + 1))
    if j == len(name):
        return False
    if picked is None and name[j] == "{layer}":
        here = isinstance(part, Picks) or word_fits(part, "0")
    elif isinstance(part, Picks):
        here = picked is not None and name[j].isdecimal() and int(name[j]) in picked[(part, name[:j])]
    else:
        here = word_fits(part, name[j])
    return here and _fits(parts, name, i + 1, j + 1, picked)


@cache
def word_fits(word: str, value: str) -> bool:
    """Whether one part of a name matches a word with ``*`` and ``{a,b}``."""
    escaped = re.sub(r"[^A-Za-z0-9_*{},]", lambda m: re.escape(m[0]), word).replace("*", ".*")
    return re.fullmatch(_BRACES.sub(lambda m: "(?:" + m[1].replace(",", "|") + ")", escaped), value) is not None


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
    if len(parts) > 1 and parts[0] == "blocks":
        name = ALIASES.get(".".join(["blocks", "{layer}", *parts[2:]]))
        if name is not None:
            return [*parts[:2], *name.split(".")[2:]] if "{layer}" in name else name.split(".")
    name = template_of(".".join(parts))
    return parts if name is None else name.split(".")
