"""Named sets of tokens: given by conditions on the grid, or by name as a region of each sample's task.

Two names are built in: "frames" is one set for each latent frame, "all" is one set of everything. Any other bare name
is asked of the sample's task ("goal" in a maze) and may lie elsewhere in every run. A set that is empty, or reaches
outside what was selected, is an error.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.errors import SelectionError
from interp.grid import TokenGrid
from interp.selection import AddressSpace, Selection, select
from interp.tasks import get as get_task
from interp.tasks.sample import Sample

_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")
_LONGEST = 80  # characters of a view's name that sets may take


@dataclass(frozen=True)
class TokenSets:
    """Sets of tokens with names.

    Attributes:
        members: (name, selection as text) each, in order; None as text for what goes by its name alone.
    """

    members: tuple[tuple[str, str | None], ...]

    @classmethod
    def of(cls, names: Sequence[str], given: Mapping[str, Any]) -> TokenSets:
        """From bare names, and from names with what they stand for.

        Args:
            names: "frames", "all", or regions of the samples' task.
            given: by name: token numbers, a mask over the grid (bool [frame, row, col]), a `Selection` of tokens, its
                text ("frames=1:, rows=0"), or the keywords of `interp.select` as a dict; None if the name says it.

        Raises:
            SelectionError: it cannot be read, or there is no set at all.
        """
        members = [(name, None) for name in names] + [
            (name, None if said is None else _text(name, said)) for name, said in given.items()
        ]
        for name, _ in members:
            if not isinstance(name, str) or not _WORD.fullmatch(name) or name == "to":
                raise SelectionError(f"{name!r} cannot name a set of tokens; use up to 32 letters, digits and '_'")
        if not members:
            raise SelectionError("no set of tokens was named; give some, as in region_mean('goal', first='frames=0')")
        twice = [name for i, (name, _) in enumerate(members) if name in [other for other, _ in members[:i]]]
        if twice:
            raise SelectionError(f"two sets of tokens are called {twice[0]!r}")
        return cls(tuple(members))

    @classmethod
    def said(cls, sets: str | Sequence[str] | Mapping[str, Any]) -> TokenSets:
        """From a name, names, or a mapping from names to what they stand for; see `of`."""
        if isinstance(sets, str):
            return cls.of([sets], {})
        return cls.of([], sets) if isinstance(sets, Mapping) else cls.of(sets, {})

    def declaration(self) -> list[list[str | None]]:
        """Everything about the sets, JSON-ready; `of_declaration` makes them again."""
        return [list(member) for member in self.members]

    @classmethod
    def of_declaration(cls, declared: Sequence[Sequence[str | None]]) -> TokenSets:
        """The sets of a `declaration`."""
        return cls(tuple((str(name), said) for name, said in declared))

    @property
    def name(self) -> str:
        """Names joined by "-", and a digest of what they stand for if names alone do not say it."""
        text = "-".join(name for name, _ in self.members)
        if len(text) > _LONGEST:
            return self.short_name
        return text if all(said is None for _, said in self.members) else f"{text}.{self._digest}"

    @property
    def short_name(self) -> str:
        """The number of sets and a digest of what they are."""
        return f"{len(self.members)}_sets.{self._digest}"

    @property
    def _digest(self) -> str:
        return hashlib.sha256(repr(self.members).encode()).hexdigest()[:8]

    def labels(self, grid: TokenGrid) -> tuple[str, ...]:
        """Names of the sets, one each: "frames" is written out."""
        found: list[str] = []
        for name, said in self.members:
            found += [f"frame{f}" for f in range(grid.frames)] if (name, said) == ("frames", None) else [name]
        return tuple(found)

    def of_task(self) -> tuple[str, ...]:
        """Names that only a task can explain."""
        return tuple(name for name, said in self.members if said is None and name not in ("frames", "all"))

    def on_grid(self, grid: TokenGrid, sample: Sample | None) -> list[tuple[int, ...]]:
        """Numbers on the full grid, in the order of `labels`; regions of a task need the sample.

        Raises:
            SelectionError: a set selects nothing, or needs a task and there is none.
            TaskError: the task has no such region in this sample.
        """
        found: list[tuple[int, ...]] = []
        for name, said in self.members:
            if said is not None:
                found.append(_tokens_of(said, grid))
            elif name == "frames":
                found += [tuple(map(int, frame.ravel())) for frame in grid.array()]
            elif name == "all":
                found.append(tuple(range(grid.tokens)))
            elif sample is None or not sample.task:
                raise SelectionError(
                    f"{name!r} is not a set of tokens that the grid knows, and this sample belongs to no task; "
                    f"say where it is, as in {name}='frames=0, rows=2'"
                )
            else:
                found.append(tuple(get_task(sample.task).region(sample, name, grid)))
        return found

    def on_axis(self, axis: str, size: int) -> list[tuple[int, ...]]:
        """Positions on an axis without a grid, such as text tokens: sets are given as numbers, or "all".

        Raises:
            SelectionError: a set is given by something that only the grid has.
        """
        found: list[tuple[int, ...]] = []
        for name, said in self.members:
            picks = None if said is None else _picks_of(said)
            if (name, said) == ("all", None):
                found.append(tuple(range(size)))
            elif picks is None:
                raise SelectionError(f"{name!r} is no set on the axis {axis!r}; give numbers, as in {name}=range(3, 7)")
            else:
                found.append(tuple(picks.resolve(size, axis, "this model")))
        return found

    def weights(self, grid: TokenGrid, kept: Sequence[int], samples: Sequence[Sample], what: str) -> Tensor:
        """Weights of a mean: float32 [row, set, position], one row for all or one for each sample.

        Args:
            grid: the token grid.
            kept: numbers on the grid of the positions.
            samples: the problems of the rows, where sets depend on them.
            what: view and site, for messages.

        Raises:
            SelectionError: a set reaches outside ``kept``, or is a task's and there are no samples.
        """
        if self.of_task() and not samples:
            raise SelectionError(f"{what}: {self.of_task()[0]!r} is a region of a task, and no samples were given")
        rows = list(samples) if self.of_task() else [None]
        return torch.stack([membership(self.on_grid(grid, row), kept, self.labels(grid), what) for row in rows])


def membership(sets: Sequence[Sequence[int]], kept: Sequence[int], names: Sequence[str], what: str) -> Tensor:
    """One row a set, 1/n at each of its n members: float32 [set, position]."""
    numbers = np.asarray(kept, dtype=np.int64)
    place = np.full(1 + max(numbers.max(initial=0), *(max(one, default=0) for one in sets)), -1)
    place[numbers] = np.arange(len(numbers))
    found = torch.zeros(len(sets), len(kept))
    for row, (members, name) in enumerate(zip(sets, names, strict=True)):
        at = place[np.asarray(members, dtype=np.int64)]
        missing = np.asarray(members)[at < 0]
        if len(missing) or not members:
            raise SelectionError(
                f"{what}: the set {name!r} has {len(missing)} tokens (such as {missing[0]}) that are not selected; "
                "select them too"
                if len(missing)
                else f"{what}: the set {name!r} is empty"
            )
        found[row, torch.from_numpy(at)] = 1 / len(members)
    return found


def _text(name: str, said: Any) -> str:
    if isinstance(said, Selection):
        return str(said)
    if isinstance(said, str):
        text = said.strip()
        return str(Selection.parse(text if text.startswith("[") or not text else f"[{text}]"))
    if isinstance(said, Mapping):
        return str(select(**said))
    array = np.asarray(said)
    if array.dtype == bool:
        array = np.flatnonzero(array)
    if not array.size or array.dtype.kind not in "iu":
        raise SelectionError(f"the set {name!r} is {said!r}; give token numbers, a mask, or conditions as text")
    return str(select(tokens=array.ravel().tolist()))


def _tokens_of(said: str, grid: TokenGrid) -> tuple[int, ...]:
    """What a selection of tokens selects on a grid."""
    site = "patch_embed.hook_out"
    space = AddressSpace((site,), 1, (1.0,), ("main",), ("cond",), grid, {site: (grid.tokens, 1)})
    tokens = Selection.parse(said).resolve(space).tokens
    return tuple(range(grid.tokens)) if tokens is None else tokens


def _picks_of(said: str) -> Any:
    alternatives = Selection.parse(said).alternatives
    term = alternatives[0][0]
    return term.tokens if len(alternatives) == len(alternatives[0]) == 1 else None
