"""Views through a capture: the store has them under their names, exactly as large as was announced."""

from __future__ import annotations

import shutil
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from interp import budget, edits, views
from interp.errors import InterpError, StoreError
from interp.lab import load
from interp.selection import select
from interp.tasks import get
from interp.views import ViewPlan
from tests import pipelines
from tests.views.test_views import DIRECTIONS, RESID, tiny

MANY = ["frame_mean", "grid_pool-1x2", "norm", "covariance", views.project(DIRECTIONS, "probe"), "random_projection-4"]


def test_what_is_read_is_what_a_run_gives(tmp_path: Path) -> None:
    lab, runs = tiny()
    store = lab.capture(runs, RESID, to=tmp_path / "s", views=["full", *MANY], dtype="float32", progress=False)
    expected = lab.run(runs, RESID, views=["full", *MANY])
    assert len(store.sites) == 1 + len(MANY)
    for branch, label in enumerate(("cond", "uncond")):
        for name in store.sites:
            got = store.read(name, step=1, branch=label, runs=[run.key for run in runs])
            assert np.array_equal(got, torch.stack([r.captured[name][1, branch] for r in expected]).numpy()), name


def test_the_store_describes_its_views(tmp_path: Path) -> None:
    lab, runs = tiny(1)
    given = [views.region_mean("frames", corner=[0, 1]), views.project(DIRECTIONS, "probe"), views.norm()]
    store = lab.capture(runs, select(RESID, frames=[0, 1, 2]), to=tmp_path / "s", views=given, progress=False)
    assert views.kept_views(store) == {view.name: view for view in given}
    layout = store.layout(store.runs[0])
    names = {site.site: (site.axes, site.dtype) for site in layout.sites}
    assert names[f"{RESID}@norm"] == (("step", "branch", "token"), "float32")
    assert names[f"{RESID}@{given[0].name}"] == (("step", "branch", "region", "d_model"), "bfloat16")
    coords = layout.provenance["views"]["coords"][f"{RESID}@{given[0].name}"]
    assert coords == {"region": ["frame0", "frame1", "frame2", "corner"]}


def test_tokens_of_a_view_are_chosen_on_reading(tmp_path: Path) -> None:
    lab, runs = tiny(1)
    store = lab.capture(runs, select(RESID, frames=1), to=tmp_path / "s", views=["full", "norm"], progress=False)
    some = store.read(f"{RESID}@norm", step=0, branch="cond", tokens=[5, 7])
    full = store.read(RESID, step=0, branch="cond", tokens=[5, 7])
    np.testing.assert_allclose(some, np.linalg.norm(full, axis=-1), rtol=1e-2)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_budget_is_what_is_written(tmp_path: Path, dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    lab, runs = tiny()
    selection = select(["blocks.*.hook_resid_post", "latents.hook_x0"], step=[0, 2])
    given = [view for view in MANY if not isinstance(view, views.View)]
    store = lab.capture(runs, selection, to=tmp_path / "s", views=given, dtype=dtype)
    plan = ViewPlan.of(selection.resolve(lab.space(runs[0])), views.views_of(given), dtype)
    written = 0
    for site in store.sites:
        branches = ["guided"] if "latents" in site else ["cond", "uncond"]
        written += store.read(site, step=[0, 2], branch=branches, runs=[runs[0].key], as_="torch").nbytes
    assert plan.nbytes == written == store.layout(runs[0].key).nbytes == int(store.frame["bytes"].sum()) // 2
    assert f"2 runs x up to {plan.tensors} tensors" in capsys.readouterr().out


def test_a_capture_too_large_names_views_that_fit(tmp_path: Path) -> None:
    lab, runs = tiny()
    full = ViewPlan.of(select(RESID).resolve(lab.space(runs[0])), (), "bfloat16").nbytes * 2
    with pytest.raises(InterpError, match=r'"frame_mean" \(.* KiB\)') as refused:
        lab.capture(runs, RESID, to=tmp_path / "s", limit=full // 2, progress=False)
    assert "grid_pool-4x4" not in str(refused.value)  # finer than this grid
    lab.capture(runs, RESID, to=tmp_path / "s2", limit=full // 2, views="frame_mean", progress=False)


def test_what_the_disk_cannot_hold_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, runs = tiny()
    full = ViewPlan.of(select(RESID).resolve(lab.space(runs[0])), (), "bfloat16").nbytes * 2
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=full - 1))
    with pytest.raises(InterpError, match=r"more than the .* that are free on the disk of .*frame_mean"):
        lab.capture(runs, RESID, to=tmp_path / "new/s", progress=False)
    assert not (tmp_path / "new").exists()
    lab.capture(runs, RESID, to=tmp_path / "s", codec="zstd", progress=False)
    lab.capture(runs, RESID, to=tmp_path / "s", codec="zstd", progress=False)


def test_what_memory_cannot_hold_names_views_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    lab, runs = tiny()
    full = ViewPlan.of(select(RESID).resolve(lab.space(runs[0])), (), "float32").nbytes * 2
    with monkeypatch.context() as small:
        small.setattr(budget, "memory", lambda: full - 1)
        small.setattr("interp.sampler._one_step", lambda *_: pytest.fail("it ran"))
        for edit in (None, edits.scale(RESID, 2.0)):
            with pytest.raises(InterpError, match=r'memory there are.*"frame_mean" \(.*lab\.capture'):
                lab.run(runs, RESID, edits=edit)
    monkeypatch.setattr(budget, "memory", lambda: full)
    assert len(lab.run(runs, RESID)) == 2


def test_one_store_keeps_the_same_views_of_all_runs(tmp_path: Path) -> None:
    lab, runs = tiny()
    lab.capture(runs[:1], RESID, to=tmp_path / "s", views="frame_mean", progress=False)
    with pytest.raises(StoreError, match="views"):
        lab.capture(runs, RESID, to=tmp_path / "s", views="norm", progress=False)
    assert len(lab.capture(runs, RESID, to=tmp_path / "s", views="frame_mean", progress=False)) == 2


def test_a_region_of_the_task_is_found_anew_in_each_run() -> None:
    """Two mazes in one batch, goals at different places."""
    task = get("maze", size=4)
    first, *rest = task.sample(8, seed=0)
    lab = load(pipelines.tiny_i2v())
    grid = lab.grid(first)
    other = next(s for s in rest if task.region(s, "goal", grid) != task.region(first, "goal", grid))
    runs = lab.plan([first, other], steps=1)
    for sample, result in zip((first, other), lab.run(runs, RESID, views=["full", "region_mean-goal"]), strict=True):
        goal = list(task.region(sample, "goal", grid))
        expected = result.captured[RESID][:, :, goal].mean(2, keepdim=True)
        torch.testing.assert_close(result.captured[f"{RESID}@region_mean-goal"], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_looking_changes_nothing(dtype: torch.dtype) -> None:
    lab, runs = tiny(1, dtype)
    bare = lab.run(runs[0]).trajectory.result
    seen = lab.run(runs[0], "blocks.*.hook_resid_post", views=["frame_mean", "norm-robust"]).trajectory.result
    assert torch.equal(bare, seen)


def test_views_of_nothing_are_refused() -> None:
    lab, runs = tiny(1)
    with pytest.raises(InterpError, match="none was selected"):
        lab.run(runs[0], views="norm")
    with pytest.raises(InterpError, match="none was selected"):
        lab.run(runs[0], edits=(), views="norm")
