"""Hands a store's numbers to other tools: one file per site, plus the table of runs. Streamed, a few at a time."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.errors import StoreError
from interp.store.disk import allocate, bytes_of, pwrite_all
from interp.store.exportfolder import ExportFolder, filling
from interp.store.index import Piece
from interp.store.layout import few
from interp.store.storefile import Shard
from interp.store.tables import runs_table

if TYPE_CHECKING:
    from interp.store.gather import Steps, Tokens
    from interp.store.store import Store
    from interp.store.view import SiteView

FORMATS = ("safetensors", "npy", "zarr")
SAFETENSORS = {
    "bfloat16": "BF16",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "int8": "I8",
    "uint8": "U8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
}
MEMORY = 256 << 20
"""Bytes that are read at once, but at least a step of a run."""


def export(
    store: Store,
    to: str | Path,
    sites: str = "*",
    form: str = "safetensors",
    step: Steps = None,
    branch: str | Sequence[str] | None = None,
    runs: Iterable[str] | None = None,
    tokens: Tokens = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Path, ...]:
    """Write ``<site>.safetensors``, ``.npy`` or ``.zarr`` for each site, ``labels/<name>.npy``, last ``runs.parquet``.

    Arrays are [run, step, branch, <site axes>], runs in the order of ``runs.parquet``. safetensors keeps bfloat16; npy
    and zarr have none, so they hold float32 there, to which every bfloat16 number converts exactly. safetensors and
    zarr say in their metadata what the axes, runs, steps and branches are, the sigmas if all runs have the same, and
    the tokens (indices on the full grid) if these are not all; a chunk that zarr does not find is NaN, not zeros.

    Args:
        store: the store.
        to: folder; made if missing. It must be empty, or hold nothing but what a killed export left, which is removed
            (``unfinished-export.jsonl`` in it says what that is, and is there for as long as an export is unfinished).
            After an error it is empty.
        sites: pattern of site names, as "blocks.*.hook_resid_post".
        form: "safetensors", "npy" or "zarr" (version 3; ``pip install wan-interp[zarr]``).
        step, runs, tokens: as in `Store.read`.
        branch: a branch or several; None is all that a site has.
        progress: called with the bytes done and the bytes in all.

    Returns:
        The files.

    Raises:
        StoreError: something asked is not there, the folder cannot be used, the runs do not have one shape, or zarr is
            not installed.
    """
    to = Path(to)
    if form not in FORMATS:
        raise StoreError(f"format {form!r} is not known; use {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    if form == "zarr" and find_spec("zarr") is None:
        raise StoreError("exporting to zarr needs zarr, which is not installed: pip install 'wan-interp[zarr]'")
    keys = store.chosen(runs)
    chosen = [site for site in store.sites if fnmatchcase(site, sites)]
    if not chosen:
        raise StoreError(f"no site of {store.path} matches {sites!r}; there are {few(store.sites)}")
    jobs = [_Job(store, site, keys, step, branch, tokens) for site in chosen]
    table = runs_table([Shard(store.path, store.line(run)) for run in keys])  # before hours of work: it may be refused
    done, total, written = 0, sum(job.nbytes for job in jobs), list[str]()
    try:
        with filling(to) as folder:
            for job in jobs:
                written.append(f"{job.site}.{form}")
                with folder.whole(written[-1]) as path:
                    for nbytes in job.write(path, form):
                        done += nbytes
                        if progress:
                            progress(done, total)
            written += _write_labels(store, folder, keys)
            written.append("runs.parquet")
            with folder.whole(written[-1]) as path:
                table.write_parquet(path)
    except OSError as error:
        raise StoreError(f"exporting to {to} failed: {error.strerror or error}") from error
    return tuple(to / name for name in written)


class _Job:
    """One site."""

    def __init__(
        self, store: Store, site: str, runs: Sequence[str], step: Steps, branch: str | Sequence[str] | None, tokens: Any
    ) -> None:
        self.site, self.runs, self.tokens = site, runs, tokens
        self.store = store
        view = store.view(site, runs)
        branches = view.parts[0].branches if branch is None else [branch] if isinstance(branch, str) else branch
        self.steps, self.branches = view.choose(step, branches)[0].kept
        self.kind = view.layout.given
        self.shape = (len(runs), len(self.steps), len(self.branches), *view.cell_shape(tokens))
        self.nbytes = math.prod(self.shape) * self.kind.itemsize
        of_step = self.nbytes // len(runs) // len(self.steps)
        self.steps_at_once = max(1, min(len(self.steps), MEMORY // of_step))
        self.runs_at_once = max(1, MEMORY // (of_step * len(self.steps)))
        self.about = {
            "axes": ["run", *view.layout.axes],
            "runs": list(runs),
            "steps": list(self.steps),
            "branches": list(self.branches),
            **_sigmas(view, self.steps),
            **_tokens(view, tokens),
        }

    def write(self, path: Path, form: str) -> Iterator[int]:
        """Write the file; gives the bytes of each portion."""
        return self._write_zarr(path) if form == "zarr" else self._write_file(path, form)

    def _write_file(self, path: Path, form: str) -> Iterator[int]:
        head = self._safetensors_head() if form == "safetensors" else self._npy_head()
        with path.open("wb") as file:
            itemsize = (self.kind.bits if form == "safetensors" else self.kind.values).itemsize
            allocate(file.fileno(), len(head) + math.prod(self.shape) * itemsize, f"exporting site {self.site}")
            pwrite_all(file.fileno(), head, 0)
            at = len(head)
            for _, _, bits in self._portions():
                data = bytes_of(bits if form == "safetensors" else self.kind.widen(bits))
                pwrite_all(file.fileno(), data, at)
                at += data.nbytes
                yield bits.nbytes

    def _write_zarr(self, path: Path) -> Iterator[int]:
        """A chunk is one step and branch of the runs of a portion."""
        import zarr

        array = zarr.create_array(
            store=path,
            shape=self.shape,
            chunks=(min(self.runs_at_once, len(self.runs)), 1, 1, *self.shape[3:]),
            dtype=self.kind.values,
            fill_value=np.nan if self.kind.values.kind == "f" else None,
            config={"write_empty_chunks": True},
            dimension_names=self.about["axes"],
            attributes=self.about,
        )
        for runs, steps, bits in self._portions():
            array[runs, steps] = self.kind.widen(bits)
            yield bits.nbytes

    def _portions(self) -> Iterator[tuple[slice, slice, np.ndarray]]:
        """Some runs, or some steps of one, and their bits [run, step, branch, <site axes>], in order."""
        for run in range(0, len(self.runs), self.runs_at_once):
            for step in range(0, len(self.steps), self.steps_at_once):
                runs = slice(run, min(run + self.runs_at_once, len(self.runs)))
                steps = slice(step, min(step + self.steps_at_once, len(self.steps)))
                chosen = (list(self.steps[steps]), list(self.branches), self.runs[runs], self.tokens)
                tensor = self.store.read(self.site, *chosen, as_="torch")
                yield runs, steps, self.kind.bits_of(tensor.contiguous())

    def _safetensors_head(self) -> bytes:
        body = {
            "__metadata__": {k: json.dumps(v) for k, v in self.about.items()},
            self.site: {
                "dtype": SAFETENSORS[self.kind.name],
                "shape": self.shape,
                "data_offsets": [0, self.nbytes],
            },
        }
        text = json.dumps(body, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    def _npy_head(self) -> bytes:
        out = io.BytesIO()
        descr = np.lib.format.dtype_to_descr(self.kind.values)
        np.lib.format.write_array_header_2_0(out, {"descr": descr, "fortran_order": False, "shape": self.shape})
        return out.getvalue()


def _sigmas(view: SiteView, steps: Sequence[int]) -> dict[str, list[float]]:
    """Noise levels of steps, if all runs have the same."""
    found = {tuple(part.run.sigmas[part.run.steps.index(step)] for step in steps) for part in view.parts}
    return {"sigmas": list(found.pop())} if len(found) == 1 else {}


def _tokens(view: SiteView, tokens: Tokens) -> dict[str, list[Any]]:
    """Which tokens of the grid these are, [token], or [run, token] where runs differ; nothing if all in their order."""
    if view.token_axis is None or (tokens is None and all(part.tokens() is None for part in view.parts)):
        return {}
    found = view.on_grid(tokens)
    return {"tokens": (found if (found != found[0]).any() else found[0]).tolist()}


def _write_labels(store: Store, folder: ExportFolder, runs: Sequence[str]) -> Iterator[str]:
    """Array labels that all runs have in one shape."""
    indexes = [store.index(run) for run in runs]
    for name, label in indexes[0].labels.items():
        if isinstance(label, Piece) and len({getattr(index.labels.get(name), "shape", None) for index in indexes}) == 1:
            with folder.whole(f"labels/{name}.npy") as path, path.open("wb") as file:
                np.save(file, np.stack([store.label(run, name) for run in runs]), allow_pickle=False)
            yield f"labels/{name}.npy"
