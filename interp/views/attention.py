"""Views of attention that never form a pattern: mass between sets of tokens, entropy, the keys most looked at.

They are views of ``hook_pattern``, by head, and are computed from queries and keys in fp32, a block of queries at a
time (see `interp.views.rows`). So they are what softmax gives with any attention backend.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from interp.address.recompute import taken
from interp.address.resolution import Part
from interp.errors import SelectionError
from interp.sites import site_named
from interp.tasks.sample import Sample
from interp.views.pool import pooled
from interp.views.rows import Reduce, reduced_rows
from interp.views.sets import TokenSets, membership
from interp.views.view import Compute, Given, Made, View, number

Sets = str | Sequence[str] | Mapping[str, Any]

_BY_HEAD = ("token", "head", "d_head")
_LONGEST = 100  # characters that two lists of sets may take of a name


class AttentionView(View):
    """Base of views that read a pattern row by row; see the module docstring."""

    queries: TokenSets | None  # sets to average over; None for each query by itself

    def plan(self, given: Given) -> Made:
        """See `View.plan`."""
        if not given.site.endswith(".hook_pattern"):
            raise SelectionError(
                f"{self.name} does not fit {given.site}: it is a view of a pattern; select blocks.*.attn.hook_pattern "
                "or blocks.*.cross_attn.hook_pattern"
            )
        queries = self.queries
        if queries is not None and not queries.of_task():
            queries.weights(given.grid, given.token_numbers, (), f"{self.name} of {given.site}")
        heads, tokens = given.shape[:2]
        new, sizes, coords = self._last(given)
        axes, shape = ("head", "token", *new), (heads, tokens, *sizes)
        if queries is not None:
            labels = queries.labels(given.grid)
            axes, shape = ("head", "region", *new), (heads, len(labels), *sizes)
            coords = {"region": labels, **coords}
        sources = site_named(given.site).sources_at(given.site)
        kept = given.tokens if queries is None else None
        return Made(axes, shape, sources, dtype="float32", tokens=kept, coords=coords)

    def computer(self, given: Given, samples: Sequence[Sample]) -> Compute:
        """See `View.computer`."""
        reduce, sets = self._reduce(given, samples), self.queries
        if sets is None:
            part, means = Part(given.tokens, given.heads), None
        else:
            means = sets.weights(given.grid, given.token_numbers, samples, f"{self.name} of {given.site}")
            used = means.any(1).any(0)  # rows that are in no set are not computed
            means = means[:, :, used]
            some = tuple(number for number, in_set in zip(given.token_numbers, used.tolist(), strict=True) if in_set)
            part = Part(None if len(some) == given.grid.tokens else some, given.heads)
        keys_of = Part(heads=given.heads)

        def compute(queries: Tensor, keys: Tensor) -> Tensor:
            rows = reduced_rows(taken(queries, _BY_HEAD, part), taken(keys, _BY_HEAD, keys_of), reduce)
            return rows if means is None else pooled(rows, means, 2)

        return compute

    @abstractmethod
    def _last(self, given: Given) -> tuple[tuple[str, ...], tuple[int, ...], dict[str, tuple[int | str, ...]]]:
        """Axes after the queries, their sizes, and what their positions stand for."""

    @abstractmethod
    def _reduce(self, given: Given, samples: Sequence[Sample]) -> Reduce:
        """What is made of scores; see `reduced_rows`."""


@dataclass(frozen=True)
class AttentionMass(AttentionView):
    """How much attention sets of queries give to sets of keys; see `attention_mass`."""

    queries: TokenSets | None
    keys: TokenSets
    kind: ClassVar[str] = "attention_mass"

    def parameters(self) -> tuple[str, ...]:
        """See `View.parameters`."""
        both = [sets for sets in (self.queries, self.keys) if sets is not None]
        names = [sets.name for sets in both]
        if sum(map(len, names)) > _LONGEST:
            names = [sets.short_name for sets in both]
        return (*names[:-1], "to", names[-1])

    @classmethod
    def of_parameters(cls, said: Sequence[str]) -> View:
        """See `View.of_parameters`."""
        if "to" not in said:
            raise SelectionError(
                f"{'-'.join((cls.kind, *said))!r}: write {cls.kind}-<sets of queries>-to-<sets of keys>, "
                f"as in {cls.kind}-frames-to-frames, or {cls.kind}-to-frames for each query by itself"
            )
        at = list(said).index("to")
        return cls(TokenSets.of(said[:at], {}) if at else None, TokenSets.of(said[at + 1 :], {}))

    def declaration(self) -> dict[str, Any]:
        """See `View.declaration`."""
        queries = None if self.queries is None else self.queries.declaration()
        return {"view": self.name, "queries": queries, "keys": self.keys.declaration()}

    @classmethod
    def of_declaration(cls, declared: Mapping[str, Any]) -> View:
        """The view of a `declaration`."""
        queries = None if declared["queries"] is None else TokenSets.of_declaration(declared["queries"])
        return cls(queries, TokenSets.of_declaration(declared["keys"]))

    def _last(self, given: Given) -> tuple[tuple[str, ...], tuple[int, ...], dict[str, tuple[int | str, ...]]]:
        if _on_grid(given):
            labels = self.keys.labels(given.grid)
            if not self.keys.of_task():
                self._members(given, ())
        else:
            labels = tuple(name for name, _ in self.keys.members)
            self._members(given, ())
        return ("key_region",), (len(labels),), {"key_region": labels}

    def _members(self, given: Given, samples: Sequence[Sample]) -> Tensor:
        """Which keys are in which set: float32 [row, key, set], one row for all or one for each sample."""
        what, size = f"{self.name} of {given.site}", given.shape[-1]
        if _on_grid(given):
            weights = self.keys.weights(given.grid, range(size), samples, what)
        else:
            labels = [name for name, _ in self.keys.members]
            weights = membership(self.keys.on_axis(given.axes[-1], size), range(size), labels, what)[None]
        return (weights > 0).float().mT

    def _reduce(self, given: Given, samples: Sequence[Sample]) -> Reduce:
        members = self._members(given, samples)

        def mass(scores: Tensor, rows: Tensor) -> Tensor:
            inside = members.to(scores.device)
            return scores.softmax(-1) @ (inside if len(inside) == 1 else inside[rows])

        return mass


@dataclass(frozen=True)
class AttentionEntropy(AttentionView):
    """How spread the attention of a query is; see `attention_entropy`."""

    queries: TokenSets | None = None
    kind: ClassVar[str] = "attention_entropy"

    def parameters(self) -> tuple[str, ...]:
        """See `View.parameters`."""
        return () if self.queries is None else (self.queries.name,)

    @classmethod
    def of_parameters(cls, said: Sequence[str]) -> View:
        """See `View.of_parameters`."""
        return cls(TokenSets.of(said, {}) if said else None)

    def declaration(self) -> dict[str, Any]:
        """See `View.declaration`."""
        return {"view": self.name, "queries": None if self.queries is None else self.queries.declaration()}

    @classmethod
    def of_declaration(cls, declared: Mapping[str, Any]) -> View:
        """The view of a `declaration`."""
        return cls(None if declared["queries"] is None else TokenSets.of_declaration(declared["queries"]))

    def _last(self, given: Given) -> tuple[tuple[str, ...], tuple[int, ...], dict[str, tuple[int | str, ...]]]:
        return (), (), {}

    def _reduce(self, given: Given, samples: Sequence[Sample]) -> Reduce:
        return _entropy


def _entropy(scores: Tensor, rows: Tensor) -> Tensor:
    log = scores.log_softmax(-1)
    return -(log.exp() * log).sum(-1)


@dataclass(frozen=True)
class AttentionTop(AttentionView):
    """The keys a query looks at most; see `attention_top`."""

    k: int
    queries: None = field(default=None, init=False, repr=False)
    kind: ClassVar[str] = "attention_top"

    def parameters(self) -> tuple[str, ...]:
        """See `View.parameters`."""
        return (str(self.k),)

    @classmethod
    def of_parameters(cls, said: Sequence[str]) -> View:
        """See `View.of_parameters`."""
        if len(said) != 1:
            raise SelectionError(f"{'-'.join((cls.kind, *said))!r}: write {cls.kind}-<k>, as in {cls.kind}-8")
        return cls(number(said[0], "a number of keys"))

    def _last(self, given: Given) -> tuple[tuple[str, ...], tuple[int, ...], dict[str, tuple[int | str, ...]]]:
        if self.k > given.shape[-1]:
            raise SelectionError(f"{self.name} of {given.site}: there are {given.shape[-1]} keys")
        return ("rank", "entry"), (self.k, 2), {"entry": ("key", "weight")}

    def _reduce(self, given: Given, samples: Sequence[Sample]) -> Reduce:
        def top(scores: Tensor, rows: Tensor) -> Tensor:
            found = scores.topk(self.k, -1)
            weights = (found.values - scores.logsumexp(-1, keepdim=True)).exp()
            return torch.stack([found.indices.float(), weights], -1)

        return top


def _on_grid(given: Given) -> bool:
    """Whether keys are tokens of the video."""
    return given.axes[-1] == "key_token"


def attention_mass(queries: Sets | None = None, keys: Sets = "frames") -> View:
    """How much of their attention queries give to each of some sets of keys: [head, region, key_region].

    The mean over the queries of a set of the sum over the keys of a set. Kept in fp32.

    Args:
        queries: sets of selected tokens: "frames", "all", names of regions of the samples' task, or a mapping from
            names to token numbers, masks over the grid or conditions (see `region_mean`); None for each query by
            itself, [head, token, key_region].
        keys: the same of all tokens, for self-attention. For cross-attention "all", or a mapping from names to
            positions in the text.

    Raises:
        SelectionError: a set cannot be read.

    Example:
        ``attention_mass("frames", {"first": "frames=0"})``, ``attention_mass("goal", {"colour": range(3, 5)})``.
    """
    return AttentionMass(None if queries is None else TokenSets.said(queries), TokenSets.said(keys))


def attention_entropy(queries: Sets | None = None) -> View:
    """Entropy of each query's attention in nats, 0 for one key and ln(keys) for all alike: [head, token].

    Args:
        queries: sets of selected tokens to take the mean over, as in `attention_mass`: [head, region].

    Raises:
        SelectionError: a set cannot be read.
    """
    return AttentionEntropy(None if queries is None else TokenSets.said(queries))


def attention_top(k: int) -> View:
    """The ``k`` keys each query looks at most, most first: [head, token, rank, entry].

    Entry 0 is the key's number (exact in fp32: there are fewer than 2**24 tokens), entry 1 its weight.

    Raises:
        SelectionError: ``k`` is no number of keys.
    """
    return AttentionTop.of_parameters([str(k)])
