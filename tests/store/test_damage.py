"""A truncated, flipped, missing or foreign file gives one clear sentence that names run and file; never wrong data."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from interp.errors import StoreError
from interp.store import SiteLayout, Store
from interp.store.manifest import Line
from tests.store.making import HEADS, NORM, PROVENANCE, RESID, layout_of, stacked, write_run


def read_all(path: Path) -> None:
    """Everything a reader may ask of a store."""
    store = Store.open(path)
    for site in store.sites:
        store.read(site, branch=["cond", "uncond"] if site != HEADS else None)
    for name in ("route", "kind", "on_path"):
        store.labels(name)
    assert len(store.frame) == 9
    assert len(store.runs_frame) == 3


def assert_refused(path: Path, *words: str, action: Callable[[Path], None] = read_all) -> None:
    with pytest.raises(StoreError) as caught:
        action(path)
    text = str(caught.value)
    assert all(word in text for word in words), text
    assert "\n" not in text


def test_a_missing_shard_is_never_zeros(copy: Path) -> None:
    (copy / "runs/run1.h5").unlink()
    assert_refused(copy, "run1", "runs/run1.h5", "is missing", "--drop")


@pytest.mark.parametrize("keep", [0, 1, 4000, -1])
def test_a_truncated_shard(copy: Path, keep: int) -> None:
    shard = copy / "runs/run1.h5"
    shard.write_bytes(shard.read_bytes()[:keep])
    assert_refused(copy, "run1", "runs/run1.h5", "truncated")


def test_a_longer_shard(copy: Path) -> None:
    with (copy / "runs/run1.h5").open("ab") as file:
        file.write(b"\0")
    assert_refused(copy, "run1", "runs/run1.h5")


def test_another_runs_shard(copy: Path) -> None:
    shutil.copy(copy / "runs/run2.h5", copy / "runs/run1.h5")
    assert_refused(copy, "run1", "runs/run1.h5")


def test_a_foreign_file_of_the_same_size(copy: Path) -> None:
    shard = copy / "runs/run1.h5"
    shard.write_bytes(random.Random(0).randbytes(shard.stat().st_size))
    assert_refused(copy, "run1", "damaged or foreign")


def test_a_flipped_bit_in_data_names_the_block(copy: Path) -> None:
    with h5py.File(copy / "runs/run1.h5") as file:
        site = file["sites"][RESID]
        at = site.id.get_offset() + (3 * 2 + 1) * 24 * 16 * 2 + 5  # step 9 is the fourth, branch uncond
    flip(copy / "runs/run1.h5", at, 3)
    store = Store.open(copy)
    wanted = stacked(store, RESID)
    assert torch.equal(store.read(RESID, 0, "cond", as_="torch"), wanted[:, 0, 0])  # the rest can still be used
    assert torch.equal(store.read(RESID, 9, "uncond", runs=["run0"], as_="torch")[0], wanted[0, 3, 1])
    words = ("run1", f"damaged: block 1 of site {RESID}, step 9, branch cond to step 9, branch uncond")
    assert_refused(copy, *words, action=lambda path: store.read(RESID, 9, "uncond"))
    assert_refused(copy, *words)


def test_damage_anywhere_in_a_long_read(tmp_path: Path) -> None:
    """9 MB are read and checked in several pieces."""
    shape = (4, 1, 24, 24_000)
    layout = layout_of("run0")
    site = SiteLayout("long", ("step", "branch", "token", "feature"), shape, "float32", branches=("cond",))
    store, values = Store.create(tmp_path / "s", PROVENANCE), np.random.default_rng(0).random(shape, np.float32)
    with store.writer("run0", replace(layout, sites=(site,))) as writer:
        for step in range(4):
            writer.write("long", step, 0, values[step, 0])
        writer.finish()
    shard = store.path / "runs/run0.h5"
    with h5py.File(shard) as file:
        offset = file["sites/long"].id.get_offset()
    for at in (0, values.nbytes // 2, values.nbytes * 7 // 10, values.nbytes - 1):
        flip(shard, offset + at, 4)
        step = layout.steps[at * 4 // values.nbytes]
        words = ("run0", "damaged: block", f"site long, step {step}")
        assert_refused(store.path, *words, action=lambda path: Store.open(path).read("long"))
        flip(shard, offset + at, 4)
        assert np.array_equal(Store.open(store.path).read("long")[0], values[:, 0])


def flip(path: Path, byte: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(data)


def test_a_shard_that_changes_while_it_is_read(copy: Path) -> None:
    store = Store.open(copy)
    store.read(RESID, 0, "cond")
    data = (copy / "runs/run1.h5").read_bytes()
    (copy / "runs/run1.h5").unlink()
    (copy / "runs/run1.h5").write_bytes(data)
    assert_refused(copy, "run1", "has changed since", action=lambda path: store.read(RESID, 0, "cond"))
    store.refresh()
    store.read(RESID, 0, "cond")


def test_a_link_out_of_the_store_is_not_followed(copy: Path, tmp_path: Path) -> None:
    (copy / "runs/run1.h5").rename(tmp_path / "elsewhere.h5")
    (copy / "runs/run1.h5").symlink_to(tmp_path / "elsewhere.h5")
    assert_refused(copy, "run1", "cannot be read")


@pytest.mark.parametrize(
    "name", ["../run0", "/etc/passwd", "run0/../../x", "", ".hidden", "a.tmp.1", "a b", "ü", "x" * 300]
)
def test_names_that_are_no_file_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="cannot be stored"):
        layout_of(name)


def test_a_manifest_that_points_out_of_the_store(copy: Path) -> None:
    line = Line("run0", 1, (0, 1), "0" * 16)
    object.__setattr__(line, "run", "../run0")
    (copy / "manifest.jsonl").write_text(line.to_json() + "\n")
    assert_refused(copy, "line 1", "manifest.jsonl", "damaged")


def rewrite_index(store: Path, run: str, change: Callable[[dict], None]) -> None:
    """Change a shard's index and make the checksums around it right again, as an attacker would."""
    lines = {line.run: line for line in map(Line.parse, (store / "manifest.jsonl").read_bytes().splitlines())}
    with (store / f"runs/{run}.h5").open("r+b") as file:
        file.seek(lines[run].index[0])
        body = json.loads(file.read(lines[run].index[1]))
        change(body)
        text = json.dumps(body).encode()
        at = file.seek(0, os.SEEK_END)
        file.write(text)
    lines[run] = Line.of(run, at + len(text), at, text)
    (store / "manifest.jsonl").write_text("".join(line.to_json() + "\n" for line in lines.values()))


