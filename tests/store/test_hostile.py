"""Stores made by somebody who means harm: refused in one sentence, soon, and nothing outside of them is touched.

What an index or the HDF5 side may claim is in test_damage and test_verify; here are files that are no files, lists
without end and blocks that unfold without end.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import h5py
import numpy as np
import pytest
from xxhash import xxh3_64_hexdigest

from interp.errors import StoreError
from interp.store import Store, consolidate, info, verify, zstd
from interp.store.layout import to_json
from interp.store.manifest import Line
from interp.store.structure import _values
from tests.store.making import PROVENANCE, RESID, make_store
from tests.store.test_damage import assert_refused, rewrite_index, site

TERABYTE = 1 << 40


@pytest.fixture(autouse=True)
def nobody_waits_for_ever() -> Iterator[None]:
    """Opening a pipe that nobody writes to would hang."""

    def too_long(number: int, frame: FrameType | None) -> None:
        raise AssertionError("this takes for ever")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def device(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("kind", [pipe, folder, device])
@pytest.mark.parametrize("name", ["store.json", "manifest.jsonl", "runs/run1.h5", "consolidated/manifest.jsonl"])
def test_a_file_that_is_none(copy: Path, name: str, kind: Any) -> None:
    (copy / "consolidated").mkdir()
    kind(copy / name)
    assert_refused(copy, Path(name).name)


@pytest.mark.parametrize("name", ["store.json", "manifest.jsonl"])
@pytest.mark.parametrize("what", ["a terabyte", "brackets"])
def test_a_list_without_end(copy: Path, name: str, what: str) -> None:
    if what == "brackets":
        with (copy / name).open("wb") as file:
            file.write(b"[" * 200_000 + b"\n")
    else:
        os.truncate(copy / name, TERABYTE)
    assert_refused(copy, name)


@pytest.mark.parametrize("provenance", [[1], None])
def test_a_head_that_makes_no_sense(copy: Path, provenance: Any) -> None:
    body = {"format": "wan-interp-store", "version": 1, "provenance": provenance}
    body["xxh3"] = xxh3_64_hexdigest(to_json(body, "head").encode())
    (copy / "store.json").write_text(json.dumps(body))
    assert_refused(copy, "store.json makes no sense")


@pytest.mark.parametrize("field", ["size", "index"])
def test_a_line_of_numbers_that_are_none(copy: Path, field: str) -> None:
    for number in (float("inf"), float("nan")):
        line = Line("run1", 1, (0, 1), "0" * 16)
        object.__setattr__(line, field, number if field == "size" else (number, 1))
        (copy / "manifest.jsonl").write_text(line.to_json() + "\n")
        assert_refused(copy, "line 1 of", "is damaged")


@pytest.mark.parametrize("name", ["runs", "consolidated"])
def test_a_folder_that_is_elsewhere_is_neither_read_nor_cleaned(copy: Path, tmp_path: Path, name: str) -> None:
    """Else going on with such a store would remove what somebody else's temporary files are called."""
    consolidate(Store.open(copy))
    (copy / name).rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/my.tmp.file").write_text("mine")
    (copy / name).symlink_to(tmp_path / "elsewhere")
    assert_refused(copy, f"{name} is a symbolic link", action=Store.open)
    assert_refused(copy, f"{name} is a symbolic link", action=lambda path: Store.create(path, PROVENANCE))
    assert (tmp_path / "elsewhere/my.tmp.file").read_text() == "mine"


