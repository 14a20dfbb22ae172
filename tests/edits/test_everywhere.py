"""Identities for every pipeline, random cells, other processes, offloading, unknown sources."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from interp import edits, select
from interp.attribution import attribute
from interp.errors import InterpError
from interp.replay import record, replay
from tests.edits.labs import ALL_KINDS, KINDS, lab_and_runs, results, state

ROOT = Path(__file__).parents[2]
SITES = ["blocks.*.hook_resid_post", "blocks.*.attn.hook_z", "blocks.*.hook_resid_mid", "latents.hook_{in,x0}"]


def explode(x: Any) -> Any:
    """An operation or a metric that fails."""
    raise RuntimeError("boom")


@pytest.mark.parametrize("kind", sorted(set(ALL_KINDS) - set(KINDS)))
def test_what_changes_nothing_changes_no_bit_in_any_pipeline(kind: str) -> None:
    """The pipelines that tests/edits/test_identity.py leaves out; both experts where there are two, both branches.

    After an exception inside a run the pipeline is what it was, and runs as it did.
    """
    lab, runs = lab_and_runs(kind, "unipc", steps=2)
    clean = lab.run(runs[:2])
    kept = edits.run_with(lab, runs[:2], (), select(SITES))
    assert torch.equal(results(kept), results(clean))
    sites = select(SITES)
    graphs = {
        "with itself": edits.patch(sites, kept),
        "swap twice": edits.swap(sites) | edits.swap(sites),
        "knock-out of nothing": edits.knockout("blocks.*.{attn,cross_attn}", keys=()),
        "ensemble of one": edits.mean_over_worlds(sites, worlds=[0], into=0),
        "and its inverse": edits.scale(sites, 4.0) | edits.scale(sites, 0.25),
    }
    if "clip" in kind:
        graphs["image keys"] = edits.scale(select(["blocks.*.cross_attn.hook_z_img", "image_embed.hook_in"]), 1.0)
    for name, graph in graphs.items():
        assert torch.equal(results(lab.run(runs[:2], edits=graph)), results(clean)), name
    before = state(lab.pipe)
    for site in ("blocks.1.hook_mlp_out", "blocks.1.hook_resid_mid", "blocks.1.attn.hook_rot_q", "latents.hook_x0"):
        with pytest.raises(RuntimeError, match="boom"):
            lab.run(runs[0], edits=edits.function(site, explode, step=-1))
    assert state(lab.pipe) == before
    assert torch.equal(results(lab.run(runs[:2])), results(clean))


class Masked:
    """A model's own attention, given a dense mask: True where a query [head, query] sees a key."""

    def __init__(self, own: Any, mask: torch.Tensor) -> None:
        self.own, self.mask = own, mask[None]  # with an axis for the batch, or CPU kernels take another way

    def __call__(self, attn: Any, x: Any, context: Any, mask: None, rotary: Any) -> Any:
        return self.own(attn, x, context, self.mask, rotary)


@pytest.mark.parametrize("kind", sorted(ALL_KINDS))
def test_knock_out_equals_stock_attention_with_a_dense_mask_to_the_bit(kind: str) -> None:
    """Diffusers' own processor, kernel and order of operations; both experts, both branches, self and cross."""
    lab, runs = lab_and_runs(kind, "unipc", steps=2)
    frame, space = lab.grid(runs[0].sample).tokens // 3, lab.space(runs[0])
    knock = edits.knockout("blocks.*.attn", select(frames=0), head=1, frames=-1) | edits.knockout(
        "blocks.*.cross_attn", [0, 2], frames=1
    )
    got = results(lab.run(runs[:2], edits=knock))
    own = torch.ones(space.widths["blocks.0.attn.hook_attn_scores"], dtype=torch.bool)
    own[1, 2 * frame :, :frame] = False
    text = torch.ones(space.widths["blocks.0.cross_attn.hook_attn_scores"], dtype=torch.bool)
    text[:, frame : 2 * frame, [0, 2]] = False
    models = [m for m in (lab.pipe.transformer, getattr(lab.pipe, "transformer_2", None)) if m is not None]
    for block in (block for model in models for block in model.blocks):
        block.attn1.processor = Masked(block.attn1.processor, own)
        block.attn2.processor = Masked(block.attn2.processor, text)
    assert torch.equal(got, results(lab.run(runs[:2])))


