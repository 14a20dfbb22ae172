"""`lab.trace`: nnsight over our names reads the tensors that native captures keep, and its writes take effect."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import interp
from interp import edits
from interp.errors import InterpError
from interp.lab import load
from interp.sites import site_named
from tests import pipelines
from tests.edits.labs import lab_and_runs, results, short_call, state
from tests.tracer.runs import KINDS, RUN, sample_of

SEEN = [kind for kind in KINDS if "last frame" not in kind] + ["modular i2v two experts"]
"""Hook points of the others are those of their siblings."""
RESID = "blocks.1.hook_resid_post"


@functools.cache  # a trace gives the pipeline back as it was, so tests can share it
def lab_and_run(kind: str, steps: int = 2, guidance: float = 4.0, **more: Any) -> tuple[Any, Any]:
    """Two experts run one step each."""
    pipe = RUN[kind](scheduler="unipc", **more)
    call = pipelines.call_arguments if "clip" in kind else short_call  # Wan2.1 splits image from text at 512 tokens
    arguments = {"max_sequence_length": 512} | call(pipe, guidance=guidance, steps=steps)
    lab = load(pipe)
    settings = {key: arguments[key] for key in ("guidance_scale", "negative_prompt", "max_sequence_length")}
    return lab, lab.plan(sample_of(arguments), [3], steps=steps, **settings)[0]


def read(lab: Any, run: Any, sites: list[str], **more: Any) -> dict[Any, torch.Tensor]:
    kept: dict[Any, torch.Tensor] = {}
    with lab.trace(run, **more) as t:
        for at in t.each(sites):
            kept[at] = t[at]
    assert [(one.site, one.step, one.branch) for one in t.touched] == list(kept) == t.each(sites)
    assert not any(one.changed for one in t.touched)
    return kept


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [*((kind, torch.float32) for kind in SEEN), ("i2v two experts", torch.bfloat16)],
    ids=[*SEEN, "bf16"],
)
def test_every_module_site_reads_the_tensor_that_a_capture_keeps(kind: str, dtype: torch.dtype) -> None:
    """The second expert and the uncond pass included."""
    lab, run = lab_and_run(kind, dtype=dtype)
    space = lab.space(run)
    sites = [site for site in space.sites if site_named(site).tier in ("module", "sampler")]
    native = lab.run(run, sites)
    before = state(lab.pipe)
    kept = read(lab, run, sites)
    assert state(lab.pipe) == before
    assert {at[0] for at in kept} == set(sites)
    assert {at[2] for at in kept} == {"cond", "uncond", "guided"}
    assert {space.experts[at[1]] for at in kept} == set(space.experts) >= ({"low"} if "two" in kind else {"main"})
    assert len(kept) == native.receipt.tensors
    for (site, step, branch), value in kept.items():
        branches = space.branches_of(site)
        assert torch.equal(value[0].float(), native.captured[site][step, branches.index(branch)]), (site, step, branch)


def test_the_bundled_model_reads_the_same() -> None:
    lab = interp.load("wan-maze-mini")
    run = lab.plan(interp.tasks.get("maze", size=4).sample(1, seed=0), steps=2)[0]
    sites = ["blocks.3.hook_resid_post", "blocks.5.attn.hook_z"]
    native = lab.run(run, sites).captured
    for (site, step, _), value in read(lab, run, sites).items():
        assert torch.equal(value[0], native[site][step, 0])


@pytest.mark.parametrize("kind", ["i2v two experts", "i2v clip", "ti2v image"])
def test_sites_opened_by_also_read_what_is_computed_of_them(kind: str) -> None:
    lab, run = lab_and_run(kind)
    heavy = [f"blocks.1.{p}.hook_{op}" for p in ("attn", "cross_attn") for op in ("attn_scores", "pattern", "result")]
    sites = [s for s in lab.space(run).sites if s.startswith("blocks.1.") and site_named(s).tier == "recompute"]
    assert set(heavy) <= set(sites)
    native = lab.run(run, sites)
    kept = read(lab, run, sites, also=sites)
    assert torch.equal(lab.run(run).trajectory.result, native.trajectory.result)
    for (site, step, branch), value in kept.items():
        expected = native.captured[site][step, ("cond", "uncond").index(branch)]
        torch.testing.assert_close(value[0].float(), expected, rtol=1e-4, atol=1e-5, msg=f"{site} {step} {branch}")


def test_a_capture_in_the_same_pass_keeps_the_same_tensors_as_the_block_left_them() -> None:
    lab, run = lab_and_run("i2v two experts")
    with lab.trace(run, capture=["blocks.*.hook_resid_post", "latents.hook_x0"]) as t:
        first = t["blocks.0.hook_resid_post", 0, "uncond"].save()
        t[RESID, 0, "uncond"] = new = (t[RESID, 0, "uncond"] * 0.5).save()
        later = t["latents.hook_x0", 1, "guided"].save()
    got = t.result.captured
    assert torch.equal(got["blocks.0.hook_resid_post"][0, 1], first[0])
    assert torch.equal(got[RESID][0, 1], new[0])
    assert torch.equal(got["latents.hook_x0"][1, 0], later[0])
    assert t.result.receipt.tensors == 2 * 2 * 2 + 2


WRITES = [
    (RESID, "cond", None),
    ("blocks.0.hook_resid_pre", "uncond", None),
    ("blocks.1.attn.hook_z", "cond", None),
    ("blocks.0.mlp.hook_gate", "uncond", None),
    ("text_embed.hook_out", "cond", None),
    ("blocks.0.hook_resid_mid", "cond", "blocks.0.hook_resid_mid"),
    ("blocks.1.attn.hook_rot_q", "uncond", "blocks.1.attn.hook_rot_q"),
    ("latents.hook_in", "guided", None),
    ("latents.hook_velocity_cond", "cond", None),
    ("latents.hook_x0", "guided", None),
    ("latents.hook_out", "guided", None),
]


@pytest.mark.parametrize(
    ("site", "branch", "also", "in_place"),
    [*((*write, False) for write in WRITES), *((*write, True) for write in WRITES[1::2])],
)
def test_a_write_does_what_the_edit_does(site: str, branch: str, also: str | None, in_place: bool) -> None:
    """The step is the second expert's."""
    lab, run = lab_and_run("i2v two experts", steps=3)
    expected = lab.run(run, edits=edits.scale(site, 0.5, step=2, branch=branch))
    with lab.trace(run, also=also) as t:
        if in_place:
            t[site, 2, branch].mul_(0.5)
        else:
            t[site, 2, branch] = 0.5 * t[site, 2, branch]
    assert torch.equal(results(t.result), results(expected))
    assert not torch.equal(results(t.result), results(lab.run(run)))
    assert [one.changed for one in t.touched][-1]


