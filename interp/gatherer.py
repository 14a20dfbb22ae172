"""Recomputed sites while a forward goes on: collects their sources and makes each as soon as its last one is there."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from torch import Tensor, nn

from interp.address.recompute import recompute, taken
from interp.address.resolution import Part
from interp.address.shapes import axes_of
from interp.address.site import Site
from interp.errors import InterpError
from interp.sampler import Call
from interp.sites import site_named

Emit = Callable[[str, Call, Tensor], Tensor | None]
Wanted = Callable[[str, Call], bool]


class Gatherer:
    """Emits sites of the "recompute" tier.

    Args:
        model: the transformer.
        names: what to emit.
        emit: receives each tensor; it must return None.
        wanted: whether a name is wanted in a forward; nothing is computed for the others. All are if None.
        parts: of sites too big to keep whole, the part that is made: of a pattern, its rows at these tokens and heads.
        fed: sites that somebody makes anyway, so that they are not recomputed: `take` gets them too.

    Attributes:
        sources: sites of the "module" tier that have to be given to `take`.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str],
        emit: Emit,
        *,
        wanted: Wanted | None = None,
        parts: Mapping[str, Part] | None = None,
        fed: Collection[str] = (),
    ) -> None:
        self.model, self.emit, self.wanted = model, emit, wanted
        self.names, self.parts, self.fed = tuple(names), dict(parts or {}), frozenset(fed)
        self.sources_of = {name: self._direct(name) for top in names for name in self._down(top)}
        self.sources = [name for name in self.sources_of if site_named(name).tier == "module"]
        self.users: dict[str, list[str]] = defaultdict(list)
        for name, sources in self.sources_of.items():
            for source in sources:
                self.users[source].append(name)
        self.call: Call | None = None
        self.values: dict[str, Tensor] = {}
        self.asked: frozenset[str] = frozenset()
        self.left: set[str] = set()
        self.uses: Counter[str] = Counter()

    def _direct(self, name: str) -> tuple[str, ...]:
        return () if name in self.fed else site_named(name).sources_at(name)

    def _down(self, name: str) -> Iterator[str]:
        """Sources of sources down to modules, and the site itself last: scores come from rotated queries."""
        for source in self._direct(name):
            yield from self._down(source)
        yield name

    def take(self, source: str, call: Call, tensor: Tensor) -> None:
        """A source fired, or a fed site was made."""
        if call is not self.call:
            self._start(call)
        if source in self.asked and source in self.fed:
            self._give(source, call, self._part_of(source, tensor))
        if self.uses[source]:
            self.values[source] = tensor
            self._use(source, call)

    def _start(self, call: Call) -> None:
        """What is wanted in a new forward."""
        self.call, self.values = call, {}
        self.asked = frozenset(name for name in self.names if self.wanted is None or self.wanted(name, call))
        self.left = {name for top in self.asked for name in self._down(top) if self.sources_of[name]}
        self.uses = Counter(source for name in self.left for source in self.sources_of[name])

    def _use(self, source: str, call: Call) -> None:
        for name in self.users[source]:
            sources = self.sources_of[name]
            if name not in self.left or any(one not in self.values for one in sources):
                continue
            self.left.discard(name)
            value = recompute(name, self.values, self.model, self.parts.get(name))
            for one in sources:
                self.uses[one] -= 1
                if not self.uses[one]:
                    del self.values[one]
            if name in self.asked:
                self._give(name, call, value)
            if self.uses[name]:
                self.values[name] = value
                self._use(name, call)

    def _give(self, name: str, call: Call, value: Tensor) -> None:
        if self.emit(name, call, value) is not None:
            raise InterpError(f"{name} is computed from other tensors and cannot be replaced by a module hook")

    def _part_of(self, name: str, tensor: Tensor) -> Tensor:
        site: Site = site_named(name)
        return taken(tensor, axes_of(site), self.parts.get(name))
