"""Merging, exporting and the command line."""

from __future__ import annotations

import errno
import importlib
import json
import os
import tomllib
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, safe_open
from typer.testing import CliRunner

from interp.cli import app, main
from interp.errors import StoreError
from interp.store import Store, consolidate, export, info, merge, verify
from tests.store.making import HEADS, NORM, PROVENANCE, RESID, labels_of, layout_of, make_store, stacked, write_run
from tests.store.test_damage import flip
from tests.store.test_writing import Faults, leftovers

EXPORT = importlib.import_module("interp.store.export")


def two_stores(path: Path) -> tuple[Path, Path]:
    """run0 and run1 on one machine, run1 (the same) and run2 on another."""
    first = make_store(path / "a", seeds=2)
    second = Store.create(path / "b", PROVENANCE)
    for seed in (1, 2):
        write_run(second, layout_of(f"run{seed}", seed=seed))
    return first.path, second.path


def test_merge(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    merged = merge(tmp_path / "m", two_stores(tmp_path), progress=lambda *a: seen.append(a))
    assert merged.runs == ("run0", "run1", "run2")
    assert seen == [("run0", 1, 3), ("run1", 2, 3), ("run2", 3, 3)]
    assert verify(merged).ok
    for site in (RESID, HEADS, NORM):
        assert torch.equal(merged.read(site, 5, "cond", as_="torch"), stacked(merged, site)[:, 2, 0])
    assert merge(tmp_path / "m", [tmp_path / "b"]).runs == merged.runs


def test_merging_what_does_not_belong_together_is_refused_before_anything_is_copied(tmp_path: Path) -> None:
    first, second = two_stores(tmp_path)
    other = Store.create(tmp_path / "c", {**PROVENANCE, "model_hash": "other"})
    write_run(other, layout_of("run3", seed=3))
    with pytest.raises(StoreError, match=r"a and .*c do not .*: model_hash is 'abc' in the first and 'other' in"):
        merge(tmp_path / "m", [first, other.path])
    store = Store.open(second)
    store.drop(["run1"])
    write_run(store, layout_of("run1", seed=7))
    with pytest.raises(StoreError, match=r"run run1 of .* differs"):
        merge(tmp_path / "n", [first, second])
    assert Store.open(tmp_path / "n").runs == ()


def test_a_damaged_run_is_not_merged(tmp_path: Path) -> None:
    first, second = two_stores(tmp_path)
    with h5py.File(second / "runs/run2.h5") as file:
        at = file["sites"][RESID].id.get_offset()
    flip(second / "runs/run2.h5", at, 0)
    with pytest.raises(StoreError, match=r"nothing more is merged: run run2: .*damaged"):
        merge(tmp_path / "m", [first, second])
    assert Store.open(tmp_path / "m").runs == ("run0", "run1")


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
            assert len(list((tmp_path / "out").iterdir())) == 2
            raise Stop

    with pytest.raises(Stop):
        export(store, tmp_path / "out", form=form, progress=stop)
    assert list((tmp_path / "out").iterdir()) == []
    assert len(export(store, tmp_path / "out", form=form)) == 5
    assert list((tmp_path / "out").rglob("*.tmp.*")) == []


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


def test_info(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", seeds=2)
    write_run(store, layout_of("wide", seed=5, rows=5))
    consolidate(store)
    write_run(store, layout_of("late", seed=6))
    store.refresh()
    found = info(store)
    assert (found.runs, found.consolidated, found.unlisted) == (4, 3, ())
    assert found.grids == {(2, 3, 4): 3, (2, 5, 4): 1}
    assert found.labels["on_path"] == 4
    site = found.sites[0]
    assert (site.site, site.dtype, site.runs) == (RESID, "bfloat16", 4)
    assert site.shapes == {(4, 2, 24, 16): 3, (4, 2, 40, 16): 1}
    assert site.nbytes == (3 * 24 + 40) * 4 * 2 * 16 * 2
    assert found.nbytes == sum(p.stat().st_size for p in (store.path / "runs").iterdir())


def invoke(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["cache", *(str(a) for a in arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_the_command_line(tmp_path: Path) -> None:
    first, second = two_stores(tmp_path)
    status, said = invoke("merge", tmp_path / "m", first, second)
    assert status == 0
    assert said.endswith("m: 3 runs\n")
    status, said = invoke("consolidate", tmp_path / "m", "--memory", 1)
    assert (status, said.splitlines()[-1]) == (0, "made 1 site-major files")
    assert invoke("consolidate", tmp_path / "m") == (0, "all was up to date\n")
    status, said = invoke("info", tmp_path / "m")
    assert status == 0
    for words in (
        "3 runs",
        "3 of them site-major",
        "model_hash: abc",
        "2 x 3 x 4 (3 runs)",
        "on_path",
        RESID,
        "bfloat16",
    ):
        assert words in said
    status, said = invoke("verify", tmp_path / "m")
    assert status == 0
    assert "4 files" in said
    assert "0 damaged" in said
    status, said = invoke("export", tmp_path / "m", tmp_path / "out", "--sites", NORM, "--format", "npy", "--step", 5)
    assert status == 0
    assert np.load(tmp_path / "out" / f"{NORM}.npy").shape == (3, 1, 2, 2)


def test_the_command_line_drops_what_is_damaged(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", seeds=3)
    (name,) = consolidate(store)
    (store.path / "runs/run1.h5").unlink()
    (store.path / f"consolidated/{name}.h5").write_bytes(b"")
    status, said = invoke("verify", store.path)
    assert status == 1
    assert "run run1:" in said
    assert "2 damaged" in said
    status, said = invoke("verify", store.path, "--drop")
    assert status == 0
    assert Store.open(store.path).runs == ("run0", "run2")
    assert invoke("verify", store.path)[0] == 0


def test_the_command_line_says_what_is_wrong_in_one_sentence(tmp_path: Path) -> None:
    for command in (["info"], ["verify"], ["consolidate"], ["merge", tmp_path / "m"], ["export"]):
        status, said = invoke(*command, tmp_path / "none", *([tmp_path / "out"] if command == ["export"] else []))
        assert status == 2
        assert said.startswith("error: ")
        assert "not a store" in said
        assert said.count("\n") == 1


def test_provenance_is_shown_as_it_is(tmp_path: Path) -> None:
    """Brackets and colons mean something to the library that prints, and escape codes to a terminal."""
    about = {"selection": "blocks.*[step=0:5]", "note": "[/bold] :smile:", "list": ["a", 1], "code": "\x1b[31m"}
    write_run(Store.create(tmp_path / "s", about), layout_of("run0"))
    said = invoke("info", tmp_path / "s")[1]
    for line in ("selection: blocks.*[step=0:5]", "note: [/bold] :smile:", 'list: ["a", 1]', r'code: "\u001b[31m"'):
        assert f"  {line}\n" in said


@pytest.mark.parametrize("command", ["info", "verify", "consolidate", "merge", "export"])
def test_ctrl_c_and_a_failing_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """Damage, mistakes and an interruption can be told apart by the status."""
    store = make_store(tmp_path / "s", seeds=1)
    arguments = {"merge": [tmp_path / "m", store.path], "export": [store.path, tmp_path / "out"]}
    name = {"info": "info_of"}.get(command, f"{command}_{'stores' if command == 'merge' else 'store'}")
    for error, status, words in (
        (KeyboardInterrupt(), 130, "interrupted: what was finished before is intact"),
        (OSError(errno.EIO, "Input/output error", "/disk"), 2, "error: [Errno 5] Input/output error: '/disk'"),
    ):

        def fails(*args: Any, error: BaseException = error, **kwargs: Any) -> None:
            raise error

        monkeypatch.setattr(importlib.import_module("interp.store.cli"), name, fails)
        got, said = invoke(command, *arguments.get(command, [store.path]))
        assert got == status
        assert said.startswith(words)
        assert said.count("\n") == 1


def test_the_installed_command_is_this_one() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    command = EntryPoint("wan-interp", project["scripts"]["wan-interp"], "console_scripts").load()
    assert command is main
    assert CliRunner().invoke(app, ["--version"]).output == f"wan-interp {project['version']}\n"
    helped = CliRunner().invoke(app, ["cache", "--help"]).output
    assert all(name in helped for name in ("info", "verify", "consolidate", "merge", "export"))


def failing_at_each_call(action: Callable[[], object], after: Callable[[str], None]) -> int:
    """Have the disk refuse each call in turn until all work; gives how many there are."""
    at = 0
    while True:
        at += 1
        faults, said = Faults(at, errno.ENOSPC, short=at % 2 == 0), ""
        with pytest.MonkeyPatch.context() as patch:
            faults.install(patch)
            try:
                action()
            except StoreError as error:
                said = str(error)
        if faults.count < at:
            return at
        assert os.strerror(errno.ENOSPC) in said
        after(said)


def test_merging_onto_a_disk_that_fails_at_any_call(tmp_path: Path) -> None:
    """What was merged is whole, and merging again goes on."""
    sources = two_stores(tmp_path)

    def after(said: str) -> None:
        if (tmp_path / "m/store.json").exists():
            assert verify(Store.open(tmp_path / "m")).ok
            Store.create(tmp_path / "m", PROVENANCE)
        assert leftovers(tmp_path) == []

    assert failing_at_each_call(lambda: merge(tmp_path / "m", sources), after) > 12
    merged = Store.open(tmp_path / "m")
    assert merged.runs == ("run0", "run1", "run2")
    assert verify(merged).ok


def test_exporting_onto_a_disk_that_fails_at_any_call(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", seeds=2)

    def after(said: str) -> None:
        assert said.startswith(("exporting to", str(tmp_path / "out")))
        assert list((tmp_path / "out").iterdir()) == []

    assert failing_at_each_call(lambda: export(store, tmp_path / "out"), after) > 12
    assert len(list((tmp_path / "out").iterdir())) == 5
