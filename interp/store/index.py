"""The index of a shard: one JSON text in it that says where everything lies and what its checksums are.

It repeats what HDF5 attributes say to a reader who knows nothing of this package, so that 5,000 shards can be opened
without HDF5 (8 ms each) in a second. The manifest holds its checksum, and it holds those of all else, so every byte is
covered. Whatever an index claims is checked against the size of its file before anything is read or allocated.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from interp.errors import InterpError
from interp.store.blocks import LARGE, PAGE, BlockPlan
from interp.store.dtypes import DTYPES
from interp.store.int8 import is_beside
from interp.store.layout import MOST_AXES, RunLayout, SiteLayout, check_name, from_json
from interp.store.zstd import MOST

VERSION = 1
CODED_VERSION = 2
"""Of files with a codec, which releases that know only version 1 refuse."""
SHARD = "wan-interp-shard"
MANY = "wan-interp-consolidated"
LARGEST_INDEX = 1 << 26


@dataclass(frozen=True)
class Piece:
    """Small numbers somewhere in a file, with one checksum.

    Attributes:
        offset: first byte.
        shape: sizes.
        dtype: number format by its NumPy name ("float64", "bool", "uint64" ...).
        xxh3: of the bytes.
    """

    offset: int
    shape: tuple[int, ...]
    dtype: str
    xxh3: str

    ALLOWED = ("bool", "int64", "uint64", "float64", "float32", "int32", "int16", "int8", "uint8")

    def __post_init__(self) -> None:
        if self.dtype not in self.ALLOWED or min(self.shape, default=1) < 0 or len(self.shape) > MOST_AXES:
            raise ValueError(f"numbers of shape {self.shape} and dtype {self.dtype}")

    @property
    def nbytes(self) -> int:
        """Bytes."""
        itemsize = 1 if self.dtype.endswith(("bool", "int8")) else int(self.dtype[-2:]) // 8
        return math.prod(self.shape) * itemsize


@dataclass(frozen=True)
class SiteEntry:
    """Where one site lies.

    Attributes:
        layout: what it is; its ``tokens`` are None here, see ``tokens``.
        offset: first byte.
        plan: how it is cut into blocks.
        checksums: where the blocks' checksums lie.
        tokens: which of the index's token sets is kept; None for all tokens.
        chunks: for codec "zstd", (first byte, bytes) of each block; ``offset`` says nothing then.
    """

    layout: SiteLayout
    offset: int
    plan: BlockPlan
    checksums: Piece
    tokens: int | None
    chunks: tuple[tuple[int, int], ...] = ()

    @property
    def data(self) -> list[tuple[int, int]]:
        """Byte ranges [start, stop) of the data."""
        if self.layout.chunk is None:
            return [(self.offset, self.offset + self.plan.nbytes)]
        return [(start, start + nbytes) for start, nbytes in self.chunks]


@dataclass(frozen=True)
class Index:
    """A shard's table of contents.

    Attributes:
        run: the run's layout; ``tokens`` of its sites are None (they are in ``token_sets``).
        sites: where each site lies, by name.
        token_sets: kept tokens, each set once.
        labels: scalars, and where arrays lie.
        runs: in a site-major file, the keys of its runs; else empty.
        sums: in a site-major file, the checksum of each run's own index when it was made.
        rest: xxh3 of all bytes of the file that are neither data of sites nor the index itself.
    """

    run: RunLayout
    sites: Mapping[str, SiteEntry]
    token_sets: tuple[Piece, ...]
    labels: Mapping[str, Any] = field(hash=False)
    runs: tuple[str, ...] = ()
    sums: tuple[str, ...] = ()
    rest: str = "0" * 16

    def data(self) -> list[tuple[int, int]]:
        """Byte ranges [start, stop) of the sites' data, ascending."""
        return sorted(each for entry in self.sites.values() for each in entry.data)

    @property
    def shown(self) -> tuple[str, ...]:
        """Sites, without those that codec "int8" keeps beside others."""
        return tuple(name for name in self.sites if not is_beside(name, self.sites))

    def to_json(self) -> str:
        """As text."""
        run = self.run
        body = {
            "format": MANY if self.runs else SHARD,
            "version": version_of(run),
            **run_fields(run),
            "token_sets": [_piece_json(piece) for piece in self.token_sets],
            "sites": [_site_json(entry) for entry in self.sites.values()],
            "labels": {k: _piece_json(v) if isinstance(v, Piece) else v for k, v in self.labels.items()},
            "runs": self.runs,
            "sums": self.sums,
            "rest": self.rest,
        }
        return json.dumps(body, sort_keys=True, separators=(",", ":"))

    @staticmethod
    def parse(text: bytes, run: str, at: int, size: int) -> Index:
        """Read an index.

        Args:
            text: the JSON.
            run: key of the run it should be of.
            at: its first byte.
            size: bytes of its file; nothing may lie beyond.

        Raises:
            ValueError: it is not a shard's index, is of another version or run, or contradicts itself or the file.
        """
        body = from_json(text)
        if not isinstance(body, dict) or body.get("format") not in (SHARD, MANY):
            raise ValueError("it is not a file of a wan-interp store")
        if body.get("version") not in (VERSION, CODED_VERSION):
            said = f"{VERSION} and {CODED_VERSION}"
            raise ValueError(f"it has format version {body.get('version')!r}, and this release reads {said}")
        if body.get("run") != run:
            raise ValueError(f"it holds the run {body.get('run')!r}")
        try:
            index = _parse(body)
        except (KeyError, TypeError, AttributeError, IndexError, OverflowError, InterpError) as error:
            raise ValueError(f"its index makes no sense ({type(error).__name__}: {error})") from error
        if body["version"] != version_of(index.run):
            raise ValueError(f"it has format version {body['version']}, which its codecs are not of")
        _check_places(index, (at, at + len(text)), size)
        return index