def site(body: dict) -> dict:
    return body["sites"][0]


HOSTILE: dict[str, tuple[Callable[[dict], object], str]] = {
    "huge shape": (lambda b: site(b).update(shape=[4, 2, 1 << 40, 1 << 40]), "makes no sense"),
    "large shape": (
        lambda b: site(b).update(shape=[4, 2, 24, 1 << 20]),
        "makes no sense|impossible|checksums|do not exist",
    ),
    "negative shape": (lambda b: site(b).update(shape=[4, 2, -24, 16]), "makes no sense"),
    "beyond the file": (lambda b: site(b).update(offset=1 << 40), "do not exist"),
    "negative offset": (lambda b: site(b).update(offset=-4096), "do not exist"),
    "overlap": (lambda b: site(b).update(offset=b["sites"][1]["offset"]), "overlap"),
    "object dtype": (lambda b: site(b).update(dtype="object"), "makes no sense"),
    "tiny blocks": (lambda b: site(b).update(blocks=[1, 1]), "impossible"),
    "no blocks": (lambda b: site(b).update(blocks=[0, 0]), "impossible|makes no sense"),
    "tokens": (lambda b: site(b).update(tokens=7), "makes no sense"),
    "no sites": (lambda b: b.update(sites=[]), "makes no sense"),
    "sites of another kind": (lambda b: b.update(sites=7), "makes no sense"),
    "site name": (lambda b: site(b).update(site="../../x"), "makes no sense"),
    "version": (lambda b: b.update(version=3), "version 3, and this release reads 1 and 2"),
    "version of codecs": (lambda b: b.update(version=2), "version 2, which its codecs are not of"),
    "unknown codec": (lambda b: site(b).update(codec="pickle"), "makes no sense"),
    "codec without chunks": (lambda b: site(b).update(codec="zstd"), "chunks, which do not make it up"),
    "chunks without codec": (lambda b: site(b).update(chunks=[[0, 1]]), "has chunks"),
    "format": (lambda b: b.update(format="other"), "not a file of a wan-interp store"),
    "run": (lambda b: b.update(run="run2"), "holds the run 'run2'"),
    "label": (
        lambda b: b["labels"].update(on_path={"offset": 0, "shape": [1 << 50], "dtype": "int8", "xxh3": ""}),
        "exist",
    ),
    "label dtype": (lambda b: b["labels"]["on_path"].update(dtype="object"), "dtype object"),
    "label name": (lambda b: b["labels"].update({"../x": 1}), "makes no sense"),
    "grid": (lambda b: b["grid"].update(rows=0), "makes no sense|rows"),
    "missing part": (lambda b: b.pop("sigmas"), "makes no sense"),
    "a site twice": (lambda b: b["sites"].append(site(b)), "the site blocks.0.hook_resid_post twice"),
    "long blocks": (lambda b: site(b).update(blocks=[8, 1 << 30]), "impossible"),
    "a hundred axes": (
        lambda b: site(b).update(axes=["step", "branch", *map(str, range(100))], shape=[4, 2, *[1] * 98, 24, 16]),
        "makes no sense",
    ),
    "an axis of runs": (lambda b: site(b).update(axes=["step", "branch", "run", "feature"]), "makes no sense"),
    "branch twice": (lambda b: b.update(branches=["cond", "cond"]), "makes no sense"),
    "negative steps": (lambda b: b.update(steps=[-1, 2, 5, 9]), "makes no sense"),
    "huge steps": (lambda b: b.update(steps=[0, 2, 5, 1 << 40]), "makes no sense"),
    "endless offset": (lambda b: site(b).update(offset=float("inf")), "makes no sense"),
    "label of a hundred axes": (lambda b: b["labels"]["on_path"].update(shape=[24, *[1] * 99]), "numbers of shape"),
    "label that is a list": (lambda b: b["labels"].update(route=[1]), "has a label that is"),
    "label beyond 64 bits": (lambda b: b["labels"].update(route=1 << 64), "has a label that is"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_index_is_refused(copy: Path, kind: str) -> None:
    change, words = HOSTILE[kind]
    rewrite_index(copy, "run1", lambda body: change(body) and None)
    with pytest.raises(StoreError, match=words) as caught:
        read_all(copy)
    assert "run1" in str(caught.value)


def test_an_honest_index_that_was_rewritten_is_read(copy: Path) -> None:
    """The helper above breaks nothing by itself."""
    before = Store.open(copy)
    line, wanted = before.line("run1"), stacked(before, RESID)
    rewrite_index(copy, "run1", lambda body: None)
    after = Store.open(copy)
    assert after.line("run1") != line
    assert torch.equal(after.read(RESID, branch=["cond", "uncond"], as_="torch"), wanted)
    read_all(copy)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "damaged"),
        (b"{}", "not a store"),
        (b"[1]", "not a store"),
        (b'{"format": "wan-interp-store", "version": 9, "provenance": {}}', "version 9"),
        (b'{"format": "wan-interp-store", "version": 1, "provenance": {}}', "does not match its checksum"),
    ],
)
def test_a_damaged_head(copy: Path, text: bytes, words: str) -> None:
    (copy / "store.json").write_bytes(text)
    assert_refused(copy, words, action=Store.open)
    assert_refused(copy, words, action=lambda path: Store.create(path, PROVENANCE))


