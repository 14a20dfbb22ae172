"""The address space of a run: every address there is, for selections to be resolved against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from interp.address.names import DEFAULT_FAMILIES, concrete_sites, site_named
from interp.address.pattern import layer_counts
from interp.address.shapes import TEXT_TOKENS, axes_of, setting, site_shape, sizes_of
from interp.address.site import GUIDED
from interp.errors import SelectionError
from interp.grid import TokenGrid
from interp.tasks.sample import Sample


@dataclass(frozen=True)
class AddressSpace:
    """Every address of a run.

    Attributes:
        sites: concrete hook points.
        steps: number of steps.
        sigmas: noise level of each step; a last one after the steps is ignored.
        experts: "high", "low" or "main" for each step.
        branches: passes of a step in call order; ("cond",) without guidance.
        grid: the token grid.
        widths: shape of each site without the batch.
        sample: the problem, for selections of its regions; None where there is no one sample.
    """

    sites: tuple[str, ...]
    steps: int
    sigmas: tuple[float, ...]
    experts: tuple[str, ...]
    branches: tuple[str, ...]
    grid: TokenGrid
    widths: Mapping[str, tuple[int, ...]]
    sample: Sample | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.sigmas) < self.steps or len(self.experts) < self.steps:
            raise SelectionError(
                f"{self.steps} steps need as many sigmas and experts, not {len(self.sigmas)} and {len(self.experts)}"
            )
        missing = [site for site in self.sites if site not in self.widths]
        if missing:
            raise SelectionError(f"the shape of {missing[0]} is missing from widths")

    @classmethod
    def of_model(
        cls,
        config: Mapping[str, Any] | Any,
        grid: TokenGrid,
        *,
        sigmas: Sequence[float],
        experts: Sequence[str] | None = None,
        branches: Sequence[str] = ("cond",),
        text_tokens: int = TEXT_TOKENS,
        image_tokens: int = 257,
        per_token_time: bool = False,
        sample: Sample | None = None,
    ) -> AddressSpace:
        """The space of a run with a transformer of this config.

        Args:
            config: ``model.config`` of a ``WanTransformer3DModel``, or a dict of it.
            grid: the token grid of the video.
            sigmas: noise level of each step.
            experts: expert of each step; "main" if None.
            branches: passes of a step.
            text_tokens: text tokens after padding.
            image_tokens: tokens of the image encoder, ignored for models without one; 514 for first-last-frame.
            per_token_time: every token has its own timestep (TI2V).
            sample: the problem, for selections of its regions.
        """
        sizes = sizes_of(
            config, grid, text_tokens=text_tokens, image_tokens=image_tokens, per_token_time=per_token_time
        )
        layers, vace = setting(config, "num_layers"), len(setting(config, "vace_layers") or ())
        more = {family for family, there in (("image", sizes["image_tokens"]), ("vace", vace)) if there}
        sites = concrete_sites(layers, DEFAULT_FAMILIES | more, vace_layers=vace)
        return cls(
            sites=sites,
            steps=len(sigmas),
            sigmas=tuple(map(float, sigmas)),
            experts=("main",) * len(sigmas) if experts is None else tuple(experts),
            branches=tuple(branches),
            grid=grid,
            widths=_widths(sites, tuple(sizes.items())),
            sample=sample,
        )

    @cached_property
    def layer_counts(self) -> dict[str, int]:
        """Number of layers: {"blocks": 30}."""
        return dict(_layer_counts(self.sites))

    @cached_property
    def found(self) -> dict[Any, Any]:
        """What resolving has found so far: selections of a sweep have most of their terms in common."""
        return {}

    def axes_of(self, site: str) -> tuple[str, ...]:
        """Axes of a site in this run, without the batch."""
        return _axes(site, self.widths[site])

    def branches_of(self, site: str) -> tuple[str, ...]:
        """Branches in which a site exists: those of the run, or the one it belongs to, or none."""
        own = site_named(site).branch
        if own is None:
            return self.branches
        return (own,) if own == GUIDED or own in self.branches else ()


@lru_cache(maxsize=64)  # every run of a size has the same
def _widths(sites: tuple[str, ...], sizes: tuple[tuple[str, Any], ...]) -> Mapping[str, tuple[int, ...]]:
    """Shape of each site without the batch; ``sizes`` are the arguments of `site_shape`."""
    return {site: site_shape(site_named(site), **dict(sizes)) for site in sites}


@lru_cache(maxsize=64)
def _layer_counts(sites: tuple[str, ...]) -> Mapping[str, int]:
    return layer_counts(sites)


@lru_cache(maxsize=8192)  # every run asks again
def _axes(name: str, width: tuple[int, ...]) -> tuple[str, ...]:
    site, rank = site_named(name), len(width)
    axes = axes_of(site, per_token_time=rank == len(site.axes) + 1)
    if len(axes) != rank:
        raise SelectionError(f"{name} has axes {axes}, but its shape in widths is {width}")
    return axes
