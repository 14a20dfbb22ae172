"""`verify` sees every flipped bit and every truncation, says where, and refuses files that only pretend."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from xxhash import xxh3_64

from interp.store import Store, verify
from interp.store.index import Index
from interp.store.manifest import Line
from interp.store.sparse import between
from tests.store.making import RESID, make_store
from tests.store.test_damage import flip


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("verify") / "s", seeds=2, tokens=(3, 1, 2)).path


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "s"))


def test_a_sound_store(original: Path) -> None:
    done: list[str] = []
    report = verify(Store.open(original), progress=done.append)
    assert report.ok
    assert (report.files, report.unlisted, done) == (2, (), ["run0", "run1"])
    assert report.nbytes == sum(path.stat().st_size for path in (original / "runs").iterdir())


def test_files_of_no_run_are_told(copy: Path) -> None:
    (copy / "runs/other.h5").write_bytes(b"")
    (copy / "runs/run7.h5.tmp.1").write_bytes(b"")
    report = verify(Store.open(copy))
    assert report.ok
    assert report.unlisted == ("runs/other.h5", "runs/run7.h5.tmp.1")


def test_random_damage_anywhere_is_found_and_located(copy: Path) -> None:
    """Bits flipped anywhere in a shard, and truncations: each is found, and it is the right run."""
    shard = copy / "runs/run1.h5"
    good, random_ = shard.read_bytes(), random.Random(2)
    for i in range(50):
        if i % 5 == 0:
            shard.write_bytes(good[: random_.randrange(len(good))])
        else:
            flip(shard, random_.randrange(len(good)), random_.randrange(8))
        report = verify(Store.open(copy), ["run1"])
        assert list(report.damaged) == ["run1"], i
        assert all("runs/run1.h5" in sentence for sentence in report.damaged["run1"])
        shard.write_bytes(good)
    assert verify(Store.open(copy)).ok


def test_every_byte_of_metadata_is_covered(copy: Path) -> None:
    """Each byte that is not data, one by one in strides; data blocks are covered by the test above."""
    shard = copy / "runs/run1.h5"
    good = shard.read_bytes()
    store = Store.open(copy)
    start, nbytes = store.line("run1").index
    index = Index.parse(good[start : start + nbytes], "run1", start, len(good))
    for start, stop in between(index.data(), len(good)):
        for byte in range(start, stop, 307):
            flip(shard, byte, byte % 8)
            assert not verify(Store.open(copy), ["run1"]).ok, byte
            shard.write_bytes(good)


def forge(store: Path, run: str, change: Callable[[h5py.File], None]) -> None:
    """Change a shard with h5py and make all checksums right again, as an attacker would."""
    shard = store / f"runs/{run}.h5"
    lines = {line.run: line for line in map(Line.parse, (store / "manifest.jsonl").read_bytes().splitlines())}
    line = lines[run]
    old = shard.read_bytes()
    index = Index.parse(old[line.index[0] : sum(line.index)], run, line.index[0], line.size)
    with h5py.File(shard, "r+") as file:
        change(file)
    data = bytearray(shard.read_bytes())
    hashed = xxh3_64()
    for start, stop in between(sorted([*index.data(), (line.index[0], sum(line.index))]), len(data)):
        hashed.update(data[start:stop])
    text = replace(index, rest=hashed.hexdigest()).to_json().encode()
    assert len(text) == line.index[1]
    data[line.index[0] : sum(line.index)] = text
    shard.write_bytes(data)
    digest = xxh3_64(text).hexdigest()
    lines[run] = Line(run, len(data), line.index, digest)
    (store / "manifest.jsonl").write_text("".join(entry.to_json() + "\n" for entry in lines.values()))


def external_dataset(file: h5py.File) -> None:
    del file["sites"][RESID]
    file["sites"].create_dataset(RESID, (4, 2, 3, 16), "<u2", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def huge(file: h5py.File) -> None:
    del file["sigmas"]
    file.create_dataset("sigmas", (1 << 40,), "<f8", chunks=(1,))


def replace_with(name: str, **how: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, **how)

    return change


HOSTILE: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "external link": (
        lambda f: f.__setitem__("labels/x", h5py.ExternalLink("/etc/passwd", "/")),
        "link 'x' to another place",
    ),
    "soft link": (lambda f: f.__setitem__("labels/x", h5py.SoftLink("/sites")), "link 'x' to another place"),
    "external data": (external_dataset, "lies in another file"),
    "unknown group": (lambda f: f.create_group("extra"), "/extra, which the format does not have"),
    "unknown dataset": (lambda f: f.create_dataset("labels/x", data=1), "disagree about labels/x"),
    "huge shape": (huge, "not contiguous"),
    "filter": (replace_with("sigmas", data=np.ones(4), chunks=(4,), compression="gzip"), "filtered"),
    "text of any length": (
        replace_with("prompt", data="x", dtype=h5py.string_dtype()),
        "type that the format does not have",
    ),
    "lists of any length": (
        replace_with("steps", shape=(4,), dtype=h5py.vlen_dtype("i4")),
        "type that the format does not have|not contiguous",
    ),
    "references": (replace_with("steps", shape=(4,), dtype=h5py.ref_dtype), "type that the format does not have"),
    "compound": (replace_with("steps", data=np.zeros(4, "i4,i4")), "type that the format does not have"),
    "other steps": (lambda f: f["steps"].__setitem__(0, 7), "/steps disagree"),
    "other axes": (lambda f: f["sites"][RESID].attrs.__setitem__("axes", np.array([b"a"] * 4)), "disagree"),
    "other branches": (
        lambda f: f["sites"][RESID].attrs.__setitem__("branches", np.array([b"uncond", b"cond"])),
        f"/sites/{RESID} disagree",
    ),
    "other tokens": (lambda f: f["sites"][RESID].attrs.__setitem__("tokens", np.bytes_("/tokens/1")), "disagree"),
    "other dtype": (lambda f: f["sites"][RESID].attrs.__setitem__("dtype", np.bytes_("float16")), "disagree"),
    "other blocks": (lambda f: f["sites"][RESID].attrs.__setitem__("block_bytes", 1), f"/sites/{RESID} disagree"),
    "other grid": (lambda f: f["grid"].attrs.__setitem__("rows", 4), "/grid disagree about rows"),
    "no grid": (lambda f: f["grid"].attrs.__delitem__("rows"), "HDF5 cannot read it"),
    "other provenance": (
        lambda f: f["provenance"].__setitem__((), f["provenance"][()].replace(b"tiny", b"huge")),
        "/provenance disagree",
    ),
    "other label": (lambda f: f["labels/route"].__setitem__((), 9), "/labels/route disagree"),
    "no label": (lambda f: f.__delitem__("labels/route"), "disagree about labels/route"),
    "many attributes": (lambda f: [f.attrs.__setitem__(f"a{i}", i) for i in range(99)], "attributes"),
    "attribute of any length": (lambda f: f.attrs.__setitem__("a", "text"), "type that the format does not have"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_hdf5_is_refused(copy: Path, kind: str) -> None:
    change, words = HOSTILE[kind]
    forge(copy, "run1", lambda file: change(file) and None)
    report = verify(Store.open(copy))
    assert list(report.damaged) == ["run1"]
    assert re.search(words, report.damaged["run1"][0]), report.damaged


def test_the_forger_breaks_nothing_by_itself(copy: Path) -> None:
    forge(copy, "run1", lambda file: None)
    assert verify(Store.open(copy)).ok
