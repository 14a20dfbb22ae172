"""Coded sites read back as they should, by this package and by plain h5py; damage in them is found; off by default."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import h5py
import hdf5plugin  # which is all that a reader with plain h5py needs
import numpy as np
import pytest
import torch
from torch import Tensor

from interp.errors import StoreError
from interp.store import RunLayout, SiteLayout, Store, consolidate, export, verify, zstd
from tests.store.making import PROVENANCE, RESID, layout_of, make_store
from tests.store.test_background import write_run as write_in_background
from tests.store.test_damage import rewrite_index

AXES = ("step", "branch", "token", "feature")
SITES = {
    "small": (3, 2, 24, 50),  # many cells a block
    "middle": (3, 2, 24, 6_001),  # a block of two steps, the last one not full
    "large": (3, 2, 24, 23_001),  # two blocks a cell, the last one not full
}


def test_the_filter_is_zstandards():
    assert zstd.ZSTD == hdf5plugin.ZSTD_ID


def coded_layout(run: str, codec: str | None, dtype: str = "bfloat16") -> RunLayout:
    """A run whose sites have cells of all sizes."""
    steps = 3
    return replace(
        layout_of(run),
        sites=tuple(SiteLayout(name, AXES, shape, dtype, codec=codec) for name, shape in SITES.items()),
        steps=(0, 4, 7),
        sigmas=(0.9, 0.5, 0.1),
        timesteps=(900.0, 500.0, 100.0),
        experts=("main",) * steps,
    )


def numbers(run: str, site: str) -> Tensor:
    """Known numbers [step, branch, token, feature] with channels of different sizes, as activations have them."""
    generator = torch.Generator().manual_seed(sum(map(ord, run + site)))
    shape = SITES[site]
    channels = 10 ** torch.linspace(-2, 2, shape[-1])
    channels[0] = 0
    return (torch.randn(shape, generator=generator) * channels).to(torch.bfloat16)


def coded_store(path: Path, codec: str | None, background: bool = False) -> Store:
    """Two runs."""
    store = Store.create(path, PROVENANCE)
    with store.background(memory=1) if background else nullcontext(store) as writers:
        for run in ("run0", "run1"):
            layout = coded_layout(run, codec)
            with writers.writer(run, layout) as writer:
                tensors = {site: numbers(run, site) for site in SITES}
                for step in range(3):
                    for site, tensor in tensors.items():
                        for branch in range(2):
                            writer.write(site, step, branch, tensor[step, branch])
                writer.finish({"route": 1})
    store.refresh()
    return store


@pytest.fixture(scope="module", params=["zstd", "int8"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of either codec."""
    return coded_store(tmp_path_factory.mktemp("codec") / request.param, request.param)


def naive_int8(x: Tensor) -> np.ndarray:
    """[token, feature] rounded to 255 levels a feature."""
    scale = x.float().abs().amax(0) / 127
    return (torch.round(x.float() / scale.clamp(min=1e-30)) * scale).numpy()


def wanted(codec: str, run: str, site: str) -> np.ndarray:
    """What reading should give, [step, branch, token, feature]."""
    tensor = numbers(run, site)
    if codec == "zstd":
        return tensor.float().numpy()
    return np.stack([np.stack([naive_int8(x) for x in branches]) for branches in tensor])


def codec_of(store: Store) -> str:
    """Codec of all its sites."""
    return str(store.layout("run0").sites[0].codec)


@pytest.mark.parametrize("site", SITES)
def test_reads_as_the_naive_version(store: Store, site: str) -> None:
    both = ["cond", "uncond"]
    expected = np.stack([wanted(codec_of(store), run, site) for run in store.runs])
    assert np.array_equal(store.read(site, branch=both), expected)
    got = store.read(site, step=4, branch="uncond", tokens=[20, 3, 4], as_="torch")
    assert got.dtype is torch.bfloat16
    assert torch.equal(got, torch.from_numpy(expected[:, 1, 1][:, [20, 3, 4]]).to(torch.bfloat16))


def test_threads_share_a_store(tmp_path: Path) -> None:
    """Each cell of some blocks, by threads that want others at the same time."""
    store = coded_store(tmp_path / "s", "zstd")
    cells = [(site, step, branch) for site in SITES for step in (0, 4, 7) for branch in ("cond", "uncond")]
    wanted = [store.read(*cell) for cell in cells]
    again = Store.open(store.path)
    with ThreadPoolExecutor(4) as threads:
        for got, values in zip(threads.map(lambda cell: again.read(*cell), cells * 3), wanted * 3, strict=True):
            assert np.array_equal(got, values)