def test_not_a_store(tmp_path: Path) -> None:
    assert_refused(tmp_path / "none", "not a store", action=Store.open)
    (tmp_path / "file.txt").write_text("mine")
    assert_refused(tmp_path, "neither empty nor a store", action=Store.create)
    assert_refused(tmp_path / "file.txt", "cannot be used as a store", action=Store.create)
    assert (tmp_path / "file.txt").read_text() == "mine"


@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_every_flip_in_the_manifest_is_seen_or_costs_only_that_run(copy: Path, where: str) -> None:
    path = copy / "manifest.jsonl"
    good = path.read_bytes()
    ends = [i for i, c in enumerate(good) if c == 10]
    line = {"first": 0, "middle": 1, "last": 2}[where]
    start, end = ([-1, *ends][line] + 1, ends[line])
    for byte in range(start, end + 1):
        data = bytearray(good)
        data[byte] ^= 1 << (byte % 8)
        path.write_bytes(data)
        if byte == ends[-1]:  # the last line break: that line counts as cut off
            assert Store.open(copy).runs == ("run0", "run1")
        else:
            assert_refused(copy, "manifest.jsonl", "damaged", action=Store.open)


def test_a_manifest_cut_anywhere_costs_only_the_runs_behind(copy: Path) -> None:
    path = copy / "manifest.jsonl"
    good = path.read_bytes()
    for keep in range(0, len(good), 7):
        path.write_bytes(good[:keep])
        assert Store.open(copy).runs == tuple(f"run{i}" for i in range(good[:keep].count(b"\n")))
    path.write_bytes(good[:-9])
    store = Store.create(copy, PROVENANCE)
    write_run(store, layout_of("run2", seed=2))
    assert path.read_bytes() == good
    read_all(copy)


def test_random_flips_and_truncations_of_a_shard_are_found(original: Path, tmp_path: Path) -> None:
    """Every byte that a reader uses is covered; what no reader uses is left to `verify` (see test_verify)."""
    random_ = random.Random(1)
    path = Path(shutil.copytree(original, tmp_path / "s"))
    shard = path / "runs/run1.h5"
    good = shard.read_bytes()
    with h5py.File(shard) as file:
        data = [
            (file["sites"][s].id.get_offset(), file["sites"][s].id.get_storage_size()) for s in (RESID, HEADS, NORM)
        ]
    for _ in range(60):
        start, nbytes = random_.choice(data)
        flip(shard, start + random_.randrange(nbytes), random_.randrange(8))
        assert_refused(path, "run1", "damaged: block")
        shard.write_bytes(good)
    read_all(path)


def test_numpy_reader_gives_read_arrays_of_their_own(original: Path) -> None:
    store = Store.open(original)
    first = store.read(RESID, 0, "cond", as_="torch")
    first.zero_()
    assert not np.array_equal(store.read(RESID, 0, "cond", as_="torch").float().numpy(), first.float().numpy())