@pytest.mark.parametrize("scheduler", ["euler", "unipc"])
def test_replay_of_random_cells_equals_the_full_rerun_to_the_bit(scheduler: str) -> None:
    lab, runs = lab_and_runs(scheduler=scheduler, steps=4, layers=3)
    recording = record(lab, runs[:2], keep=[(step, layer) for step in range(4) for layer in (1, 2, 3)])
    draw = random.Random(0)
    for _ in range(12):
        site = f"blocks.{draw.randrange(3)}.{draw.choice(['hook_resid_post', 'hook_mlp_out', 'attn.hook_z'])}"
        at: dict[str, Any] = {"step": draw.randrange(4), "tokens": sorted(draw.sample(range(12), 3))}
        if draw.random() < 0.5:
            at["branch"] = draw.choice(["cond", "uncond"])
        graph: Any = edits.patch(site, 1, rows=0, **at)
        if draw.random() < 0.5:
            graph = graph | edits.add("blocks.1.hook_attn_out", 0.5, step=draw.randrange(4))
        whole, again = lab.run(runs[:2], edits=graph), replay(lab, recording, graph)
        for a, b in zip(whole, again, strict=True):
            assert torch.equal(a.trajectory.latents, b.trajectory.latents), str(graph)


SITE = "blocks.0.hook_resid_post"


SCRIPT = """
import hashlib, sys
from interp import edits
from tests.edits.labs import lab_and_runs, results
lab, runs = lab_and_runs(scheduler="unipc", steps=2)
print(hashlib.sha256(results(lab.run(runs[:2], edits=edits.load(sys.argv[1]))).numpy().tobytes()).hexdigest())
"""


def test_a_saved_graph_gives_the_same_bits_in_another_process(tmp_path: Path) -> None:
    import hashlib

    lab, runs = lab_and_runs(scheduler="unipc", steps=2)
    kept = edits.run_with(lab, runs[2], (), "blocks.0.attn.hook_z")
    graph = edits.patch("blocks.0.attn.hook_z", kept, step=1) | edits.noise(step=1, scale=0.1) | edits.swap(SITE)
    path = graph.save(tmp_path / "graph.json")
    here = hashlib.sha256(results(lab.run(runs[:2], edits=graph)).numpy().tobytes()).hexdigest()
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads()), "HF_HUB_OFFLINE": "1"}
    import os

    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == here


def test_runs_of_a_store_are_sources(tmp_path: Path) -> None:
    lab, runs = lab_and_runs(steps=2, guidance=1.0)
    lab.capture(runs[1:], SITE, to=tmp_path / "cache", dtype="float32", batch_size=1, progress=False)
    kept = edits.run_with(lab, runs[1], (), SITE)
    stored = edits.FromStore(str(tmp_path / "cache"), (runs[1].key,))
    graph = edits.patch(SITE, stored, step=1, frames=-1)
    assert edits.load(graph_path := edits.save(graph, tmp_path / "g.json")) == edits.EditGraph((graph,)), graph_path
    got = lab.run(runs[0], edits=graph)
    assert torch.equal(results(got), results(lab.run(runs[0], edits=edits.patch(SITE, kept, step=1, frames=-1))))
    both = [edits.run_with(lab, run, (), SITE) for run in runs[1:]]
    many = edits.FromStore(str(tmp_path / "cache"), tuple(run.key for run in runs[1:]))
    by_store, by_hand = (lab.run(runs[0], edits=edits.mean(SITE, source)) for source in (many, both))
    assert torch.equal(results(by_store), results(by_hand))
    with pytest.raises(InterpError, match="no run 'gone'"):
        lab.run(runs[0], edits=edits.patch(SITE, edits.FromStore(str(tmp_path / "cache"), ("gone",))))