def test_what_is_no_temporary_file_is_left_alone(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (copy / "runs/link.tmp.1").symlink_to(tmp_path / "mine")
    (copy / "runs/folder.tmp.1").mkdir()
    pipe(copy / "runs/pipe.tmp.1")
    store = Store.create(copy, PROVENANCE)
    assert (tmp_path / "mine").read_text() == "mine"
    assert info(store).unlisted == ("runs/folder.tmp.1", "runs/link.tmp.1", "runs/pipe.tmp.1")


def test_a_store_without_its_folder(copy: Path) -> None:
    shutil.rmtree(copy / "runs")
    assert_refused(copy, "run0", "is missing")
    assert list(verify(Store.open(copy)).damaged) == ["run0", "run1", "run2"]


def test_data_that_are_the_index(copy: Path) -> None:
    end = (copy / "runs/run1.h5").stat().st_size  # where the new index goes
    rewrite_index(copy, "run1", lambda body: site(body).update(offset=end))
    assert_refused(copy, "run1", "overlap")


def test_an_index_that_is_nested_without_end(copy: Path) -> None:
    text = b"[" * 200_000
    shard = copy / "runs/run1.h5"
    size = shard.stat().st_size
    with shard.open("ab") as file:
        file.write(text)
    lines = {line.run: line for line in map(Line.parse, (copy / "manifest.jsonl").read_bytes().splitlines())}
    lines["run1"] = Line.of("run1", size + len(text), size, text)
    (copy / "manifest.jsonl").write_text("".join(line.to_json() + "\n" for line in lines.values()))
    assert_refused(copy, "run1", "nested too deeply")


def test_blocks_as_long_as_a_file_with_a_hole(copy: Path) -> None:
    """To check one number of a block, all of it has to be in memory."""
    sums = (copy / "runs/run1.h5").read_bytes()[:8]
    os.truncate(copy / "runs/run1.h5", TERABYTE + (1 << 20))

    def change(body: dict[str, Any]) -> None:
        entry = site(body)
        entry |= {"shape": [4, 2, TERABYTE // 256, 16], "offset": 1 << 20, "blocks": [8, TERABYTE]}
        entry["checksums"] |= {"offset": 0, "shape": [1], "xxh3": xxh3_64_hexdigest(sums)}
        body |= {"sites": [entry], "labels": {}, "token_sets": []}

    rewrite_index(copy, "run1", change)
    words = ("run1", "impossible blocks")
    assert_refused(copy, *words, action=lambda path: Store.open(path).read(RESID, 9, "uncond", ["run1"], tokens=[0]))


def test_a_block_that_unfolds_without_end() -> None:
    """64 MiB of zeros in 2 KB, where 1 MiB was claimed: HDF5's filter would unfold all of it."""
    bits = np.dtype(np.uint16)
    stored = coded(np.zeros(1 << 25, bits))
    assert len(stored) < 1 << 12
    assert not zstd.decode(stored, 1 << 25, bits).any()
    for text in (stored, stored[:12], b"\x28\xb5\x2f\xfd" + b"\0" * 20, b""):
        with pytest.raises(ValueError, match="another size"):
            zstd.decode(text, 1 << 19, bits)


def coded(block: np.ndarray) -> bytes:
    """What the filters make of a block, however small it gets."""
    with zstd._one_block(block) as dataset:
        dataset[...] = block
        dataset.flush()
        return bytes(dataset.id.read_direct_chunk((0,))[1])


def test_numbers_that_are_many_are_not_compared_one_by_one() -> None:
    """A dataset of the HDF5 side may be as large as the file is long, and a file may have holes."""
    with (
        h5py.File("x", "w", driver="core", backing_store=False) as file,
        pytest.raises(ValueError, match=r"/steps has the shape \(1099511627776,\)"),
    ):
        _values(file.create_dataset("steps", (TERABYTE,), "<i8"))


def test_tokens_that_are_not_on_the_grid(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", seeds=1, tokens=(5, 2, 17))
    rewrite_index(store.path, "run0", lambda body: body["grid"].update(rows=1))
    with pytest.raises(StoreError, match=r"run run0: .* tokens that are not on its grid"):
        Store.open(store.path).read(RESID, 0, "cond", as_="polars")


def test_what_cannot_be_removed_is_off_the_list_all_the_same(copy: Path) -> None:
    folder(copy / "runs/run1.h5")
    assert_refused(copy, "run1.h5 is off the list", action=lambda path: Store.open(path).drop(["run1"]))
    assert Store.open(copy).runs == ("run0", "run2")
