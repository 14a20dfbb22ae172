"""What a selection stands for in one run: the addresses, their count and their bytes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from interp.address.picks import runs_text
from interp.address.space import AddressSpace
from interp.errors import SelectionError

Key = tuple[int, str]  # step, branch


@dataclass(frozen=True)
class Part:
    """A rectangle of one tensor: these tokens by these heads; None for all of them, or where there is no such axis."""

    tokens: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Box:
    """A product of addresses: every site at every step in every branch, in this part of the tensor."""

    sites: tuple[str, ...]
    steps: tuple[int, ...]
    branches: tuple[str, ...]
    part: Part

    @cached_property
    def keys(self) -> frozenset[Key]:
        """Its (step, branch) pairs."""
        return frozenset((step, branch) for step in self.steps for branch in self.branches)


@dataclass(frozen=True)
class Resolution:
    """The addresses of a run that a selection selects.

    Attributes:
        sites: concrete hook points, in the order of the computation.
        steps: steps at which anything is selected, in order.
        branches: branches in which anything is selected, in call order.
        boxes: exactly which addresses, as products that may overlap.
        space: the addresses there are.
        text: the selection as printed.
    """

    sites: tuple[str, ...]
    steps: tuple[int, ...]
    branches: tuple[str, ...]
    boxes: tuple[Box, ...] = field(repr=False)
    space: AddressSpace = field(repr=False, compare=False)
    text: str = field(compare=False)

    @cached_property
    def _by_site(self) -> dict[str, tuple[Box, ...]]:
        found: dict[str, list[Box]] = {site: [] for site in self.sites}
        for box in self.boxes:
            for site in box.sites:
                found[site].append(box)
        return {site: tuple(boxes) for site, boxes in found.items()}

    @cached_property
    def _keys(self) -> dict[str, frozenset[Key]]:
        shared: dict[tuple[int, ...], frozenset[Key]] = {}
        found = {}
        for site, boxes in self._by_site.items():
            same = tuple(map(id, boxes))
            if same not in shared:
                shared[same] = frozenset().union(*(box.keys for box in boxes))
            found[site] = shared[same]
        return found

    def contains(self, site: str, step: int, branch: str) -> bool:
        """Whether any part of this tensor is selected."""
        keys = self._keys.get(site)
        return keys is not None and (step, branch) in keys

    def keys_of(self, site: str) -> frozenset[Key]:
        """The (step, branch) pairs at which a site is selected.

        Raises:
            SelectionError: it is not selected at all.
        """
        if site not in self._keys:
            raise SelectionError(f"{site!r} is not selected by {self.text}")
        return self._keys[site]

    def steps_of(self, site: str) -> tuple[int, ...]:
        """Steps at which a site is selected, in order."""
        return tuple(sorted({step for step, _ in self.keys_of(site)}))

    def branches_of(self, site: str) -> tuple[str, ...]:
        """Branches in which a site is selected, in call order; ("guided",) for what exists once a step."""
        chosen = {branch for _, branch in self.keys_of(site)}
        return tuple(branch for branch in self.space.branches_of(site) if branch in chosen)

    def parts(self, site: str, step: int, branch: str) -> tuple[Part, ...]:
        """The rectangles of one tensor that are selected; none if it is not selected at all."""
        boxes = self._by_site.get(site, ())
        found = dict.fromkeys(box.part for box in boxes if step in box.steps and branch in box.branches)
        return (Part(),) if Part() in found else tuple(found)

    @cached_property
    def tokens(self) -> tuple[int, ...] | None:
        """Tokens selected at any address, in order; None if some address has all of them, or none has tokens."""
        return _hull(self.tokens_of(site) for site in self.sites if "token" in self.space.axes_of(site))

    def tokens_of(self, site: str) -> tuple[int, ...] | None:
        """Tokens of a site selected at any step, in order; None for all, or if it has no token axis."""
        return _hull(box.part.tokens for box in self._boxes_of(site))

    def heads_of(self, site: str) -> tuple[int, ...] | None:
        """Heads of a site selected at any step, in order; None for all, or if it has no head axis."""
        return _hull(box.part.heads for box in self._boxes_of(site))

    def shape_of(self, site: str) -> tuple[int, ...]:
        """Shape of what a capture keeps of a site at one step: `tokens_of` by `heads_of` by the other axes."""
        kept = {"token": self.tokens_of(site), "head": self.heads_of(site)}
        sizes = zip(self.space.axes_of(site), self.space.widths[site], strict=True)
        chosen = ((kept.get(axis), size) for axis, size in sizes)
        return tuple(size if numbers is None else len(numbers) for numbers, size in chosen)

    def addresses(self) -> Iterator[tuple[str, int, str]]:
        """Every selected (site, step, branch), sites in order, then steps."""
        for site in self.sites:
            order = {branch: i for i, branch in enumerate(self.space.branches_of(site))}
            yield from ((site, *key) for key in sorted(self._keys[site], key=lambda k: (k[0], order[k[1]])))

    @cached_property
    def tensors(self) -> int:
        """How many tensors a capture keeps in one run: selected (site, step, branch)."""
        return sum(len(keys) for keys in self._keys.values())

    def nbytes(self, itemsize: int = 2) -> int:
        """Bytes a capture keeps in one run, `shape_of` each tensor, at ``itemsize`` bytes a number (2: bfloat16)."""
        return itemsize * sum(len(keys) * math.prod(self.shape_of(site)) for site, keys in self._keys.items())

    def describe(self, itemsize: int = 2) -> str:
        """What it resolves to, in a few lines.

        Args:
            itemsize: bytes a number is kept in.
        """
        space, sigmas = self.space, [self.space.sigmas[step] for step in self.steps]
        experts = Counter(space.experts[step] for step in self.steps)
        noise = f"{sigmas[0]:.3f}" if len(sigmas) == 1 else f"{sigmas[0]:.3f} to {sigmas[-1]:.3f}"
        told = ", ".join(expert if len(experts) == 1 else f"{expert} {n}" for expert, n in experts.items())
        lines = [
            ("sites", f"{len(self.sites)} of {len(space.sites)}: {_sites_text(self.sites)}"),
            ("steps", f"{len(self.steps)} of {space.steps}: {runs_text(self.steps)} (sigma {noise}; expert {told})"),
            ("branches", ", ".join(self.branches)),
            ("tokens", self._tokens_text()),
            ("heads", self._heads_text()),
            ("tensors", f"{self.tensors:,}"),
            ("bytes", f"{size_text(self.nbytes(itemsize))} a run at {itemsize} bytes a number"),
        ]
        return "\n".join([self.text, *(f"  {name:<9}{value}" for name, value in lines if value)])

    def __str__(self) -> str:
        return self.describe()

    def _boxes_of(self, site: str) -> tuple[Box, ...]:
        self.keys_of(site)
        return self._by_site[site]

    def _tokens_text(self) -> str:
        grid = self.space.grid
        if not any("token" in self.space.axes_of(site) for site in self.sites):
            return ""
        if self.tokens is None:
            return f"all {grid.tokens}: {grid.frames} frames x {grid.rows} rows x {grid.cols} cols"
        axes = zip(*map(grid.coords, self.tokens), strict=True)
        frames, rows, cols = (runs_text(sorted(set(axis))) for axis in axes)
        return f"{len(self.tokens)} of {grid.tokens}, in frames {frames}, rows {rows}, cols {cols}"

    def _heads_text(self) -> str:
        chosen = [self.heads_of(site) for site in self.sites if "head" in self.space.axes_of(site)]
        numbers = _hull(chosen)
        return "" if not chosen else "all" if numbers is None else runs_text(numbers)


def size_text(nbytes: float) -> str:
    """Bytes for people: "1.2 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if nbytes < 1024 or unit == "TiB":
            return (
                f"{nbytes:.0f} B"
                if unit == "B"
                else f"{nbytes:.3g} {unit}"
                if nbytes < 1000
                else f"{nbytes:,.0f} {unit}"
            )
        nbytes /= 1024
    raise AssertionError


def _hull(sets: Iterable[tuple[int, ...] | None]) -> tuple[int, ...] | None:
    """The union of position sets; None, which stands for all, swallows the rest."""
    found: set[int] = set()
    empty = True
    for one in dict.fromkeys(sets):
        if one is None:
            return None
        empty = False
        found.update(one)
    return None if empty else tuple(sorted(found))


def _sites_text(sites: tuple[str, ...]) -> str:
    return ", ".join(sites) if len(sites) <= 4 else f"{sites[0]}, {sites[1]} … {sites[-1]}"
