"""Selections: sets of addresses as frozen, printable values.

A selection is a union of intersections of terms, kept in its smallest form, so that selections equal by the laws of
union and intersection are equal as values: ``a | b == b | a`` and ``a & (a | b) == a``. Nothing about a model or a run
is needed until `Selection.resolve`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from interp.address.resolution import Resolution
from interp.address.resolve import resolve
from interp.address.space import AddressSpace
from interp.address.term import Term
from interp.errors import SelectionError, suggest

Conjunction = tuple[Term, ...]

LIMIT = 1000  # terms a selection may grow to


@dataclass(frozen=True)
class Selection:
    """A set of addresses; make one with `select` or `Selection.parse`.

    Attributes:
        alternatives: any of these; within one, all terms have to hold.
    """

    alternatives: tuple[Conjunction, ...]

    @classmethod
    def of(cls, alternatives: Iterable[Iterable[Term]]) -> Selection:
        """From alternatives in any order and with repetitions."""
        sets = {frozenset(terms) for terms in alternatives}
        several = len({len(terms) for terms in sets}) > 1  # of one length, none is part of another
        smallest = [terms for terms in sets if not (several and any(other < terms for other in sets))]
        ordered = sorted((tuple(sorted(terms, key=str)) for terms in smallest), key=lambda c: [str(t) for t in c])
        if not ordered or not all(ordered):
            raise SelectionError("nothing was selected; give a hook point such as 'blocks.*.hook_resid_post'")
        if sum(map(len, ordered)) > LIMIT:
            raise SelectionError(f"the selection has more than {LIMIT} terms; say it with fewer patterns")
        return cls(tuple(ordered))

    @classmethod
    def parse(cls, text: str) -> Selection:
        """Read a selection as it prints: ``a[step=0:5] | b & [frames=1:]``; ``&`` binds closer than ``|``.

        Raises:
            SelectionError: the text cannot be read, or names no hook point.
        """
        if not isinstance(text, str):
            raise SelectionError(f"{text!r} is not text; Selection.parse reads what str(selection) prints")
        return _parsed(text) if len(text) <= _SHORT else _Parser(text).selection()

    @property
    def of_sample(self) -> bool:
        """Whether it lies elsewhere for another sample: it names regions of a task."""
        return any(term.region is not None for terms in self.alternatives for term in terms)

    def resolve(self, space: AddressSpace) -> Resolution:
        """The addresses of a run that are selected.

        Args:
            space: every address of the run.

        Raises:
            SelectionError: a part of the selection matches nothing, with what exists near it.
        """
        return resolve(self.alternatives, space, str(self))

    def __or__(self, other: Selection | str) -> Selection:
        """Addresses in either."""
        return Selection.of([*self.alternatives, *_as_selection(other).alternatives])

    def __and__(self, other: Selection | str) -> Selection:
        """Addresses in both."""
        return Selection.of([*a, *b] for a in self.alternatives for b in _as_selection(other).alternatives)

    __ror__ = __or__
    __rand__ = __and__

    def __str__(self) -> str:
        return " | ".join(" & ".join(map(str, terms)) for terms in self.alternatives)

    def __repr__(self) -> str:
        return f"Selection.parse({str(self)!r})"


def select(
    sites: str | Selection | Sequence[str | Selection] | None = None,
    *,
    step: Any = None,
    sigma: Any = None,
    branch: Any = None,
    expert: Any = None,
    layer: Any = None,
    head: Any = None,
    frames: Any = None,
    rows: Any = None,
    cols: Any = None,
    tokens: Any = None,
    box: Any = None,
    mask: Any = None,
    region: Any = None,
    **unknown: Any,
) -> Selection:
    """Select addresses. What is not said is left free; conditions on one axis and on several all have to hold.

    Positions are an int, a slice, a list of them, or text ("3", "1:", "{0,2,5:8}"); negative ones count from the end. A
    condition on an axis leaves out sites that do not have it: with ``frames=`` a gate vector is not selected.

    Args:
        sites: hook points: names, patterns ("blocks.*.hook_resid_post", "blocks.3:6.attn.hook_z", "blocks.5.**"),
            diffusers module paths ("blocks.3.attn1.to_out.0"), a whole selection as text, or a list; None for all.
        step: sampling steps.
        sigma: (low, high], as a tuple; None leaves a side open.
        branch: "cond", "uncond", or "guided" for what exists once a step (latents, guided velocity and x0); or a list.
        expert: "high", "low" or "main"; or a list.
        layer: blocks.
        head: attention heads.
        frames, rows, cols: on the token grid.
        tokens: token numbers, row-major over (frame, row, col).
        box: pixels (top, left, bottom, right) or (frames, top, left, bottom, right); every token touched.
        mask: image, path of one, or array at the video's size in pixels, [row, col] or [pixel_frame, row, col]; every
            token touched.
        region: parts of the sample's problem by the names its task gives them ("goal" in a maze); or a list of them.
            They lie where the sample has them, so runs of one batch have to be of one sample.

    Raises:
        SelectionError: something cannot be read, no hook point has such a name, or there is no such axis.

    Example:
        ``select("blocks.20:30.hook_resid_post", step=0, branch="cond", frames=slice(1, None))``
    """
    said = {
        "step": step, "sigma": sigma, "branch": branch, "expert": expert, "layer": layer, "head": head,
        "frames": frames, "rows": rows, "cols": cols, "tokens": tokens, "box": box, "mask": mask,
        "region": region,
    }  # fmt: skip
    for axis in unknown:
        raise SelectionError(f"there is no axis {axis!r}{suggest(axis, said)}; the axes are {', '.join(said)}")
    said = {axis: value for axis, value in said.items() if value is not None}
    if sites is None:
        return Selection.of([[Term.of(None, **said)]])
    if isinstance(sites, str | Selection):
        sites = [sites]
    if not isinstance(sites, Iterable):
        raise SelectionError(
            f"{sites!r} is not a hook point; give a name or pattern such as 'blocks.*.hook_resid_post'"
        )
    chosen: list[Conjunction] = []
    for one in sites:
        found = one if isinstance(one, Selection) else Selection.parse(one)
        for terms in found.alternatives:
            chosen.append(_narrowed(terms, said))
    return Selection.of(chosen)


def _narrowed(terms: Conjunction, said: dict[str, Any]) -> Conjunction:
    """Terms with further conditions: within the term if it is one bare pattern, beside it otherwise."""
    if not said:
        return terms
    if len(terms) == 1 and terms[0] == Term(terms[0].pattern) and terms[0].pattern is not None:
        return (Term.of(terms[0].pattern.text, **said),)
    return (*terms, Term.of(None, **said))


def _as_selection(other: Selection | str) -> Selection:
    if isinstance(other, Selection):
        return other
    return Selection.parse(other)


_SHORT = 200  # characters of a text that is worth remembering: a mask is longer


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Selection:
    return _Parser(text).selection()


_TERM = re.compile(r"\s*(?P<pattern>[^\s\[\]|&()]*)\s*(?:\[(?P<inner>[^\[\]]*)\])?\s*")
_ASSIGN = re.compile(r"\s*([A-Za-z_]+)\s*=(.*)", re.DOTALL)


class _Parser:
    """Reads selections from left to right.

    ``either := both ('|' both)*``, ``both := one ('&' one)*``,
    ``one := '(' either ')' | pattern '[' axis '=' value ... ']'``
    """

    def __init__(self, text: str) -> None:
        self.text, self.at, self.depth = text, 0, 0

    def selection(self) -> Selection:
        found = self._either()
        if self.at != len(self.text):
            raise self._error(f"{self.text[self.at]!r} does not belong here")
        return found

    def _either(self) -> Selection:
        found = self._both()
        while self._took("|"):
            found = found | self._both()
        return found

    def _both(self) -> Selection:
        found = self._one()
        while self._took("&"):
            found = found & self._one()
        return found

    def _one(self) -> Selection:
        if self._took("("):
            self.depth += 1
            if self.depth > 50:
                raise self._error("too many brackets within brackets")
            found = self._either()
            if not self._took(")"):
                raise self._error("a ')' is missing")
            self.depth -= 1
            self._took("")
            return found
        match = _TERM.match(self.text, self.at)
        if match is None or not (match["pattern"] or match["inner"] is not None):
            raise self._error("a hook point or [axis=value] is missing")
        self.at = match.end()
        return Selection.of([[Term.of(match["pattern"] or None, **self._conditions(match["inner"] or ""))]])

    def _conditions(self, inner: str) -> dict[str, Any]:
        said: dict[str, Any] = {}
        if not inner.strip():
            return said
        for item in re.split(r",(?![^{}]*\})", inner):
            found = _ASSIGN.fullmatch(item)
            if found is None:
                raise self._error(f"{item.strip()!r} is not axis=value")
            axis, value = found[1], found[2].strip()
            if axis in said:
                raise self._error(f"{axis} is given twice")
            said[axis] = value
        return said

    def _took(self, sign: str) -> bool:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        if not sign or not self.text.startswith(sign, self.at):
            return False
        self.at += 1
        return True

    def _error(self, why: str) -> SelectionError:
        shown = self.text if len(self.text) <= 200 else self.text[:200] + "…"
        return SelectionError(f"cannot read the selection {shown!r}, at character {self.at}: {why}")