def test_runs_of_a_store_are_known_by_what_they_hold(tmp_path: Path) -> None:
    """A copy elsewhere is the same source; another capture under the same key is another one."""
    lab, runs = lab_and_runs(steps=2, guidance=1.0)
    here, moved = tmp_path / "here", tmp_path / "moved"

    def captured(dtype: str) -> edits.EditGraph:
        shutil.rmtree(here, ignore_errors=True)
        lab.capture(runs[1:2], SITE, to=here, dtype=dtype, progress=False)
        return edits.EditGraph((edits.patch(SITE, edits.FromStore(str(here), (runs[1].key,)), step=1),))

    graph = captured("float32")
    shutil.copytree(here, moved)
    copied = edits.EditGraph((edits.patch(SITE, edits.FromStore(str(moved), (runs[1].key,)), step=1),))
    assert (copied, copied.key) == (graph, graph.key)
    saved = edits.save(graph, tmp_path / "g.json")
    rounded = captured("bfloat16")
    assert rounded != graph
    assert rounded.key != graph.key
    with pytest.raises(InterpError, match="captured again since"):
        lab.run(runs[0], edits=graph)
    shutil.rmtree(here)
    assert edits.load(saved).key == graph.key  # it can be read without the store


def test_edits_go_beneath_offloading() -> None:
    from accelerate import cpu_offload

    lab, runs = lab_and_runs("t2v", steps=2)
    graph = edits.scale(select([SITE, "blocks.0.hook_resid_mid", "blocks.1.attn.hook_rot_q"]), 1.5)
    wanted = results(lab.run(runs[0], edits=graph))
    cpu_offload(lab.pipe.transformer, execution_device=torch.device("cpu"))
    assert torch.equal(results(lab.run(runs[0], edits=graph)), wanted)


@pytest.mark.parametrize("what", ["block", "processor"])
def test_an_unknown_source_is_compared_before_anything_runs(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lab, runs = lab_and_runs("t2v", steps=1)
    site = "blocks.0.hook_resid_mid" if what == "block" else "blocks.0.attn.hook_rot_q"
    wanted = results(lab.run(runs[0], edits=edits.scale(site, 1.5)))
    monkeypatch.setattr("interp.instrument.place.source_is_known", lambda *a: False)
    assert torch.equal(results(lab.run(runs[0], edits=edits.scale(site, 1.5))), wanted)  # the same bits
    block = lab.pipe.transformer.blocks[0]
    owner = block if what == "block" else block.attn1.processor
    name, original = ("forward", block.forward) if what == "block" else ("__call__", None)
    if what == "block":
        monkeypatch.setattr(owner, name, lambda *a, **k: original(*a, **k) + 1e-3)
    else:
        own = type(owner).__call__
        monkeypatch.setattr(type(owner), name, lambda self, *a, **k: own(self, *a, **k) + 1e-3)
    with pytest.raises(InterpError, match=r"does not compute what diffusers 0\.42\.1 does"):
        lab.run(runs[0], edits=edits.scale(site, 1.5))


def test_the_pipeline_is_given_back_after_an_exception_in_a_replay_or_a_gradient() -> None:
    lab, runs = lab_and_runs("t2v", steps=2)
    one, two = record(lab, runs[0], keep=[(1, 1)]), record(lab, runs[1])
    before = state(lab.pipe)

    with pytest.raises(RuntimeError, match="boom"):
        replay(lab, one.rows([0, 0]), edits.function("blocks.1.hook_mlp_out", explode, step=1), share_text=True)
    assert state(lab.pipe) == before
    with pytest.raises(RuntimeError, match="boom"):
        attribute(lab, one, two, SITE, explode, checkpoint=True)
    assert state(lab.pipe) == before