def version_of(run: RunLayout) -> int:
    """The oldest format version that has what a run needs."""
    return CODED_VERSION if any(site.codec for site in run.sites) else VERSION


def run_fields(run: RunLayout) -> dict[str, Any]:
    """A run's layout without its sites, as JSON-ready data."""
    return {
        "run": run.run,
        "steps": run.steps,
        "sigmas": run.sigmas,
        "timesteps": run.timesteps,
        "experts": run.experts,
        "branches": run.branches,
        "grid": grid_fields(run.grid),
        "provenance": run.provenance,
    }


def run_of(fields: Mapping[str, Any], sites: Iterable[SiteLayout]) -> RunLayout:
    """The layout of such data."""
    return RunLayout(
        run=fields["run"],
        sites=tuple(sites),
        steps=tuple(map(int, fields["steps"])),
        sigmas=tuple(map(float, fields["sigmas"])),
        timesteps=tuple(map(float, fields["timesteps"])),
        experts=tuple(map(str, fields["experts"])),
        branches=tuple(map(str, fields["branches"])),
        grid=grid_of(fields["grid"]),
        provenance=dict(fields["provenance"]),
    )


def site_fields(site: SiteLayout) -> dict[str, Any]:
    """A site's layout as JSON-ready data."""
    return {
        "site": site.site,
        "axes": site.axes,
        "shape": site.shape,
        "dtype": site.dtype,
        "branches": site.branches,
        "tokens": site.tokens,
        **({"codec": site.codec} if site.codec else {}),
    }


def site_of(fields: Mapping[str, Any]) -> SiteLayout:
    """The layout of such data."""
    return SiteLayout(
        site=fields["site"],
        axes=tuple(map(str, fields["axes"])),
        shape=tuple(map(int, fields["shape"])),
        dtype=fields["dtype"],
        tokens=None if fields["tokens"] is None else tuple(map(int, fields["tokens"])),
        branches=None if fields["branches"] is None else tuple(map(str, fields["branches"])),
        codec=fields.get("codec"),
    )


def grid_fields(grid: Any) -> dict[str, Any]:
    """A token grid as JSON-ready data."""
    names = ("frames", "rows", "cols", "vae_spatial", "vae_temporal")
    return {name: int(getattr(grid, name)) for name in names} | {"patch": [int(p) for p in grid.patch]}


def grid_of(fields: Mapping[str, Any]) -> Any:
    """The `interp.grid.TokenGrid` of such data."""
    from interp.grid import TokenGrid

    frame, row, col = map(int, fields["patch"])
    numbers = {name: int(value) for name, value in fields.items() if name != "patch"}
    return TokenGrid(**numbers, patch=(frame, row, col))


def _piece_json(piece: Piece) -> dict[str, Any]:
    return {"offset": piece.offset, "shape": piece.shape, "dtype": piece.dtype, "xxh3": piece.xxh3}


