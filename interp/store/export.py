"""Hands a store's numbers to other tools: one file per site, plus the table of runs. Streamed, a few runs at a time."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.errors import StoreError
from interp.store.disk import bytes_of, pwrite_all, replace
from interp.store.index import Piece

if TYPE_CHECKING:
    from interp.store.gather import Steps, Tokens
    from interp.store.store import Store

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
    """Write ``<site>.safetensors``, ``.npy`` or ``.zarr`` for each site, ``runs.parquet``, ``labels/<name>.npy``.

    Arrays are [run, step, branch, <site axes>], runs in the order of ``runs.parquet``. safetensors keeps bfloat16; npy
    and zarr have none, so they hold float32 there, to which every bfloat16 number converts exactly. safetensors and
    zarr say in their metadata what the axes, runs, steps and branches are.

    Args:
        store: the store.
        to: folder; it must not exist or be empty.
        sites: pattern of site names, as "blocks.*.hook_resid_post".
        form: "safetensors", "npy" or "zarr" (version 3; ``pip install wan-interp[zarr]``).
        step, branch, runs, tokens: as in `Store.read`; a branch of None is all that a site has.
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
    chosen = [site for site in store.sites if fnmatchcase(site, sites)]
    if not chosen:
        raise StoreError(f"no site of {store.path} matches {sites!r}; there are {', '.join(store.sites[:6])} ...")
    keys = tuple(store.runs if runs is None else runs)
    try:
        to.mkdir(parents=True, exist_ok=True)
        if any(to.iterdir()):
            raise StoreError(f"{to} is not empty; give a new folder")
        jobs = [_Job(store, site, keys, step, branch, tokens) for site in chosen]
        done, total, written = 0, sum(job.nbytes for job in jobs), []
        for job in jobs:
            path = to / f"{job.site}.{form}"
            for nbytes in job.write_zarr(path) if form == "zarr" else job.write(path, form):
                done += nbytes
                if progress:
                    progress(done, total)
            written.append(path)
        return (*written, *_write_labels(store, to, keys))
    except OSError as error:
        raise StoreError(f"exporting to {to} failed: {error.strerror}") from error


class _Job:
    """One site."""

    def __init__(self, store: Store, site: str, runs: tuple[str, ...], step: Any, branch: Any, tokens: Any) -> None:
        self.store, self.site, self.runs = store, site, runs
        layout = store.layout(runs[0])
        self.layout = layout.site_named(site)
        branches = [branch] if isinstance(branch, str) else branch or layout.branches_of(self.layout)
        steps = [step] if isinstance(step, int) else step
        self.asked = {"step": steps, "branch": list(branches), "tokens": tokens}
        first = self._read(runs[:1])
        self.shape = (len(runs), *first.shape[1:])
        self.itemsize = first.element_size()
        self.nbytes = int(np.prod(self.shape)) * self.itemsize
        self.at_once = max(1, MEMORY // max(1, self.nbytes // len(runs)))
        self.about = {
            "axes": ("run", *self.layout.axes),
            "runs": runs,
            "steps": [s for s in layout.steps if steps is None or isinstance(steps, slice) or s in steps],
            "branches": list(branches),
        }

    def write(self, path: Path, form: str) -> Iterator[int]:
        """Write the file; gives the bytes of each portion."""
        temporary = path.with_name(f"{path.name}.tmp.{os.getpid()}")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            head = self._safetensors_head() if form == "safetensors" else self._npy_head()
            pwrite_all(fd, head, 0)
            at = len(head)
            for low in range(0, len(self.runs), self.at_once):
                tensor = self._read(self.runs[low : low + self.at_once])
                data = bytes_of(self._array(tensor, form))
                pwrite_all(fd, data, at)
                at += data.nbytes
                yield tensor.numel() * self.itemsize
            os.fsync(fd)
            replace(temporary, path)
        finally:
            os.close(fd)
            temporary.unlink(missing_ok=True)

    def write_zarr(self, path: Path) -> Iterator[int]:
        """Write the array; gives the bytes of each portion. A chunk is one step and branch of the runs of a portion."""
        import zarr

        temporary = path.with_name(f"{path.name}.tmp.{os.getpid()}")
        try:
            array = zarr.create_array(
                store=temporary,
                shape=self.shape,
                chunks=(min(self.at_once, len(self.runs)), 1, 1, *self.shape[3:]),
                dtype=self.layout.given.values,
                dimension_names=self.about["axes"],
                attributes={k: list(v) for k, v in self.about.items()},
            )
            for low in range(0, len(self.runs), self.at_once):
                tensor = self._read(self.runs[low : low + self.at_once])
                array[low : low + self.at_once] = self._array(tensor, "zarr")
                yield tensor.numel() * self.itemsize
            os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _read(self, runs: Sequence[str]) -> Any:
        return self.store.read(self.site, runs=runs, as_="torch", **self.asked)

    def _array(self, tensor: Any, form: str) -> np.ndarray:
        bits = self.layout.given.bits_of(tensor.contiguous())
        return bits if form == "safetensors" else self.layout.given.widen(bits)

    def _safetensors_head(self) -> bytes:
        body = {
            "__metadata__": {k: json.dumps(v) for k, v in self.about.items()},
            self.site: {
                "dtype": SAFETENSORS[self.layout.dtype],
                "shape": self.shape,
                "data_offsets": [0, self.nbytes],
            },
        }
        text = json.dumps(body, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    def _npy_head(self) -> bytes:
        import io

        out = io.BytesIO()
        descr = np.lib.format.dtype_to_descr(self.layout.given.values)
        np.lib.format.write_array_header_2_0(out, {"descr": descr, "fortran_order": False, "shape": self.shape})
        return out.getvalue()


def _write_labels(store: Store, to: Path, runs: tuple[str, ...]) -> tuple[Path, ...]:
    """The table of runs, and array labels that all of them have in one shape."""
    import polars as pl

    table = to / "runs.parquet"
    order = pl.DataFrame({"run": list(runs)})
    order.join(store.runs_frame, on="run", how="left", maintain_order="left").write_parquet(table)
    written = [table]
    indexes = [store.index(run) for run in runs]
    for name, label in indexes[0].labels.items():
        if not isinstance(label, Piece):
            continue
        shapes = {getattr(index.labels.get(name), "shape", None) for index in indexes}
        if len(shapes) == 1:
            (to / "labels").mkdir(exist_ok=True)
            np.save(to / "labels" / f"{name}.npy", np.stack([store.label(run, name) for run in runs]))
            written.append(to / "labels" / f"{name}.npy")
    return tuple(written)
