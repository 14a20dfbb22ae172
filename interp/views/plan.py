"""Views of everything that is selected: what will be stored under which name, how large it is, how it is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from interp.address.resolution import size_text
from interp.errors import InterpError, SelectionError
from interp.selection import Resolution
from interp.sites import site_named
from interp.views.view import Full, Given, Made, View

ITEMSIZES = {"bfloat16": 2, "float16": 2, "float32": 4}
LARGEST_FORMED = 8 * 2**30  # bytes of a pattern, of scores or results by head that may be formed, in one run


@dataclass(frozen=True)
class Output:
    """One view of one site: one stored tensor at each of its steps and branches.

    Attributes:
        name: it is stored under; see `stored_name`.
        site: the hook point.
        view, given, made: the view, what it works on and what it makes.
        dtype: it is kept in.
        cells: selected (step, branch) pairs.
    """

    name: str
    site: str
    view: View
    given: Given
    made: Made
    dtype: str
    cells: int

    @property
    def nbytes(self) -> int:
        """Bytes in one run."""
        return self.cells * math.prod(self.made.shape) * ITEMSIZES[self.dtype]


@dataclass(frozen=True)
class ViewPlan:
    """All views of all selected sites of a run.

    Attributes:
        resolution: what is selected.
        views: of each site.
        outputs: site by site, view by view.
    """

    resolution: Resolution
    views: tuple[View, ...]
    outputs: tuple[Output, ...] = field(repr=False)

    @classmethod
    def of(cls, resolution: Resolution, views: Sequence[View] = (), dtype: str = "bfloat16") -> ViewPlan:
        """The plan.

        Args:
            resolution: what is selected.
            views: see `interp.views.views_of`; the full tensors if empty.
            dtype: of what a view does not keep in a format of its own.

        Raises:
            SelectionError: a view does not fit a site, or would form a tensor too big to keep whole.
            InterpError: tensors are not kept in that dtype.
        """
        if dtype not in ITEMSIZES:
            raise InterpError(f"dtype={dtype!r} cannot be kept; choose one of {', '.join(ITEMSIZES)}")
        chosen = tuple(views) or (Full(),)
        outputs = []
        for site in resolution.sites:
            given = given_of(resolution, site)
            cells = len(resolution.keys_of(site))
            for view in chosen:
                made = view.plan(given)
                _check_formed(given, view, made)
                outputs.append(Output(stored_name(site, view), site, view, given, made, made.dtype or dtype, cells))
        return cls(resolution, chosen, tuple(outputs))

    @cached_property
    def nbytes(self) -> int:
        """Bytes a capture keeps in one run."""
        return sum(output.nbytes for output in self.outputs)

    @cached_property
    def tensors(self) -> int:
        """Tensors a capture keeps in one run."""
        return sum(output.cells for output in self.outputs)

    @property
    def plain(self) -> bool:
        """Whether the tensors are kept as they are and nothing else is."""
        return self.views == (Full(),)

    def provenance(self) -> dict[str, Any]:
        """What a store needs to describe its views: their declarations, and what positions on new axes stand for."""
        coords = {o.name: {axis: list(at) for axis, at in o.made.coords.items()} for o in self.outputs if o.made.coords}
        return {"declared": [view.declaration() for view in self.views], "coords": coords}


def stored_name(site: str, view: View) -> str:
    """The name a view of a site is stored under: "blocks.3.hook_resid_post@frame_mean"; the site's own for `full`."""
    return site if isinstance(view, Full) else f"{site}@{view.name}"


def given_of(resolution: Resolution, site: str) -> Given:
    """What is selected of a site, as a view gets it."""
    space = resolution.space
    return Given(
        site=site,
        axes=space.axes_of(site),
        shape=resolution.shape_of(site),
        tokens=resolution.tokens_of(site),
        heads=resolution.heads_of(site),
        grid=space.grid,
    )


def _check_formed(given: Given, view: View, made: Made) -> None:
    """Refuse what would form a tensor too big to keep whole, though little of it may be kept."""
    nbytes = 4 * math.prod(given.shape)
    if site_named(given.site).heavy and made.sources == (given.site,) and nbytes > LARGEST_FORMED:
        raise SelectionError(
            f"{view.name} of {given.site} would form {size_text(nbytes)} for every run of a batch, in each step and "
            f"branch, more than {size_text(LARGEST_FORMED)}; select some tokens or heads, or take a view that never "
            "forms a pattern: attention_mass-frames-to-frames, attention_entropy, attention_top-8"
        )
