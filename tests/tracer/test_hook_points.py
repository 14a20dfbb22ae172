"""Every hook point of every pipeline: fires once a step, branch and expert, has its declared shape, can be written, and
looking changes nothing. The page of hook points names these tests; each test finds itself there."""

from __future__ import annotations

import itertools
from functools import cache

import pytest
import torch
from torch import Tensor

from docs.make_hook_points import TESTS, render
from interp import edits
from interp.errors import SelectionError
from interp.lab import Lab, load
from interp.runspec import RunSpec
from interp.sites import SITES, Site, site_named
from tests import pipelines
from tests.tracer.runs import KINDS, RUN, specs_of
from tests.tracer.walk import everything, walk

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def on_the_page(site: Site, request: pytest.FixtureRequest) -> bool:
    """Whether the page's row of a hook point names the test that is running."""
    (row,) = [line for line in render().splitlines() if line.startswith(f"| `{site.name}`")]
    name = request.node.originalname
    return f"`{name}`" in row and request.node.nodeid == f"{TESTS}::{name}[{site.name}]"


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.name)
def test_fires_once(site: Site, request: pytest.FixtureRequest) -> None:
    """In every kind of pipeline, at every layer, step and branch, in the expert of that step."""
    for kind in RUN:
        run = walk(kind)
        names = [name for name in run.space.sites if site_named(name) is site]
        there = {"vace": "vace" in kind, "image": "clip" in kind}.get(site.family, True)
        assert len(names) == there * (pipelines.LAYERS if site.layered else 1)
        expected = {
            (name, run.space.experts[step], step, branch): 1
            for name in names
            for step in range(run.space.steps)
            for branch in run.space.branches_of(name)
        }
        assert {address: n for address, n in run.fired.items() if address[0] in names} == expected, kind
    assert on_the_page(site, request)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", RUN)
def test_shapes_are_the_declared_ones_and_looking_changes_nothing(kind: str, dtype: str) -> None:
    run = walk(kind, DTYPES[dtype])
    assert run.same
    assert set(run.got) == set(run.space.sites)
    assert len(set(run.space.experts)) == 1 + ("two experts" in kind)
    for name, value in run.got.items():
        branches = run.space.branches_of(name)
        assert value.shape == (run.space.steps, len(branches), *run.space.widths[name]), name
        assert value.isfinite().all(), name


@cache
def two_steps(kind: str) -> tuple[Lab, RunSpec, dict[str, Tensor], Tensor]:
    """A short run and all its tensors."""
    lab = load(KINDS[kind](scheduler="euler"))
    text = {} if "clip" in kind else {"max_sequence_length": 16}
    run = specs_of(lab, pipelines.call_arguments(lab.pipe, guidance=5.0, steps=2) | text, [3])[0]
    result = lab.run(run, everything())
    assert not isinstance(result, list)
    return lab, run, result.captured, result.trajectory.result


@pytest.mark.parametrize("site", [site for site in SITES if site.writable], ids=lambda site: site.name)
def test_is_written(site: Site, request: pytest.FixtureRequest) -> None:
    """What is set is what a capture shows, at that step and branch alone, and the run comes out otherwise."""
    kind = {"image": "i2v clip", "vace": "vace two experts"}.get(site.family, "i2v two experts")
    lab, run, clean, result = two_steps(kind)
    last = 0 if site.family == "vace" else pipelines.LAYERS - 1  # of the control stream, nothing reads what is left
    name, branch = site.at(last), site.branch or "uncond"
    before = clean[name][0, -1]
    noise = torch.randn(before.shape, generator=torch.Generator().manual_seed(1))
    wanted = torch.tensor(437.0) if name == "hook_timestep" else before + noise
    got = lab.run(run, name, edits=edits.set_to(name, wanted, step=0, branch=branch))
    torch.testing.assert_close(got.captured[name][0, -1], wanted, rtol=1e-5, atol=1e-5)
    if clean[name].shape[1] == 2:
        torch.testing.assert_close(got.captured[name][0, 0], clean[name][0, 0])
    assert not torch.allclose(got.trajectory.result, result, atol=1e-6)
    assert on_the_page(site, request)


def test_an_edit_of_a_hook_point_without_writing_is_refused() -> None:
    lab, run, _, _ = two_steps("vace two experts")
    closed = [site for site in SITES if not site.writable]
    own = {site.name for site in closed if site.family != "vace"}
    assert own == {"hook_context", "head.hook_shift", "head.hook_scale"}
    for site in closed:
        with pytest.raises(SelectionError, match="to change it write") as refused:
            lab.run(run, edits=edits.scale(site.at(1), 2.0))
        assert site_named(str(refused.value).rsplit(" ", 1)[-1]).writable


def test_uncond_velocity_does_not_exist_without_guidance() -> None:
    lab = load(pipelines.tiny_i2v())
    run = specs_of(lab, pipelines.call_arguments(lab.pipe), [0])[0]
    with pytest.raises(SelectionError, match="uncond"):
        lab.run(run, "latents.hook_velocity_uncond")


def test_the_page_names_no_other_tests() -> None:
    named = {
        cell.strip(" `")
        for line in render().splitlines()
        if line.startswith("| `")
        for cell in itertools.chain(*(part.split(",") for part in line.split("|")))
        if cell.strip(" `").startswith("test_")
    }
    assert named == {"test_fires_once", "test_is_written"}
