"""Each view against the naive version on full captures, shapes by axis, and what does not fit."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from interp import views
from interp.errors import SelectionError
from interp.grid import TokenGrid
from interp.lab import Lab, load
from interp.runspec import RunSpec
from interp.selection import select
from interp.views import View, ViewPlan, full, stored_name
from tests import pipelines
from tests.tracer.runs import specs_of

RESID = "blocks.1.hook_resid_post"
FRAMES, ROWS, COLS = pipelines.GRID
DIRECTIONS = np.random.default_rng(0).standard_normal((3, pipelines.WIDTH)).astype(np.float32)


@cache
def tiny(seeds: int = 2, dtype: torch.dtype = torch.float32) -> tuple[Lab, list[RunSpec]]:
    lab = load(pipelines.tiny_i2v(dtype=dtype))
    return lab, specs_of(lab, pipelines.call_arguments(lab.pipe, guidance=5.0), list(range(seeds)))


@cache
def captured(site: str, views: tuple[View, ...], dtype: torch.dtype, **axes: Any) -> list[dict[str, Tensor]]:
    """Full tensors and views of two runs in one batch: stored name to [step, branch, <axes>]."""
    lab, runs = tiny(2, dtype)
    return [result.captured for result in lab.run(runs, select(site, **axes), views=[full(), *views])]


def both(view: View, dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
    """The full residual stream [step, branch, token, d_model] and a view of it, for each run of a batch."""
    every = tuple(one for one, _ in NAIVE.values())
    return [(got[RESID], got[stored_name(RESID, view)]) for got in captured(RESID, every, dtype)]


def split(full: Tensor) -> Tensor:
    """[step, branch, token, ...] to [step, branch, frame, row, col, ...]."""
    return full.unflatten(2, (FRAMES, ROWS, COLS))


def lower_median(full: Tensor) -> Tensor:
    return full.abs().sort(-1).values[..., (full.shape[-1] - 1) // 2]


def sums(full: Tensor) -> Tensor:
    centred = full - full.mean(2, keepdim=True)
    return torch.einsum("sbti,sbtj->sbij", centred, centred) / full.shape[2]


NAIVE: dict[str, tuple[View, Any]] = {
    "frame_mean": (views.frame_mean(), lambda x: split(x).mean((3, 4))),
    "token_mean": (views.token_mean(), lambda x: x.mean(2)),
    "region_mean": (
        views.region_mean("frames", "all", corner=[0, 5], last="frames=-1"),
        lambda x: torch.cat(
            [
                split(x).mean((3, 4)),
                torch.stack([x.mean(2), (x[:, :, 0] + x[:, :, 5]) / 2, split(x)[:, :, -1].mean((2, 3))], 2),
            ],
            2,
        ),
    ),
    "grid_pool": (views.grid_pool(1, 2), lambda x: split(x).mean(3, keepdim=True)),
    "norm": (views.norm(), lambda x: (x**2).sum(-1).sqrt()),
    "norm robust": (views.norm("robust"), lower_median),
    "norm layer": (
        views.norm("layer"),
        lambda x: (x**2).sum(-1).sqrt() / (x**2).sum(-1).sqrt().mean(2, keepdim=True),
    ),
    "project": (views.project(DIRECTIONS, "probe"), lambda x: x @ torch.from_numpy(DIRECTIONS).T),
    "covariance": (views.covariance(), sums),
    "reduce": (views.reduce("(f h w) d -> f d"), lambda x: split(x).mean((3, 4))),
    "reduce max": (views.reduce("(f h w) d -> d h", "max"), lambda x: split(x).amax((2, 4)).transpose(2, 3)),
    "reduce sum": (views.reduce("t (group c) -> t group", "sum", group=3), lambda x: x.unflatten(3, (3, 8)).sum(4)),
    "reduce min": (views.reduce("token d -> token", "min"), lambda x: x.amin(3)),
    "random_projection": (
        views.random_projection(512, seed=3),
        lambda x: x @ views.parse("random_projection-512-3").directions(x.shape[-1]).T,
    ),
}


@pytest.mark.parametrize("name", NAIVE)
def test_a_view_is_what_the_naive_version_makes_of_the_full_tensor(name: str) -> None:
    view, naive = NAIVE[name]
    for whole, kept in both(view):
        torch.testing.assert_close(kept, naive(whole), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAIVE)
def test_a_view_in_bf16_is_the_naive_version_of_the_same_numbers(name: str) -> None:
    """The full tensor of a bf16 model widens exactly, so the view, computed in fp32, agrees as closely."""
    view, naive = NAIVE[name]
    for whole, kept in both(view, torch.bfloat16):
        torch.testing.assert_close(kept, naive(whole), rtol=1e-5, atol=1e-5)


def test_a_random_projection_keeps_distances() -> None:
    for whole, kept in both(views.random_projection(512, seed=3)):
        ratio = torch.pdist(kept.flatten(0, 2)) / torch.pdist(whole.flatten(0, 2)).clamp_min(1e-6)
        assert 0.7 < ratio.min() < ratio.max() < 1.3


def test_axes_are_named_and_sized_before_the_run() -> None:
    """On a site with more than one axis beside the tokens; and the run makes what was planned."""
    expected = {
        "frame_mean": (("frame", "head", "d_head"), (3, 2, 12)),
        "token_mean": (("head", "d_head"), (2, 12)),
        views.region_mean(a=[0], b="rows=0"): (("region", "head", "d_head"), (2, 2, 12)),
        "grid_pool-2x1": (("frame", "row", "col", "head", "d_head"), (3, 2, 1, 2, 12)),
        "norm-robust": (("token", "head"), (12, 2)),
        "random_projection-5": (("token", "head", "component"), (12, 2, 5)),
        "covariance": (("head", "d_head", "d_head_2"), (2, 12, 12)),
        views.reduce("(f h w) head d -> f w head", "max"): (("frame", "col", "head"), (3, 2, 2)),
        views.reduce("t n (half c) -> n t half", half=2): (("head", "token", "half"), (2, 12, 2)),
        views.project(np.eye(12)[:4]): (("token", "head", "direction"), (12, 2, 4)),
    }
    lab, runs = tiny(1)
    site = "blocks.0.attn.hook_z"
    outputs = ViewPlan.of(select(site).resolve(lab.space(runs[0])), views.views_of([*expected])).outputs
    assert [(output.made.axes, output.made.shape) for output in outputs] == [*expected.values()]
    got = lab.run(runs[0], site, views=[*expected]).captured
    assert [got[output.name].shape for output in outputs] == [(3, 2, *shape) for _, shape in expected.values()]


def test_means_by_head_are_the_naive_ones() -> None:
    site, chosen = "blocks.0.attn.hook_z", (views.frame_mean(), views.grid_pool(1, 1))
    for got in captured(site, chosen, torch.float32):
        for view in chosen:
            kept = got[stored_name(site, view)].squeeze((3, 4))
            torch.testing.assert_close(kept, split(got[site]).mean((3, 4)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("size", "cells"), [(5, 2), (30, 4), (7, 7), (52, 5)])
def test_cells_that_do_not_divide_are_even_to_one_row(size: int, cells: int) -> None:
    from interp.views.pool import _bins

    members = [[i for i in range(size) if i * cells // size == cell] for cell in range(cells)]
    lengths = [len(m) for m in members]
    assert max(lengths) - min(lengths) <= 1
    expected = torch.zeros(cells, size)
    for cell, rows in enumerate(members):
        expected[cell, rows] = 1 / len(rows)
    assert torch.equal(_bins(size, cells), expected)


def test_a_view_sees_the_selected_tokens_only() -> None:
    for got in captured(RESID, (views.frame_mean(),), torch.float32, frames="1:", rows=0):
        assert got[RESID].shape[2] == 4
        torch.testing.assert_close(got[f"{RESID}@frame_mean"], got[RESID].unflatten(2, (2, 2)).mean(3))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_chunks_make_no_difference(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 12, 24).to(getattr(torch, dtype))
    given = views.Given(RESID, ("token", "d_model"), (12, 24), None, None, TokenGrid(*pipelines.GRID))
    for view in (views.frame_mean(), views.project(DIRECTIONS), views.covariance()):
        whole = view.computer(given, ())(x)
        for module in ("pool", "direction", "statistics"):
            monkeypatch.setattr(f"interp.views.{module}.CHUNK", 100)
        torch.testing.assert_close(view.computer(given, ())(x), whole)
        monkeypatch.undo()


@pytest.mark.parametrize(
    ("view", "selection", "message"),
    [
        ("frame_mean", "blocks.0.attn.hook_gate", "frame_mean does not fit blocks.0.attn.hook_gate: .* only d_model"),
        ("norm", "hook_timestep", "do not end with one of features"),
        ("norm", "blocks.0.attn.hook_pattern", "do not end with one of features"),
        ("grid_pool-3x1", RESID, "finer than the 2 x 2 tokens"),
        ("grid_pool-2x2", select(RESID, rows=0), "needs whole frames"),
        (views.region_mean(a="frames=0"), select(RESID, frames=1), "'a' has 4 tokens .* are not selected"),
        (views.region_mean("goal"), RESID, "belongs to no task"),
        (views.project(np.ones((1, 7))), RESID, "directions have 7 numbers, and its axis 'd_model' has 24"),
        ("(f h w) d -> f d", select(RESID, rows=0), "parts of frames are selected"),
        ("t d e -> t", RESID, "has 3 axes on its left, and .* has 2: token, d_model"),
        (views.reduce("t (a b) -> t a", a=7), RESID, "does not fit blocks.1.hook_resid_post .token 12, d_model 24.: "),
        (views.reduce("t (a b) -> t a"), RESID, "does not fit blocks.1.hook_resid_post"),
        ("frame_men", RESID, "no view 'frame_men' .did you mean frame_mean"),
        (["norm", "norm"], RESID, "named twice"),
    ],
)
def test_what_does_not_fit_is_refused(view: Any, selection: Any, message: str) -> None:
    lab, runs = tiny(1)
    with pytest.raises(SelectionError, match=message):
        lab.run(runs[0], selection, views=view)
