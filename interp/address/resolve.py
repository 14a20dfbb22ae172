"""Resolving: from alternatives of terms to exact addresses, refusing every term that selects nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from interp.address.pattern import Pattern
from interp.address.resolution import Box, Part, Resolution
from interp.address.site import GUIDED, layer_of
from interp.address.space import AddressSpace
from interp.address.table import SITES
from interp.address.term import Term
from interp.errors import SelectionError, suggest


def resolve(alternatives: Sequence[Sequence[Term]], space: AddressSpace, text: str) -> Resolution:
    """See `interp.selection.Selection.resolve`."""
    boxes = tuple(box for terms in alternatives for box in _boxes(terms, space))
    chosen = {site for box in boxes for site in box.sites}
    steps = sorted({step for box in boxes for step in box.steps})
    branches = {branch for box in boxes for branch in box.branches}
    order = dict.fromkeys((*space.branches, GUIDED))
    return Resolution(
        sites=tuple(site for site in space.sites if site in chosen),
        steps=tuple(steps),
        branches=tuple(branch for branch in order if branch in branches),
        boxes=boxes,
        space=space,
        text=text,
    )


def _boxes(terms: Sequence[Term], space: AddressSpace) -> list[Box]:
    """The products in an intersection of terms; several, as sites differ in axes and branches."""
    sites = _common([_once(_sites, term, space) for term in terms], "hook point", terms)
    steps = _common([_steps(term, space) for term in terms], "step", terms)
    tokens = _common_or_all([_once(_tokens, term, space) for term in terms], "token", terms)
    branches = None
    if any(term.branch for term in terms):
        named = [dict.fromkeys(term.branch) for term in terms if term.branch]
        branches = _common(named, "branch", [term for term in terms if term.branch])
    groups: dict[tuple[tuple[str, ...], Part], list[str]] = {}
    for site in sites:
        own = tuple(b for b in space.branches_of(site) if branches is None or b in branches)
        axes, width = space.axes_of(site), space.widths[site]
        heads = None
        if "head" in axes:
            size = width[axes.index("head")]
            heads = _common_or_all([_heads(term, size) for term in terms], "head", terms)
            heads = None if heads is None or len(heads) == size else heads
        part = Part(tokens if "token" in axes else None, heads)
        if own:
            groups.setdefault((own, part), []).append(site)
    if not groups:
        raise SelectionError(f"{_joined(terms)} has no branch in common, so it selects nothing")
    return [Box(tuple(names), steps, own, part) for (own, part), names in groups.items()]


def _once(find: Callable[[Term, AddressSpace], Any], term: Term, space: AddressSpace) -> Any:
    """``find(term, space)``, remembered by the space."""
    key = (find, term)
    if key not in space.found:
        space.found[key] = find(term, space)
    return space.found[key]


def _sites(term: Term, space: AddressSpace) -> dict[str, None]:
    """Sites that have what a term asks for, in order."""
    found: Sequence[str] = space.sites
    if term.pattern is not None:
        found = term.pattern.matches(space.sites, space.layer_counts)
        if not found:
            raise SelectionError(_absent(term.pattern, space))
    if term.layer is not None:
        layers = max(space.layer_counts.values(), default=0)
        wanted = set(term.layer.resolve(layers, "layer", "the model"))
        found = _kept(term, [site for site in found if layer_of(site) in wanted], "is in such a layer")
    if term.on_tokens:
        found = _kept(term, [site for site in found if "token" in space.axes_of(site)], "has tokens on the grid")
    if term.head is not None:
        found = _kept(term, [site for site in found if "head" in space.axes_of(site)], "has attention heads")
    if term.branch is not None:
        _check_branches(term.branch, space)
    return dict.fromkeys(_in_branch(term, found, space))


def _kept(term: Term, sites: list[str], what: str) -> list[str]:
    if not sites:
        raise SelectionError(f"{term} selects nothing: no hook point of this pattern {what}")
    return sites


def _in_branch(term: Term, sites: Sequence[str], space: AddressSpace) -> list[str]:
    wanted = None if term.branch is None else set(term.branch)
    found = [s for s in sites if any(wanted is None or b in wanted for b in space.branches_of(s))]
    if found:
        return found
    have = list(dict.fromkeys(b for site in sites for b in space.branches_of(site)))
    if have:
        raise SelectionError(f"{term} selects nothing: {sites[0]} is in branch {' and '.join(have)} only")
    raise SelectionError(f"{sites[0]} does not exist in this run: {_no_guidance(space)}")


def _check_branches(asked: Sequence[str], space: AddressSpace) -> None:
    for branch in asked:
        if branch not in (*space.branches, GUIDED):
            known = ", ".join((*space.branches, GUIDED))
            why = f" ({_no_guidance(space)})" if branch == "uncond" else suggest(branch, (*space.branches, GUIDED))
            raise SelectionError(f"this run has no branch {branch!r}{why}; it has {known}")


def _no_guidance(space: AddressSpace) -> str:
    return f"it has only the {' and '.join(space.branches)} pass, as guidance is off; set guidance_scale above 1"


def _absent(pattern: Pattern, space: AddressSpace) -> str:
    """Why a pattern that some model has matches nothing here."""
    text = pattern.text
    heavy = [site.name for site in SITES if site.heavy and pattern.fits_template(site.name)]
    if pattern.wild_end and heavy:
        return f"{text!r} matches only tensors too big to keep whole, such as {heavy[0]}; name the one you mean"
    for family, why in (("image", "it has no image encoder"), ("vace", "it is no VACE model")):
        if any(site.family == family and pattern.fits_template(site.name) for site in SITES):
            return f"this model has no {text!r}: {why}"
    return f"this model has no hook point {text!r}{suggest(text, space.sites)}"


def _steps(term: Term, space: AddressSpace) -> dict[int, None]:
    """Steps that a term allows."""
    steps = tuple(range(space.steps)) if term.step is None else term.step.resolve(space.steps, "step", "the run")
    if term.sigma is not None:
        sigmas = [space.sigmas[step] for step in steps]
        inside = [step for step in steps if space.sigmas[step] in term.sigma]
        if not inside:
            which = "the run goes" if term.step is None else f"steps {term.step} go"
            raise SelectionError(
                f"no step has sigma={term.sigma} (above low, up to high): {which} from {max(sigmas):.4g} "
                f"down to {min(sigmas):.4g}"
            )
        steps = tuple(inside)
    if term.expert is not None:
        known = tuple(dict.fromkeys(space.experts[: space.steps]))
        for expert in term.expert:
            if expert not in known:
                raise SelectionError(
                    f"this run has no expert {expert!r}{suggest(expert, known)}; it has {', '.join(known)}"
                )
        inside = [step for step in steps if space.experts[step] in term.expert]
        if not inside:
            raise SelectionError(
                f"{term} selects nothing: expert {' or '.join(term.expert)} runs at none of these steps"
            )
        steps = tuple(inside)
    return dict.fromkeys(steps)


def _tokens(term: Term, space: AddressSpace) -> dict[int, None] | None:
    """Tokens that a term allows, in order; None for all."""
    if not term.on_tokens:
        return None
    grid = space.grid
    sets: list[set[int]] = []
    if term.frames is not None or term.rows is not None or term.cols is not None:
        asked = ((term.frames, grid.frames, "frame"), (term.rows, grid.rows, "row"), (term.cols, grid.cols, "col"))
        frames, rows, cols = (range(n) if p is None else p.resolve(n, what, "the grid") for p, n, what in asked)
        sets.append({(f * grid.rows + r) * grid.cols + c for f in frames for r in rows for c in cols})
    if term.tokens is not None:
        sets.append(set(term.tokens.resolve(grid.tokens, "token", "the grid")))
    sets += [set(region.tokens(grid)) for region in (term.box, term.mask) if region is not None]
    if term.region is not None:
        sets.append({token for name in term.region for token in _region(name, space)})
    common = set.intersection(*sets)
    if not common:
        raise SelectionError(f"{term} selects nothing: its conditions on tokens have no token in common")
    return dict.fromkeys(sorted(common))


def _region(name: str, space: AddressSpace) -> tuple[int, ...]:
    """Tokens of a part of the sample's problem."""
    if space.sample is None or not space.sample.task:
        why = "no sample is known, or several are, which have none in common"
        if space.sample is not None:
            why = "its sample is of no task"
        raise SelectionError(
            f"region={name} cannot be found: {why}; run one sample at a time (lab.observe takes "
            "it as samples=), take a region_mean view, or say where it is with tokens=, box= or mask="
        )
    from interp.tasks import get

    return tuple(get(space.sample.task).region(space.sample, name, space.grid))


def _heads(term: Term, size: int) -> dict[int, None] | None:
    return None if term.head is None else dict.fromkeys(term.head.resolve(size, "head", "the model"))


def _common(sets: Sequence[dict], what: str, terms: Sequence[Term]) -> tuple:
    """What all sets share, in the order of the first."""
    found = tuple(item for item in sets[0] if all(item in other for other in sets[1:]))
    if not found:
        raise SelectionError(f"{_joined(terms)} selects nothing: there is no {what} in common")
    return found


def _common_or_all(sets: Sequence[dict[int, None] | None], what: str, terms: Sequence[Term]) -> tuple[int, ...] | None:
    given = [one for one in sets if one is not None]
    return _common(given, what, terms) if given else None


def _joined(terms: Sequence[Term]) -> str:
    return " & ".join(map(str, terms))
