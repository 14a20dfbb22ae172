"""Views by name: "grid_pool-4x4" to the view and back, and out of a store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from interp.errors import SelectionError, suggest
from interp.views.attention import AttentionEntropy, AttentionMass, AttentionTop
from interp.views.axes import Reduce, reduce
from interp.views.direction import Project, RandomProjection
from interp.views.pool import FrameMean, GridPool, RegionMean, TokenMean
from interp.views.statistics import Covariance, Norm
from interp.views.view import Full, View

_ALL: tuple[type[View], ...] = (
    Full,
    FrameMean,
    TokenMean,
    RegionMean,
    GridPool,
    Norm,
    Reduce,
    Covariance,
    Project,
    RandomProjection,
    AttentionMass,
    AttentionEntropy,
    AttentionTop,
)
KINDS: dict[str, type[View]] = {kind.kind: kind for kind in _ALL}


def parse(text: str, declared: Iterable[View] = ()) -> View:
    """The view of a name.

    Args:
        text: as ``view.name`` gives it: "frame_mean", "norm-robust", "grid_pool-4x4"; or an axis pattern of which the
            mean is meant, "(f h w) d -> f d".
        declared: views to look among first, for names that do not hold everything (given directions, given sets).

    Raises:
        SelectionError: no such view, with the nearest names.
    """
    known = {view.name: view for view in declared}
    if text in known:
        return known[text]
    if "->" in text:
        return reduce(text)
    kind, *said = str(text).split("-")
    if kind not in KINDS:
        raise SelectionError(f"there is no view {text!r}{suggest(kind, KINDS)}; there are {', '.join(KINDS)}")
    if any("." in part for part in said):
        raise SelectionError(f"the name {text!r} does not hold all of the view; give the view it was made from")
    return KINDS[kind].of_parameters(said)


def view_of(declared: Mapping[str, Any]) -> View:
    """The view of its declaration, as kept in a store.

    Raises:
        SelectionError: it does not say what its name says.
    """
    kind = KINDS.get(str(declared["view"]).split("-")[0])
    maker = getattr(kind, "of_declaration", None)
    view = parse(declared["view"]) if maker is None else maker(declared)
    if view.name != declared["view"]:
        raise SelectionError(f"the declaration of {declared['view']!r} makes {view.name!r}; it was changed")
    return view


def kept_views(store: Any, run: str | None = None) -> dict[str, View]:
    """Views that a run of a store was captured with, by name.

    Args:
        store: an `interp.Store`.
        run: key of the run; the first if None.
    """
    provenance = store.layout(store.runs[0] if run is None else run).provenance
    return {one["view"]: view_of(one) for one in provenance.get("views", {}).get("declared", [])}


def views_of(said: str | View | Sequence[str | View] | None) -> tuple[View, ...]:
    """Views from a name, a view, or several; nothing stands for `full` alone.

    Raises:
        SelectionError: no such view, or one twice.
    """
    given = [] if said is None else [said] if isinstance(said, str | View) else list(said)
    found = [one if isinstance(one, View) else parse(one) for one in given] or [Full()]
    names = [view.name for view in found]
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise SelectionError(f"the view {twice[0]!r} is named twice")
    return tuple(found)
