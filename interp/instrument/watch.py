"""Capturing what an edit left: tensors that instrumented code makes go to the recorder from there, after the edit."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor

from interp.errors import SelectionError
from interp.hooks import Clock, Feed
from interp.instrument.place import needed
from interp.instrument.points import Points
from interp.sampler import Call
from interp.sites import site_named
from interp.views import ViewPlan

Address = tuple[str, int, str]  # site, step, branch

_MADE = {"attn": ("rot_q", "rot_k"), "cross_attn": ("z_img",), "block": ("attn_update", "mlp_update")}


class Watched:
    """The points of an editor, with what goes on shown to a recorder.

    Args:
        points: sees and changes the tensors first.
        sites: what is shown.
        wanted: whether a site is wanted in a forward.
        clock: says which forward is under way.

    Attributes:
        feed: receives the tensors; to be set before the first forward.
    """

    def __init__(
        self, points: Points, sites: Collection[str], wanted: Callable[[str, Call], bool], clock: Clock
    ) -> None:
        self.points, self.sites, self.wanted, self.clock = points, frozenset(sites), wanted, clock
        self.feed: Feed = _nowhere

    def wants(self, site: str) -> bool:
        """See `Points.wants`."""
        call = self.clock.call
        watched = site in self.sites and call is not None and self.wanted(site, call)
        return watched or self.points.wants(site)

    def emit(self, site: str, tensor: Tensor) -> Tensor:
        """See `Points.emit`."""
        tensor = self.points.emit(site, tensor)
        if site in self.sites and self.clock.call is not None:
            self.feed(site, self.clock.call, tensor)
        return tensor

    def closed(self, site: str) -> tuple[Any, ...]:
        """See `Points.closed`."""
        return self.points.closed(site)

    def knocked(self, site: str, closed: tuple[Any, ...], before: Tensor, after: Tensor) -> None:
        """See `Points.knocked`."""
        self.points.knocked(site, closed, before, after)


def _nowhere(site: str, call: Call, tensor: Tensor) -> None:
    raise AssertionError("feed is set before anything runs")


def watched_sites(
    inner: Collection[str], plan: ViewPlan, edited: Collection[Address], closed: Collection[Address]
) -> frozenset[str]:
    """Sites that a capture must take from instrumented code rather than recompute, for it to show what edits left.

    Args:
        inner: edited sites that are written by instrumented code.
        plan: what is captured.
        edited: addresses of edits.
        closed: addresses of knock-outs.

    Raises:
        SelectionError: a view, or a pattern, would show attention as it was before the edit.
    """
    found = set()
    for layer, part in needed(list(inner)):
        at = f"blocks.{layer}" if part == "block" else f"blocks.{layer}.{part}"
        found |= {f"{at}.hook_{op}" for op in _MADE[part]}
    for site in {name for name, _, _ in edited} & set(inner):
        if site_named(site).heavy:
            found.add(site)
        if site.endswith(".hook_attn_scores"):
            found.add(site.replace("attn_scores", "pattern"))
    for output in plan.outputs:
        at, _, op = output.given.site.rpartition(".hook_")
        if op not in ("pattern", "attn_scores"):
            continue
        scores, pattern = f"{at}.hook_attn_scores", f"{at}.hook_pattern"
        whole = output.made.sources == (output.site,)
        if _meet(plan, output.site, closed, (scores,)) or (
            not whole and _meet(plan, output.site, edited, (scores, pattern))
        ):
            raise SelectionError(
                f"{output.name} would show attention as it was before the edit of {scores} or {pattern}; capture "
                f"{at}.hook_z, or " + ("the pattern without a knock-out there" if whole else "rows of the pattern")
            )
    return frozenset(found)


def _meet(plan: ViewPlan, site: str, addresses: Collection[Address], at: tuple[str, ...]) -> bool:
    """Whether some of the addresses at these sites are in a forward in which a site is captured."""
    return any(name in at and plan.resolution.contains(site, step, branch) for name, step, branch in addresses)
