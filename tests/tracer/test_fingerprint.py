"""A model that has changed since its runs were planned is told from one that has not, however it was changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from interp import fingerprint
from interp.errors import InterpError
from interp.lab import load
from interp.modules import modules_of
from tests import pipelines
from tests.tracer.runs import arguments_of, specs_of


def weight(pipe: Any) -> nn.Parameter:
    return pipe.transformer_2.blocks[1].ffn.net[2].weight


@torch.no_grad()
def one_number(pipe: Any) -> None:
    weight(pipe)[0, 0] += 1


def unseen_by_torch(pipe: Any) -> None:
    weight(pipe).data.mul_(1.01)


def other_storage(pipe: Any) -> None:
    weight(pipe).data = weight(pipe).data + 1


def other_module(pipe: Any) -> None:
    pipe.transformer_2 = pipelines.tiny_i2v(two_experts=True, seed=7).transformer_2


def other_precision(pipe: Any) -> None:
    pipe.vae.to(torch.bfloat16)


CHANGES = (one_number, unseen_by_torch, other_storage, other_module, other_precision)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_between_plan_and_run_is_refused(change: Callable[[Any], None]) -> None:
    lab = load(pipelines.tiny_i2v(two_experts=True))
    runs = specs_of(lab, arguments_of("i2v", lab.pipe), [3])
    lab.run(runs)
    change(lab.pipe)
    with pytest.raises(InterpError, match="plan the runs again"):
        lab.run(runs)
    with pytest.raises(InterpError, match="plan the runs again"):
        lab.capture(runs, "blocks.0.hook_resid_post", to="nowhere", progress=False)
    assert fingerprint.fingerprint_now(lab.pipe) == fingerprint.fingerprint(lab.pipe) != runs[0].model_hash


def test_weights_moved_and_not_changed_keep_their_hash() -> None:
    pipe = pipelines.tiny_i2v(two_experts=True)
    before = fingerprint.fingerprint(pipe)
    weight(pipe).data = weight(pipe).data.clone()
    with torch.no_grad():
        weight(pipe).mul_(1)
    assert fingerprint.fingerprint_now(pipe) == before


def test_the_hash_is_not_taken_again_where_nothing_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = load(pipelines.tiny_i2v(two_experts=True))
    runs = specs_of(lab, arguments_of("i2v", lab.pipe), [3])
    taken: list[Any] = []
    monkeypatch.setattr(fingerprint, "fingerprint", taken.append)
    lab.run(runs)
    assert taken == []


def test_every_module_has_the_paths_that_torch_gives_it() -> None:
    model = pipelines.tiny_i2v().transformer
    model.again = model.blocks[0]
    assert modules_of(model) == dict(model.named_modules(remove_duplicate=False))
