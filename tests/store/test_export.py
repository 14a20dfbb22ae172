"""Exporting to other tools' files."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, safe_open

from interp.errors import StoreError
from interp.store import Store, consolidate, export
from interp.store.exportfolder import UNFINISHED
from tests.store.faults import failing_at_each_call
from tests.store.making import HEADS, NORM, RESID, labels_of, layout_of, make_store, stacked, tensors_of, write_run
from tests.store.test_damage import flip

EXPORT = importlib.import_module("interp.store.export")


@pytest.mark.parametrize("consolidated", [False, True])
def test_export_to_safetensors(tmp_path: Path, consolidated: bool) -> None:
    store = make_store(tmp_path / "s", seeds=3)
    if consolidated:
        consolidate(store)
    files = export(store, tmp_path / "out")
    assert [f.relative_to(tmp_path / "out").as_posix() for f in files] == [
        *(f"{site}.safetensors" for site in store.sites),
        "labels/on_path.npy",
        "runs.parquet",
    ]
    for site in store.sites:
        got = load_file(tmp_path / "out" / f"{site}.safetensors")
        assert list(got) == [site]
        assert torch.equal(got[site], stacked(store, site))
    with safe_open(tmp_path / "out" / f"{HEADS}.safetensors", "pt") as file:
        about = {k: json.loads(v) for k, v in file.metadata().items()}
    assert about["axes"] == ["run", "step", "branch", "token", "head", "d_head"]
    assert (about["steps"], about["branches"], about["runs"]) == ([0, 2, 5, 9], ["cond"], list(store.runs))
    assert pl.read_parquet(tmp_path / "out/runs.parquet").equals(store.runs_frame)
    wanted = np.stack([labels_of(store.layout(run))["on_path"] for run in store.runs])
    assert np.array_equal(np.load(tmp_path / "out/labels/on_path.npy"), wanted, equal_nan=True)


def test_export_of_some_to_npy(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", seeds=3)
    runs = ["run2", "run0"]
    export(store, tmp_path / "out", "*.hook_resid_*", "npy", step=5, branch="uncond", runs=runs, tokens=[3, 1])
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "blocks.0.hook_resid_post.npy",
        "labels",
        "runs.parquet",
    ]
    got = np.load(tmp_path / "out" / f"{RESID}.npy")
    assert got.dtype == np.float32
    assert np.array_equal(got, stacked(store, RESID)[[2, 0]][:, 2:3, 1:2, [3, 1]].float().numpy())
    assert pl.read_parquet(tmp_path / "out/runs.parquet")["run"].to_list() == runs


def test_runs_that_are_left_out_do_not_matter(tmp_path: Path) -> None:
    """Not even where the table of all runs would be refused."""
    store = make_store(tmp_path / "s", seeds=2)
    layout = layout_of("other")
    with store.writer("other", layout) as writer:
        for site, tensor in tensors_of(layout).items():
            for at in np.ndindex(*tensor.shape[:2]):
                writer.write(site, *at, tensor[at])
        writer.finish({"kind": 3})
    with pytest.raises(StoreError, match="label 'kind' is of different kinds"):
        export(store, tmp_path / "out")
    export(store, tmp_path / "out", RESID, runs=["run1", "run0"])
    assert pl.read_parquet(tmp_path / "out/runs.parquet")["kind"].to_list() == ["k1", "k0"]


@pytest.mark.parametrize("memory", [1, 3000, 1 << 30])
@pytest.mark.parametrize("kept", [None, (5, 2, 17)])
def test_an_export_says_what_its_axes_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: tuple[int, ...] | None, memory: int
) -> None:
    """In the order that was asked; written step by step where a run is larger than the memory."""
    monkeypatch.setattr(EXPORT, "MEMORY", memory)
    store = make_store(tmp_path / "s", seeds=3, tokens=kept)
    for out, step, steps in (("a", [9, 2], [9, 2]), ("b", slice(2, 9), [2, 5]), ("c", None, [0, 2, 5, 9])):
        export(store, tmp_path / out, RESID, step=step, branch=["uncond", "cond"], tokens=[17, 5])
        with safe_open(tmp_path / out / f"{RESID}.safetensors", "pt") as file:
            about = {k: json.loads(v) for k, v in file.metadata().items()}
            got = file.get_tensor(RESID)
        assert about == {
            "axes": ["run", "step", "branch", "token", "feature"],
            "runs": ["run0", "run1", "run2"],
            "steps": steps,
            "sigmas": [1 - s / 10 for s in steps],
            "branches": ["uncond", "cond"],
            "tokens": [17, 5],
        }
        wanted = store.read(RESID, steps, ["uncond", "cond"], tokens=[17, 5], as_="torch")
        assert torch.equal(got, wanted)
    export(store, tmp_path / "d", RESID)
    with safe_open(tmp_path / "d" / f"{RESID}.safetensors", "pt") as file:
        assert json.loads(file.metadata().get("tokens", "null")) == (kept and list(kept))


class Stop(BaseException):
    """As Ctrl-C."""


@pytest.mark.filterwarnings("ignore::FutureWarning:zarr")
@pytest.mark.parametrize("form", ["safetensors", "npy", "zarr"])
def test_an_export_that_is_interrupted_leaves_nothing(tmp_path: Path, form: str) -> None:
    if form == "zarr":
        pytest.importorskip("zarr", reason="zarr is an extra")
    store, calls = make_store(tmp_path / "s", seeds=2), 0

    def stop(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:  # in the second of three sites
            assert len(list((tmp_path / "out").iterdir())) == 3
            raise Stop

    with pytest.raises(Stop):
        export(store, tmp_path / "out", form=form, progress=stop)
    assert list((tmp_path / "out").iterdir()) == []
    assert len(export(store, tmp_path / "out", form=form)) == 5
    assert list((tmp_path / "out").rglob("*.tmp.*")) == []


KILLED = """
import os, signal, sys
from interp.store import Store, export
calls = []
def kill(done, total):
    calls.append(done)
    if len(calls) == 2:  # in the second of three sites
        os.kill(os.getpid(), signal.SIGKILL)