def test_rows_are_runs() -> None:
    lab, runs = lab_and_runs(steps=2)
    with lab.trace(runs[:2]) as t:
        x = t[RESID, 0, "cond"].clone()
        x[0] = x[1]
        t[RESID, 0, "cond"] = x
    bare = results(lab.run(runs[:2]))
    assert torch.equal(results(t.result)[1], bare[1])
    assert not torch.equal(results(t.result)[0], bare[0])


def test_what_leaves_no_choice_can_be_left_out_and_names_have_aliases() -> None:
    lab, run = lab_and_run("t2v", steps=1, guidance=1.0)
    with lab.trace(run) as t:
        one = t["blocks.0.attn1.to_out.0"].save()
        two = t[f"{RESID}[step=-1]"].save()
    native = lab.run(run, ["blocks.0.attn.hook_z", RESID]).captured
    assert torch.equal(one[0], native["blocks.0.attn.hook_z"][0, 0])
    assert torch.equal(two[0], native[RESID][0, 0])


def test_values_without_a_name_are_in_nnsights_own_tree() -> None:
    lab, run = lab_and_run("i2v two experts", steps=2)
    assert lab.space(run).experts == ("high", "low")
    reference: list[torch.Tensor] = []
    handle = lab.pipe.transformer_2.blocks[1].ffn.register_forward_hook(lambda m, a, out: reference.append(out))
    lab.run(run)
    handle.remove()
    middle = lab.run(run, "blocks.1.hook_resid_mid").captured["blocks.1.hook_resid_mid"]
    with lab.trace(run) as t:
        t.goto(1, "uncond")
        inner = t.model.transformer_2.blocks[1].source.hidden_states_0.output.save()
        ffn = t.model.transformer_2.blocks[1].ffn.output.save()
        result = t.result.save()
    assert torch.equal(ffn, reference[1])
    assert torch.equal(inner[0], middle[1, 1])
    assert result is t.result