def _piece(body: Mapping[str, Any]) -> Piece:
    return Piece(int(body["offset"]), tuple(map(int, body["shape"])), str(body["dtype"]), str(body["xxh3"]))


def _site_json(entry: SiteEntry) -> dict[str, Any]:
    return {
        **site_fields(entry.layout),
        "tokens": entry.tokens,
        "offset": entry.offset,
        "blocks": [entry.plan.together, entry.plan.block_nbytes],
        "checksums": _piece_json(entry.checksums),
        **({"chunks": entry.chunks} if entry.chunks else {}),
    }


def _parse(body: Mapping[str, Any]) -> Index:
    sites = {}
    runs = tuple(check_name(run, "run key") for run in body["runs"])
    if len(set(runs)) != len(body["sums"]) or bool(runs) != (body["format"] == MANY):
        raise ValueError(f"it lists {len(runs)} runs")
    token_sets = tuple(_piece(piece) for piece in body["token_sets"])
    for item in body["sites"]:
        layout = site_of({**item, "tokens": None})
        together, block_nbytes = map(int, item["blocks"])
        cells = layout.cells * max(1, len(runs))
        plan = BlockPlan(cells, layout.cell_nbytes, together, block_nbytes)
        chunks = tuple((int(at), int(count)) for at, count in item.get("chunks", ()))
        entry = SiteEntry(layout, int(item["offset"]), plan, _piece(item["checksums"]), item["tokens"], chunks)
        _check_chunks(entry)
        if layout.dtype not in DTYPES or not (1 <= together <= cells and _sensible(plan, layout)):
            raise ValueError(f"its site {layout.site} has impossible blocks")
        if entry.checksums.shape != (plan.count,) or entry.checksums.dtype != "uint64":
            raise ValueError(f"its site {layout.site} has {entry.checksums.shape} checksums for {plan.count} blocks")
        if entry.tokens is not None:
            (count,) = token_sets[entry.tokens].shape
            if "token" not in layout.axes or count != layout.shape[layout.axes.index("token")]:
                raise ValueError(f"its site {layout.site} does not fit its tokens")
        if layout.site in sites:
            raise ValueError(f"it has the site {layout.site} twice")
        sites[layout.site] = entry
    run = run_of(body, (entry.layout for entry in sites.values()))
    labels = {check_name(name, "label"): _label(value) for name, value in body["labels"].items()}
    return Index(run, sites, token_sets, labels, runs, tuple(map(str, body["sums"])), str(body["rest"]))


def _label(value: Any) -> Any:
    """A scalar, or where an array lies."""
    if isinstance(value, dict):
        return _piece(value)
    if not isinstance(value, bool | int | float | str) or (isinstance(value, int) and not -(2**63) <= value < 2**63):
        raise ValueError(f"it has a label that is {str(value)[:20]!r}")
    return value


def _sensible(plan: BlockPlan, layout: SiteLayout) -> bool:
    """Blocks that are neither so long that a token of one fills the memory, nor so short that their checksums do."""
    return layout.chunk is not None or min(PAGE, plan.nbytes) <= plan.block_nbytes <= LARGE


def _check_chunks(entry: SiteEntry) -> None:
    """What is stored in few bytes may not claim to be much: nothing is unfolded before its size was believed."""
    layout, plan = entry.layout, entry.plan
    if layout.chunk is None:
        if entry.chunks:
            raise ValueError(f"its site {layout.site} has chunks")
        return
    whole = math.prod(layout.chunk) * layout.kind.itemsize
    if plan != BlockPlan.coded(plan.cells, layout.cell_nbytes, whole) or len(entry.chunks) != plan.count:
        raise ValueError(f"its site {layout.site} has {len(entry.chunks)} chunks, which do not make it up")
    if any(not whole // MOST < nbytes <= whole for _, nbytes in entry.chunks):
        raise ValueError(f"its site {layout.site} claims to be much larger than what is stored")


def _check_places(index: Index, own: tuple[int, int], size: int) -> None:
    arrays = [label for label in index.labels.values() if isinstance(label, Piece)]
    pieces = [*index.token_sets, *arrays, *(entry.checksums for entry in index.sites.values())]
    ranges = sorted([*index.data(), *((piece.offset, piece.offset + piece.nbytes) for piece in pieces), own])
    at = 0
    for start, stop in ranges:
        if start < at or stop > size:
            raise ValueError(
                f"its index points to bytes {start}-{stop} of {size}, which overlap others or do not exist"
            )
        at = stop