export(Store.open(sys.argv[1]), sys.argv[2], form=sys.argv[3], progress=kill)
"""


@pytest.mark.filterwarnings("ignore::FutureWarning:zarr")
@pytest.mark.parametrize("form", ["safetensors", "zarr"])
def test_an_export_that_was_killed_is_begun_anew(tmp_path: Path, form: str) -> None:
    """What it left is removed, and nothing else ever is."""
    if form == "zarr":
        pytest.importorskip("zarr", reason="zarr is an extra")
    store, out = make_store(tmp_path / "s", seeds=2), tmp_path / "out"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", KILLED, store.path, out, form], check=False)
    assert done.returncode == -signal.SIGKILL
    left = everything(out)
    assert UNFINISHED in left
    assert any(".tmp." in name for name in left)
    first = out / f"{RESID}.{form}"
    for path in (out / "notes.txt", out / "runs.parquet", out / "labels", first / "notes" if form == "zarr" else first):
        before = path.read_bytes() if path.exists() else b""
        path.mkdir() if path.name == "labels" else path.write_bytes(before + b"somebody's own")
        now = everything(out)
        with pytest.raises(StoreError, match=r"out is not empty: no export that was killed there made [\w.]+; give"):
            export(store, out, form=form)
        assert everything(out) == now
        path.rmdir() if path.name == "labels" else path.unlink()
    files = export(store, out, form=form)
    assert sorted(path.name for path in out.iterdir()) == sorted({path.relative_to(out).parts[0] for path in files})
    export(store, tmp_path / "other", form=form)
    assert everything(out) == everything(tmp_path / "other")


def everything(folder: Path) -> dict[str, bytes]:
    """All that is in a folder, by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")
    }


def test_two_exports_into_one_folder(tmp_path: Path) -> None:
    store, out = make_store(tmp_path / "s", seeds=1), tmp_path / "out"

    def another(done: int, total: int) -> None:
        with pytest.raises(StoreError, match=r"another export into .*out is under way"):
            export(store, out)

    assert len(export(store, out, progress=another)) == 5
    assert not (out / UNFINISHED).exists()


@pytest.mark.parametrize("text", ["of somebody else\n", "[1]\n", "[[]]\n", '{"a": 1}\n'])
def test_a_list_that_no_export_wrote(tmp_path: Path, text: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / UNFINISHED).write_text(text)
    with pytest.raises(StoreError, match=r"out is not empty: its unfinished-export.jsonl is not of an export"):
        export(make_store(tmp_path / "s", seeds=1), out)
    assert everything(out) == {UNFINISHED: text.encode()}