def test_batches_read_the_same(store: Store) -> None:
    values = torch.from_numpy(store.read("middle", branch="cond")).to(torch.bfloat16)
    batch = next(iter(store.batches("middle", 17, branch="cond", label="route", seed=1)))
    place = {step: i for i, step in enumerate((0, 4, 7))}
    rows = torch.stack(
        [values[r, place[int(s)], t] for r, s, t in zip(batch.run, batch.step, batch.token, strict=True)]
    )
    assert torch.equal(batch.features, rows)


def test_the_same_bytes_from_another_process(store: Store, tmp_path: Path) -> None:
    far = coded_store(tmp_path / "far", codec_of(store), background=True)
    for run in store.runs:
        assert (far.path / f"runs/{run}.h5").read_bytes() == (store.path / f"runs/{run}.h5").read_bytes()


def test_sound_consolidated_and_exported(tmp_path: Path, store: Store) -> None:
    assert verify(store).ok
    assert store.sites == tuple(SITES)
    assert set(store.frame["site"]) == set(SITES)
    copy = Store.create(tmp_path / "copy", PROVENANCE)
    for run in store.runs:
        (copy.path / f"runs/{run}.h5").write_bytes((store.path / f"runs/{run}.h5").read_bytes())
    (copy.path / "manifest.jsonl").write_bytes((store.path / "manifest.jsonl").read_bytes())
    copy.refresh()
    before = {site: copy.read(site, branch=["cond", "uncond"]) for site in SITES}
    consolidate(copy, memory=1 << 20)
    assert len(copy.consolidated) == 2
    assert verify(copy).ok
    for site, values in before.items():
        assert np.array_equal(copy.read(site, branch=["cond", "uncond"]), values)
    export(copy, tmp_path / "out", sites="small", form="npy")
    as_given = torch.from_numpy(before["small"]).to(torch.bfloat16).float().numpy()
    assert np.array_equal(np.load(tmp_path / "out/small.npy"), as_given)


def test_zstd_saves_space_and_plain_h5py_reads_it(tmp_path: Path) -> None:
    plain, small = (coded_store(tmp_path / name, codec) for name, codec in (("plain", None), ("zstd", "zstd")))
    assert small.line("run0").size < 0.85 * plain.line("run0").size
    with h5py.File(small.path / "runs/run0.h5") as file:
        assert file.attrs["version"] == 2
        for site in SITES:
            assert np.array_equal(file[f"sites/{site}"][...], numbers("run0", site).float().numpy())
    with h5py.File(plain.path / "runs/run0.h5") as file:
        assert file.attrs["version"] == 1
        assert all(not dataset.chunks for dataset in file["sites"].values())


def test_plain_h5py_restores_int8_and_knows_what_it_was(tmp_path: Path) -> None:
    store = coded_store(tmp_path / "s", "int8")
    with h5py.File(store.path / "runs/run1.h5") as shard:
        site, scale = shard["sites/small"], shard["sites/small.int8_scale"]
        assert (site.dtype, site.attrs["dtype"], site.attrs["codec"]) == (np.int8, b"bfloat16", b"int8")
        assert np.array_equal(site[1, 1] * scale[1, 1], store.read("small", 4, "uncond", ["run1"])[0])


def test_numbers_that_do_not_get_smaller_or_vanish_are_stored_as_they_are(tmp_path: Path) -> None:
    site = SiteLayout("site", ("step", "branch", "number"), (2, 1, 1 << 20), "uint8", branches=("cond",), codec="zstd")
    base = coded_layout("r", None)
    layout = replace(base, sites=(site,), steps=(0, 1), sigmas=(1.0, 0.5), timesteps=(9.0, 5.0), experts=("main",) * 2)
    noise = np.random.default_rng(0).integers(0, 255, 1 << 20, np.uint8)
    store = Store.create(tmp_path / "s")
    with store.writer("r", layout) as writer:
        writer.write("site", 1, 0, noise)
        writer.write("site", 0, 0, np.zeros(1 << 20, np.uint8))
        writer.finish()
    assert verify(store).ok
    assert np.array_equal(store.read("site")[0], np.stack([np.zeros_like(noise), noise]))
    with h5py.File(store.path / "runs/r.h5") as file:
        assert np.array_equal(file["sites/site"][1, 0], noise)


