"""`lab.capture` through another process: the same bytes, nothing finished lost, and its death is told at once."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from interp.errors import InterpError, StoreError
from interp.lab import Lab
from interp.store import BackgroundWriter, Store, verify
from tests.pipelines import call_arguments, tiny_i2v
from tests.store.faults import leftovers
from tests.tracer.runs import specs_of

SITE = "blocks.*.hook_resid_post"


def lab_and_runs() -> tuple[Lab, list[Any]]:
    pipe = tiny_i2v()
    pipe.set_progress_bar_config(disable=True)
    lab = Lab(pipe, "tiny")
    return lab, specs_of(lab, call_arguments(pipe), [0, 1, 2])


def capture(lab: Lab, runs: list[Any], to: Path, background: bool) -> Store:
    return lab.capture(runs, SITE, to=to, batch_size=1, progress=False, background=background)


def files(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def in_run(number: int, do: Callable[[], None], lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do something before a run is sampled."""
    real, count = lab.run_batch, iter(range(99))

    def run_batch(*args: Any, **kwargs: Any) -> Any:
        if next(count) == number:
            do()
        return real(*args, **kwargs)

    monkeypatch.setattr(lab, "run_batch", run_batch)


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[BackgroundWriter]:
    """The background writers that stores make."""
    made: list[BackgroundWriter] = []
    real = Store.background

    def background(store: Store, *args: Any) -> BackgroundWriter:
        made.append(real(store, *args))
        return made[-1]

    monkeypatch.setattr(Store, "background", background)
    return made


def test_either_way_the_same_files(tmp_path: Path) -> None:
    lab, runs = lab_and_runs()
    assert len(capture(lab, runs, tmp_path / "far", background=True)) == 3
    capture(lab, runs, tmp_path / "near", background=False)
    assert files(tmp_path / "far") == files(tmp_path / "near")


@pytest.mark.parametrize("lost", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_a_capture_that_goes_on_has_the_bits_of_one_that_was_never_stopped(
    lost: tuple[int, ...], tmp_path: Path
) -> None:
    lab, runs = lab_and_runs()
    go = {"batch_size": 2, "progress": False, "dtype": "float32"}
    whole = lab.capture(runs, SITE, to=tmp_path / "whole", **go)
    broken = lab.capture(runs, SITE, to=tmp_path / "broken", **go)
    broken.drop([runs[k].key for k in lost])
    assert len(broken) == 3 - len(lost)
    again = lab.capture(runs, SITE, to=tmp_path / "broken", **go)
    assert again.runs == whole.runs
    for run in runs:
        name = f"runs/{run.key}.h5"
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("codec", ["zstd", "int8"])
def test_a_codec_is_used_on_all_that_is_captured(codec: str, tmp_path: Path) -> None:
    lab, runs = lab_and_runs()
    plain = capture(lab, runs[:1], tmp_path / "plain", background=False)
    coded = lab.capture(runs[:1], SITE, to=tmp_path / "coded", progress=False, codec=codec)
    assert coded.provenance["codec"] == codec
    assert coded.sites == plain.sites
    assert verify(coded).ok
    key = runs[0].key
    assert {site.codec for site in plain.layout(key).sites} == {None}
    for site in plain.sites:
        assert coded.layout(key).site_named(site).codec == codec
        got, wanted = (store.read(site, branch="cond", as_="torch") for store in (coded, plain))
        assert got.dtype is wanted.dtype is torch.bfloat16
        if codec == "zstd":
            assert torch.equal(got, wanted)
        else:
            x = wanted.float()
            scale = x.abs().amax(-2, keepdim=True) / 127  # of each feature over the tokens of a step
            assert torch.equal(got, (torch.round(x / scale) * scale).bfloat16())
            error = coded.read(site + ".int8_error", branch="cond", as_="torch")
            made = (x - torch.round(x / scale) * scale).norm(dim=(-2, -1)) / x.norm(dim=(-2, -1))
            torch.testing.assert_close(error, made)
    with pytest.raises(StoreError, match="codec"):  # a store keeps to one
        capture(lab, runs, tmp_path / "coded", background=False)


def test_a_refused_capture_makes_no_folder(tmp_path: Path) -> None:
    lab, runs = lab_and_runs()
    with pytest.raises(InterpError, match="limit"):
        lab.capture(runs, SITE, to=tmp_path / "new", limit=1)
    assert not (tmp_path / "new").exists()


def test_a_writing_process_that_dies_is_told_before_more_is_computed(
    tmp_path: Path, writers: list[BackgroundWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, runs = lab_and_runs()

    def kill() -> None:
        writers[0].flush()  # so that it is known what is finished
        writers[0].process.send_signal(signal.SIGKILL)
        writers[0].process.wait()

    in_run(2, kill, lab, monkeypatch)
    with pytest.raises(StoreError, match=rf"ended with status -9.*unfinished runs \({runs[2].key}\).*run the same"):
        capture(lab, runs, tmp_path / "s", background=True)
    assert set(Store.open(tmp_path / "s").runs) == {run.key for run in runs[:2]}
    store = capture(lab, runs, tmp_path / "s", background=True)
    undisturbed = capture(lab, runs, tmp_path / "near", background=False)
    assert leftovers(store.path) == []
    for run in undisturbed.runs:
        assert (store.path / f"runs/{run}.h5").read_bytes() == (undisturbed.path / f"runs/{run}.h5").read_bytes()


def test_an_error_of_the_model_keeps_what_is_finished(
    tmp_path: Path, writers: list[BackgroundWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, runs = lab_and_runs()

    def fail() -> None:
        raise KeyError("the model")

    in_run(1, fail, lab, monkeypatch)
    with pytest.raises(KeyError, match="the model"):
        capture(lab, runs, tmp_path / "s", background=True)
    assert Store.open(tmp_path / "s").runs == (runs[0].key,)
    assert leftovers(tmp_path / "s") == []
    assert writers[0].process.returncode == 0


def test_a_selection_is_narrowed_by_axes(tmp_path: Path) -> None:
    lab, runs = lab_and_runs()
    store = lab.capture(runs[:1], "blocks.0.hook_resid_post", step=0, frames=-1, to=tmp_path / "a", progress=False)
    lab.capture(runs[:1], "blocks.0.hook_resid_post[step=0, frames=-1]", to=tmp_path / "b", progress=False)
    assert store.schedule()["step"].to_list() == [0]
    assert files(tmp_path / "a") == files(tmp_path / "b")
    with pytest.raises(InterpError, match="no axis 'steps'"):
        lab.capture(runs, SITE, steps=0, to=tmp_path / "c", progress=False)