def test_an_export_killed_before_its_first_file(tmp_path: Path) -> None:
    """The list is empty, or its first line was cut off."""
    store = make_store(tmp_path / "s", seeds=1)
    for number, text in enumerate(("", '["blocks.0')):
        out = tmp_path / str(number)
        out.mkdir()
        (out / UNFINISHED).write_text(text)
        assert len(export(store, out)) == 5
        assert not (out / UNFINISHED).exists()


def test_a_damaged_store_is_not_exported(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", seeds=3)
    (store.path / "runs/run1.h5").unlink()
    with pytest.raises(StoreError, match=r"run run1: .* is missing"):
        export(Store.open(store.path), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    store.drop(["run1"])
    write_run(store, layout_of("run1"))
    flip(store.path / "runs/run1.h5", Store.open(store.path).index("run1").sites[NORM].offset, 1)
    with pytest.raises(StoreError, match=r"run run1: .* damaged: block 0 of site blocks.1.hook_norm"):
        export(Store.open(store.path), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.filterwarnings("ignore::FutureWarning:zarr")
def test_a_chunk_that_was_lost_is_not_read_as_zeros(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr", reason="zarr is an extra")
    export(make_store(tmp_path / "s", seeds=1), tmp_path / "out", form="zarr")
    chunks = sorted(path for path in (tmp_path / "out" / f"{RESID}.zarr/c").rglob("*") if path.is_file())
    assert len(chunks) == 8
    chunks[3].unlink()
    got = zarr.open_array(tmp_path / "out" / f"{RESID}.zarr", mode="r")[...]
    assert np.isnan(got[0, 1, 1]).all()
    assert np.isnan(got).sum() == got[0, 1, 1].size


@pytest.mark.filterwarnings("ignore::FutureWarning:zarr")
@pytest.mark.parametrize("at_once", [1, 1 << 30])
def test_export_to_zarr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    zarr = pytest.importorskip("zarr", reason="zarr is an extra")
    monkeypatch.setattr(EXPORT, "MEMORY", at_once)
    store = make_store(tmp_path / "s", seeds=3)
    export(store, tmp_path / "out", form="zarr", step=[2, 5])
    for site in store.sites:
        array = zarr.open_array(tmp_path / "out" / f"{site}.zarr", mode="r")
        assert np.array_equal(array[...], stacked(store, site)[:, 1:3].float().numpy())
        axes = ("run", *store.layout("run0").site_named(site).axes)
        assert array.metadata.dimension_names == tuple(array.attrs["axes"]) == axes
        assert (array.attrs["steps"], array.attrs["runs"]) == ([2, 5], list(store.runs))
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if "tmp" in p.name) == []


def test_export_to_zarr_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EXPORT, "find_spec", lambda name: None)
    with pytest.raises(StoreError, match="pip install 'wan-interp\\[zarr\\]'"):
        export(make_store(tmp_path / "s", seeds=1), tmp_path / "out", form="zarr")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"sites": "blocks.9.*"}, "no site of .* matches 'blocks.9.*'; there are blocks.0"),
        ({"form": "csv"}, "format 'csv' is not known; use safetensors, npy or zarr"),
        ({"to": "."}, "is not empty; give a new folder"),
        ({"step": 3}, "step 3 was not kept"),
        ({"runs": "run0"}, "runs='run0' is one text"),
        ({"runs": []}, "no runs to read"),
    ],
)
@pytest.mark.usefixtures("nobody_checks_types")
def test_export_of_what_is_not_there(tmp_path: Path, asked: dict[str, Any], words: str) -> None:
    store = make_store(tmp_path / "s", seeds=1)
    with pytest.raises(StoreError, match=words):
        export(store, **{**asked, "to": tmp_path / asked.get("to", "out")})


def test_exporting_onto_a_disk_that_fails_at_any_call(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", seeds=2)

    def after(said: str) -> None:
        assert said.startswith("exporting ")
        assert list((tmp_path / "out").iterdir()) == []

    assert failing_at_each_call(lambda: export(store, tmp_path / "out"), after) > 12
    assert len(list((tmp_path / "out").iterdir())) == 5