def test_int8_records_its_error(tmp_path: Path) -> None:
    store = coded_store(tmp_path / "s", "int8")
    for site in SITES:
        error = store.read(f"{site}.int8_error", branch=["cond", "uncond"])
        for r, run in enumerate(store.runs):
            x, kept = numbers(run, site).double().numpy(), wanted("int8", run, site)
            made = np.sqrt(((x - kept) ** 2).sum((-2, -1)) / (x**2).sum((-2, -1)))
            assert np.allclose(error[r], made, rtol=1e-4)
            bound = np.abs(x).max(-2, keepdims=True) / 127 / 2
            assert (np.abs(x - kept) <= bound * (1 + 1e-5)).all()
    with h5py.File(store.path / "runs/run0.h5") as file:  # as the documentation says
        codes, scale = file["sites/small"][1, 0], file["sites/small.int8_scale"][1, 0]
        assert codes.dtype == np.int8
        assert np.array_equal(codes * scale, wanted("int8", "run0", "small")[1, 0])


def test_what_int8_cannot_keep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="needs an axis of channels"):
        SiteLayout("site", AXES[:2], (1, 1), "float32", codec="int8")
    with pytest.raises(StoreError, match="floating-point"):
        SiteLayout("site", AXES, (1, 1, 2, 2), "int32", codec="int8")
    with pytest.raises(StoreError, match="codec 'zsdt' is not known"):
        SiteLayout("site", AXES, (1, 1, 2, 2), "float32", codec="zsdt")
    store = Store.create(tmp_path / "s", PROVENANCE)
    with store.writer("r", coded_layout("r", "int8")) as writer:
        bad = torch.zeros(24, 50, dtype=torch.bfloat16)
        with pytest.raises(StoreError, match="got shape"):
            writer.write("small", 0, 0, bad[1:])
        with pytest.raises(StoreError, match="got float32 where bfloat16"):
            writer.write("small", 0, 0, bad.float())
        bad[3, 7] = float("inf")
        with pytest.raises(StoreError, match="not finite"):
            writer.write("small", 0, 0, bad)
        writer.write("small", 0, 0, torch.ones_like(bad))  # the refused ones left the place free


def test_runs_with_and_without_a_codec(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", seeds=2)
    plain = store.read(RESID, branch="cond")
    layout = layout_of("run2", seed=2)
    for codec in ("zstd", "int8"):
        run = f"run-{codec}"
        sites = tuple(replace(site, codec=codec) for site in layout.sites)
        with store.background() as writers:
            write_in_background(writers, replace(layout, run=run, sites=sites))
    assert np.array_equal(store.read(RESID, branch="cond", runs=["run0", "run1"]), plain)
    assert len(store.read(RESID, branch="cond", runs=["run0", "run-zstd"])) == 2
    with pytest.raises(StoreError, match="has different codecs"):
        store.read(RESID, branch="cond")


def swollen(body: dict) -> None:
    """A site that would unfold to a million times its size."""
    site = body["sites"][0]
    site["chunks"] = [[at, 1] for at, _ in site["chunks"]]


def elsewhere(body: dict) -> None:
    """A block beyond the file."""
    body["sites"][0]["chunks"][0][0] = 1 << 40


def fewer(body: dict) -> None:
    """A block that is not there."""
    body["sites"][2]["chunks"].pop()


@pytest.mark.parametrize(
    ("change", "words"),
    [(swollen, "claims to be much larger"), (elsewhere, "do not exist"), (fewer, "do not make it up")],
)
def test_a_hostile_coded_shard_is_refused(tmp_path: Path, change: Callable[[dict], None], words: str) -> None:
    store = coded_store(tmp_path / "s", "zstd")
    rewrite_index(store.path, "run0", change)
    with pytest.raises(StoreError, match=f"run run0.*{words}"):
        Store.open(store.path).read("small", branch="cond")


def test_damage_in_a_coded_shard_is_found_and_named(tmp_path: Path) -> None:
    store = coded_store(tmp_path / "s", "zstd")
    shard = store.path / "runs/run1.h5"
    good = shard.read_bytes()
    random = np.random.default_rng(0)
    for place in random.integers(0, len(good), 12).tolist():
        bad = bytearray(good)
        bad[place] ^= 1 << int(random.integers(8))
        shard.write_bytes(bad)
        assert list(verify(Store.open(store.path)).damaged) == ["run1"], place
    entry = store.index("run1").sites["large"]
    bad = bytearray(good)
    bad[entry.chunks[3][0]] ^= 1
    shard.write_bytes(bad)
    with pytest.raises(StoreError, match=r"run run1.*block 3 of site large, step 0, branch uncond"):
        Store.open(store.path).read("large", branch="uncond")
    shard.write_bytes(good)
    assert verify(Store.open(store.path)).ok
