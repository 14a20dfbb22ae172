"""Cross-attention to one text for all rows, against the plain one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from interp import edits
from interp.hooks import Clock
from interp.replay import record, replay, unedited
from interp.shared_text import distinct, sharing_text
from tests.edits.labs import lab_and_runs, results, state


@pytest.mark.parametrize("kind", ["i2v two experts", "t2v", "ti2v image"])
def test_sharing_the_text_changes_rounding_only(kind: str) -> None:
    lab, runs = lab_and_runs(kind, "unipc", steps=3)
    recording = record(lab, [runs[0], runs[1]])
    graph = edits.scale("blocks.0.cross_attn.hook_z", 1.5, head=1, step=1) | edits.scale("blocks.1.hook_mlp_out", 0.5)
    before = state(lab.pipe)
    plain, shared = (results(replay(lab, recording, graph, share_text=share)) for share in (False, True))
    assert state(lab.pipe) == before
    assert not torch.equal(plain, shared)  # it was shared
    torch.testing.assert_close(plain, shared, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["i2v two experts", "t2v", "ti2v image"])
def test_keeping_the_text_over_steps_changes_no_bit(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: the plain run, and how often each key projection computes."""
    lab, runs = lab_and_runs(kind, "unipc", steps=3)
    plain, before, computed = results(lab.run(runs)), state(lab.pipe), []
    for block in lab.pipe.transformer.blocks:
        own = block.attn2.to_k.forward
        monkeypatch.setattr(block.attn2.to_k, "forward", lambda x, own=own: computed.append(1) or own(x))
    kept = record(lab, runs)
    monkeypatch.undo()
    assert torch.equal(results(unedited(lab, kept)), plain)
    assert len(computed) == 2 * len(lab.pipe.transformer.blocks)  # cond and uncond, once each
    assert state(lab.pipe) == before
    lab.pipe.transformer.blocks[0].attn2.to_k.bias.data.add_(0.1)  # nothing is remembered after the run
    changed = results(lab.run(lab.plan(runs[0].sample, [1, 2, 3], steps=3, guidance_scale=4.0)))
    assert not torch.equal(changed, plain)


def test_captures_share_the_text_if_asked(tmp_path: Path) -> None:
    lab, runs = lab_and_runs("i2v two experts", steps=2)
    before, keys = state(lab.pipe), [run.key for run in runs[:2]]
    found = []
    site = "blocks.1.hook_resid_post"
    for share in (False, True):
        to = tmp_path / str(share)
        store = lab.capture(runs[:2], site, to=to, dtype="float32", progress=False, share_text=share)
        found.append(torch.from_numpy(store.read(site, runs=keys, branch="cond")))
    assert state(lab.pipe) == before
    assert not torch.equal(*found)
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


def test_padding_is_kept_once_and_counted() -> None:
    text = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])
    kept, logs = distinct(text)
    assert torch.equal(kept, text[:, :3])
    torch.testing.assert_close(logs.exp(), torch.tensor([1.0, 1.0, 3.0]))
    kept, logs = distinct(text[:, :3])
    assert torch.equal(kept, text[:, :3])
    assert torch.equal(logs, torch.zeros(3))


@pytest.mark.parametrize("why", ["one row", "texts", "edits", "clip", "processor"])
def test_where_it_is_not_the_same_nothing_is_shared(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lab, runs = lab_and_runs("i2v clip" if why == "clip" else "t2v", steps=1)
    specs, sites = runs[:2], ["blocks.0.hook_mlp_out"]
    if why == "one row":
        specs = runs[:1]
    if why == "texts":
        specs = [runs[0], dataclasses.replace(runs[1], sample=dataclasses.replace(runs[1].sample, prompt="a cat"))]
    if why == "edits":
        sites = ["blocks.1.cross_attn.hook_k"]
    if why == "processor":
        block: Any = lab.pipe.transformer.blocks[1]
        monkeypatch.setattr(block.attn2, "processor", lambda *a, **k: None)
    plan = record(lab, specs).plan if why != "processor" else record(lab_and_runs("t2v", steps=1)[0], specs).plan
    same, place = sharing_text(lab.pipe, plan, sites)
    assert same is plan
    before = state(lab.pipe)
    with place(Clock()):
        assert state(lab.pipe) == before
