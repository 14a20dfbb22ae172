"""What a run's shard holds, said before the first byte is written: sites, their named axes, steps, grid, provenance."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from interp.errors import StoreError, suggest
from interp.store.dtypes import DType, dtype_named

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@\-]{0,199}")
"""Run keys, sites and labels: they become file and HDF5 names, so no slash, no leading dot. "@" comes before a view."""

CODECS = ("zstd", "int8")
SAID = "'zstd' (without loss), 'int8' (with) or None"
CODED_NBYTES = 1 << 20

LARGEST = 1 << 50
"""Bytes one site of one run may take; more is a mistake or an attack."""

MOST_AXES = 32
"""Axes that HDF5 has at most, less one for runs in site-major files."""

MOST_STEPS = 1 << 20
"""Steps of a schedule; more is a mistake or an attack."""

TAKEN = ("run", "values")
"""Names of axes and columns that tables and site-major files add."""


@dataclass(frozen=True)
class SiteLayout:
    """One site of one run.

    Attributes:
        site: hook point, as "blocks.3.hook_resid_post".
        axes: names of the axes, ("step", "branch", <site axes>).
        shape: sizes of the axes.
        dtype: number format, see `interp.store.dtypes.DTYPES`.
        tokens: indices on the full token grid (row-major) along the axis "token"; None where all are kept or the site
            has no such axis.
        branches: names along the axis "branch"; None stands for those of the run.
        codec: how the numbers are stored: "zstd", without loss; "int8", with one scale for each channel, that is place
            along the last axis, of each (step, branch); None, as they are. Reading gives ``dtype`` in any case.
    """

    site: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    tokens: tuple[int, ...] | None = None
    branches: tuple[str, ...] | None = None
    codec: str | None = None

    def __post_init__(self) -> None:
        where = f"layout of site {self.site!r}"
        check_name(self.site, "site")
        if self.axes[:2] != ("step", "branch") or len(set(self.axes)) != len(self.axes):
            raise StoreError(f"{where}: axes are {self.axes}; they must be different and begin with 'step', 'branch'")
        if len(self.axes) >= MOST_AXES or set(self.axes) & set(TAKEN):
            raise StoreError(f"{where}: axes are {self.axes}; fewer than {MOST_AXES} can be, and none of them {TAKEN}")
        if len(self.axes) != len(self.shape) or min(self.shape) < 1:
            raise StoreError(f"{where}: shape {self.shape} does not give a size of at least 1 to each of {self.axes}")
        if self.nbytes > LARGEST:
            raise StoreError(
                f"{where}: shape {self.shape} of {self.dtype} is {self.nbytes} bytes, which cannot be meant"
            )
        if self.tokens is not None:
            if "token" not in self.axes:
                raise StoreError(f"{where}: tokens are chosen, but none of its axes {self.axes} is 'token'")
            if len(self.tokens) != self.shape[self.axes.index("token")]:
                raise StoreError(f"{where}: {len(self.tokens)} tokens are chosen, but the shape is {self.shape}")
        if self.branches is not None and not len(self.branches) == len(set(self.branches)) == self.shape[1]:
            raise StoreError(f"{where}: branches are {self.branches}, but the shape is {self.shape}")
        if self.codec not in (None, *CODECS):
            raise StoreError(
                f"{where}: codec {self.codec!r} is not known{suggest(str(self.codec), CODECS)}; use {SAID}"
            )
        if self.codec == "int8" and (len(self.axes) < 3 or "float" not in self.dtype):
            raise StoreError(f"{where}: codec 'int8' needs an axis of channels and floating-point numbers")

    @cached_property
    def kind(self) -> DType:
        """The number format in the file."""
        return dtype_named("int8" if self.codec == "int8" else self.dtype)

    @cached_property
    def given(self) -> DType:
        """The number format that is written and read."""
        return dtype_named(self.dtype)

    @cached_property
    def chunk(self) -> tuple[int, ...] | None:
        """For codec "zstd", the shape [step, branch, <site axes>] that is coded together: about 1 MiB in the file's
        order, so that a block's bytes follow one another. None for others."""
        if self.codec != "zstd":
            return None
        if self.cell_nbytes < CODED_NBYTES:
            steps = -(-CODED_NBYTES // (self.shape[1] * self.cell_nbytes))
            return (min(steps, self.shape[0]), *self.shape[1:])
        rows = max(1, CODED_NBYTES // (self.cell_nbytes // self.cell_shape[0]))
        return (1, 1, rows, *self.cell_shape[1:])

    @property
    def cells(self) -> int:
        """(step, branch) pairs."""
        return self.shape[0] * self.shape[1]

    @property
    def cell_shape(self) -> tuple[int, ...]:
        """Sizes of the site's own axes, those after step and branch."""
        return self.shape[2:]

    @property
    def cell_nbytes(self) -> int:
        """Bytes of one (step, branch)."""
        return math.prod(self.cell_shape) * self.kind.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of the whole site."""
        return self.cells * self.cell_nbytes


@dataclass(frozen=True)
class RunLayout:
    """Everything about a run that is known before it starts.

    Attributes:
        run: key of the run, unique in its store.
        sites: what is kept of it.
        steps: indices in the sampler's schedule of the steps that are kept, ascending.
        sigmas: noise level of each of them.
        timesteps: what the model was told, for each of them.
        experts: "high", "low" or "main", for each of them.
        branches: "cond", "uncond".
        grid: token grid, with frames, rows, cols, patch, vae_spatial, vae_temporal.
        provenance: everything that determined the run, JSON-ready; "seed", "sample", "prompt", "model" and "task" are
            shown in tables.
    """

    run: str
    sites: tuple[SiteLayout, ...]
    steps: tuple[int, ...]
    sigmas: tuple[float, ...]
    timesteps: tuple[float, ...]
    experts: tuple[str, ...]
    branches: tuple[str, ...]
    grid: Any
    provenance: Mapping[str, Any] = field(hash=False)

    def __post_init__(self) -> None:
        check_name(self.run, "run key")
        where = f"layout of run {self.run}"
        if not self.sites:
            raise StoreError(f"{where}: no sites; select at least one hook point")
        if len({site.site for site in self.sites}) != len(self.sites):
            raise StoreError(f"{where}: a site is named twice among {[site.site for site in self.sites]}")
        for name in ("sigmas", "timesteps", "experts"):
            if len(getattr(self, name)) != len(self.steps):
                raise StoreError(f"{where}: {len(getattr(self, name))} {name} for {len(self.steps)} steps")
        if list(self.steps) != sorted(set(self.steps)) or not all(0 <= step < MOST_STEPS for step in self.steps):
            raise StoreError(f"{where}: steps {self.steps} are not ascending numbers of steps")
        if len(set(self.branches)) != len(self.branches):
            raise StoreError(f"{where}: a branch is named twice among {self.branches}")
        tokens = self.grid.frames * self.grid.rows * self.grid.cols
        for site in self.sites:
            if site.shape[0] != len(self.steps) or site.shape[1] != len(site.branches or self.branches):
                raise StoreError(
                    f"{where}: site {site.site} has shape {site.shape} for {len(self.steps)} steps and branches "
                    f"{site.branches or self.branches}"
                )
            if site.tokens is not None and not (min(site.tokens) >= 0 and max(site.tokens) < tokens):
                raise StoreError(f"{where}: site {site.site} keeps tokens outside the grid of {tokens}")
        to_json(self.provenance, f"{where}: provenance")

    @property
    def stored(self) -> RunLayout:
        """With the sites that codec "int8" puts beside those it is used on."""
        from interp.store import int8

        have = {site.site for site in self.sites}
        sites: list[SiteLayout] = []
        for site in self.sites:
            more = int8.beside(site) if site.codec == "int8" else ()
            sites += [site, *(one for one in more if one.site not in have)]
        return replace(self, sites=tuple(sites))

    @property
    def nbytes(self) -> int:
        """Bytes of all sites, before compression."""
        return sum(site.nbytes for site in self.sites)

    def branches_of(self, site: SiteLayout) -> tuple[str, ...]:
        """Names along a site's axis "branch"."""
        return site.branches or self.branches

    def site_named(self, name: str) -> SiteLayout:
        """A site of this run.

        Raises:
            StoreError: it was not kept.
        """
        return find_site(name, {site.site: site for site in self.sites}, f"run {self.run}")


def check_name(name: str, what: str) -> str:
    """Give the name back.

    Raises:
        StoreError: it cannot be a file and HDF5 name.
    """
    if not NAME.fullmatch(name) or ".tmp." in name:
        raise StoreError(f"{what} {name!r} cannot be stored; use up to 200 letters, digits, '_', '-', '.' and '@'")
    return name


def find_site(name: str, sites: Mapping[str, Any], where: str) -> Any:
    """The value under a site's name.

    Raises:
        StoreError: there is none.
    """
    if name not in sites:
        near = suggest(name, sites) or f"; there are {few(sorted(sites))}"
        raise StoreError(f"site {name!r} is not in {where}{near}")
    return sites[name]


def to_json(value: Any, what: str) -> str:
    """Compact JSON with sorted keys.

    Raises:
        StoreError: it is not JSON-ready, or would not come back as it is.
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"{what} is not JSON-ready: {error}") from error
    return text


def from_json(text: bytes) -> Any:
    """What JSON says.

    Raises:
        ValueError: it is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def few(values: Sequence[str | int], limit: int = 8) -> str:
    """Some names or numbers, for an error; numbers that follow one another as a range."""
    first, last = (values[0], values[-1]) if len(values) > 1 else ("", "")
    if isinstance(first, int) and isinstance(last, int) and list(values) == list(range(first, last + 1)):
        return f"{first}-{last}"
    more = f" and {len(values) - limit} more" if len(values) > limit else ""
    return ", ".join(map(str, values[:limit])) + more