def test_a_write_to_nnsights_own_tree_takes_effect() -> None:
    lab, run = lab_and_run("i2v two experts", steps=2)
    expected = lab.run(run, edits=edits.zero("blocks.1.hook_mlp_out", step=1, branch="cond"))
    with lab.trace(run) as t:
        t.goto(1, "cond")
        ffn = t.model.transformer_2.blocks[1].ffn
        ffn.output = torch.zeros_like(ffn.output)
    assert torch.equal(results(t.result), results(expected))


def test_stop_ends_the_run() -> None:
    lab, run = lab_and_run("t2v", steps=2)
    with lab.trace(run) as t:
        x = t[RESID, 0, "cond"].save()
        t.stop()
    assert x.shape[0] == 1
    with pytest.raises(InterpError, match="stopped"):
        _ = t.result


@pytest.mark.parametrize("kind", ["i2v two experts", "ti2v image"])
def test_an_exception_inside_leaves_the_pipeline_as_it_was(kind: str) -> None:
    lab, run = lab_and_run(kind)
    expected = results(lab.run(run))
    before = state(lab.pipe)
    for at in (None, ("latents.hook_in", 0, "guided"), ("blocks.1.attn.hook_q", 1, "uncond")):
        with pytest.raises(RuntimeError, match="boom"):  # noqa: SIM117, PT012  the block has to stand on its own
            with lab.trace(run, capture=RESID, also=["blocks.0.attn.hook_pattern", "blocks.0.hook_resid_mid"]) as t:
                if at is not None:
                    _ = t[at]
                    _ = t.model.transformer.blocks[0].source
                raise RuntimeError("boom")
        assert state(lab.pipe) == before
    assert torch.equal(results(lab.run(run)), expected)


def test_a_users_own_nnsight_wrapping_is_left_alone() -> None:
    from nnsight import NNsight

    lab, run = lab_and_run("t2v", steps=1)
    theirs = NNsight(lab.pipe.transformer)
    with lab.trace(run) as t:
        x = t[RESID, 0, "cond"].save()
    with theirs.trace(run, fn=lab.run):
        y = theirs.blocks[1].output.save()
    assert torch.equal(x, y)


def test_a_trace_without_nnsight_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    lab, run = lab_and_run("t2v")
    monkeypatch.setattr("interp.trace.version", lambda name: "0.7.0")
    with pytest.raises(InterpError, match=r"needs nnsight 0.8, and 0.7.0"):
        lab.trace(run)

    def absent(name: str) -> str:
        from importlib.metadata import PackageNotFoundError

        raise PackageNotFoundError(name)

    monkeypatch.setattr("interp.trace.version", absent)
    with pytest.raises(InterpError, match="pip install"):
        lab.trace(run)


def test_only_these_modules_name_nnsight() -> None:
    """That nothing else imports it, a run neither, is a test of imports in tests/test_package.py."""
    root = Path(interp.__file__).parent
    naming = {
        p.relative_to(root).as_posix() for p in root.rglob("*.py") if re.search("(import|from) nnsight", p.read_text())
    }
    assert naming == {"trace/modules.py", "trace/tracer.py", "trace/worker.py"}
