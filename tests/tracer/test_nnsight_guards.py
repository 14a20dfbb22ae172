"""Where nnsight alone goes on with the wrong value and says nothing, a trace raises. Each slip is shown as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from nnsight import NNsight
from torch import nn

from interp.errors import InterpError, SelectionError
from tests.edits.labs import lab_and_runs, results

FIRST, LAST = "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"


class Both(nn.Module):
    """Both experts under one root, as nnsight wants them."""

    def __init__(self, pipe: Any) -> None:
        super().__init__()
        self.transformer, self.transformer_2 = pipe.transformer, pipe.transformer_2


@pytest.fixture(scope="module")
def setting() -> tuple[Any, Any]:
    """A lab of two experts and a run of three steps with guidance: high, low, low."""
    lab, runs = lab_and_runs(steps=3)
    assert lab.space(runs[0]).experts == ("high", "low", "low")
    return lab, runs[0]


@pytest.fixture(scope="module")
def native(setting: tuple[Any, Any]) -> dict[str, torch.Tensor]:
    """What native captures keep: [step, branch, token, d_model]."""
    lab, run = setting
    return lab.run(run, [FIRST, LAST]).captured


def plain(lab: Any) -> NNsight:
    return NNsight(Both(lab.pipe))


def assert_refused(setting: tuple[Any, Any], block: Callable[[Any], None], message: str, **more: Any) -> None:
    """The block, run as the body of a trace, raises an error of ours."""
    lab, run = setting
    before = results(lab.run(run))
    with pytest.raises(InterpError, match=message):  # noqa: SIM117  a traced block stands on its own
        with lab.trace(run, **more) as t:
            block(t)
    assert torch.equal(results(lab.run(run)), before)


def test_from_cond_to_uncond_within_a_step(setting: tuple[Any, Any], native: dict[str, torch.Tensor]) -> None:
    """A module asked for too late is served by the next pass."""
    lab, run = setting
    model = plain(lab)
    with model.trace(run, fn=lab.run) as tracer:
        for _ in tracer.iter[2]:  # the low expert's second step, cond
            late = model.transformer_2.blocks[1].output.save()
            early = model.transformer_2.blocks[0].output.save()
    assert torch.equal(late[0], native[LAST][2, 0])
    assert not torch.equal(early[0], native[FIRST][2, 0])
    assert torch.equal(early[0], native[FIRST][2, 1])  # uncond, and nobody said so

    def by_name(t: Any) -> None:
        _ = t[LAST, 2, "cond"]
        _ = t[FIRST, 2, "cond"]

    def by_module(t: Any) -> None:
        t.goto(2, "cond")
        _ = t.model.transformer_2.blocks[1].output
        _ = t.model.transformer_2.blocks[0].output

    def write(t: Any) -> None:
        t.goto(2, "cond")
        block = t.model.transformer_2.blocks[0]
        _ = t.model.transformer_2.blocks[1].output
        block.output = torch.zeros(1)

    assert_refused(
        setting, by_name, r"the run is past blocks\.0\.hook_resid_post\[step=2, branch=cond\] and is at blocks\.1"
    )
    assert_refused(
        setting, by_module, r"lab\.transformer_2\.blocks\.0\.output did not come any more in the forward \[step=2"
    )
    assert_refused(setting, write, "did not come any more")


def test_steps_are_not_counted(setting: tuple[Any, Any], native: dict[str, torch.Tensor]) -> None:
    """With guidance and two experts, call 1 is not step 1."""
    lab, run = setting
    model = plain(lab)
    with model.trace(run, fn=lab.run) as tracer:
        for _ in tracer.iter[1]:
            low = model.transformer_2.blocks[0].output.save()
    assert torch.equal(low[0], native[FIRST][1, 1])  # step 1 by luck, and uncond

    def counts(t: Any) -> None:
        for _ in t.iter[1]:
            pass

    assert_refused(setting, counts, "every other time is the uncond pass")
    assert_refused(setting, lambda t: t.all(), "every other time is the uncond pass")
    assert_refused(setting, lambda t: t.model.transformer.blocks[0].output, r"say which you mean with t\.goto")
    assert_refused(setting, lambda t: t[FIRST], "stands for 6 tensors")
    assert_refused(setting, lambda t: t[FIRST, 1], "stands for 2 tensors")


def test_a_module_that_was_replaced_after_wrapping(setting: tuple[Any, Any]) -> None:
    """As loading a LoRA does: the old layer becomes a part of the new one, and nnsight still listens to the old."""

    class Adapted(nn.Module):
        def __init__(self, base: nn.Module) -> None:
            super().__init__()
            self.base_layer = base

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.base_layer(x) + 1

    lab, runs = lab_and_runs("t2v", steps=1)
    run, attn = runs[0], lab.pipe.transformer.blocks[0].attn1
    model = NNsight(lab.pipe.transformer)
    with lab.trace(run) as t:  # a trace before does not make the next one stale either
        before = t["blocks.0.attn.hook_v", 0, "cond"].save()
    attn.to_v = Adapted(attn.to_v)
    run = dataclasses.replace(run, model_hash=lab.model_hash)  # it was planned with another model
    with model.trace(run, fn=lab.run):
        stale = model.blocks[0].attn1.to_v.output.save()
    with lab.trace(run) as t:
        named = t["blocks.0.attn.hook_v", 0, "cond"].save()
    with lab.trace(run) as t:
        t.goto(0, "cond")
        module = t.model.transformer.blocks[0].attn1.to_v.output.save()
    assert torch.equal(stale, before.flatten(2))
    assert torch.equal(named, before + 1)
    assert torch.equal(module, named.flatten(2))


def test_an_edit_that_never_applies(setting: tuple[Any, Any]) -> None:
    lab, run = setting
    bare = results(lab.run(run))
    model = plain(lab)
    with model.edit() as (_tracer, edited):
        edited.transformer.blocks[0].output = torch.zeros(1)  # it would fail if it ever ran
    assert torch.equal(results(lab.run(run)), bare)

    def stored(t: Any) -> None:
        t.model.transformer.blocks[0].edit()

    def later(t: Any) -> None:
        x = t[FIRST, 0, "cond"]
        _ = t[LAST, 0, "cond"]
        x.zero_()
        t.kept = x  # what is dropped cannot have been meant to stay

    def read_only(t: Any) -> None:
        t["hook_context", 0, "cond"].zero_()

    def inner(t: Any) -> None:
        t["blocks.0.hook_resid_mid", 0, "cond"] = torch.zeros(1)

    def pattern(t: Any) -> None:
        _ = t["blocks.0.attn.hook_pattern", 0, "cond"]

    def kind(t: Any) -> None:
        t[FIRST, 0, "cond"] = 0.0

    def shape(t: Any) -> None:
        t[FIRST, 0, "cond"] = torch.zeros(3)

    assert_refused(setting, stored, r"would never run")
    assert_refused(
        setting, later, r"blocks\.0\.hook_resid_post\[step=0, branch=cond\] was changed in place after the run"
    )
    assert_refused(setting, read_only, "hook_context cannot be changed")
    assert_refused(setting, inner, r"lab\.trace\(run, also='blocks\.0\.hook_resid_mid'\)")
    assert_refused(setting, pattern, r"lab\.trace\(run, also='blocks\.0\.attn\.hook_pattern'\)")
    assert_refused(setting, kind, "was assigned a float")
    assert_refused(setting, shape, r"is a tensor of \(1, 12, 24\), and the trace assigned \(3,\)")


def test_a_late_change_in_place_is_lost_without_a_word_in_nnsight_alone(setting: tuple[Any, Any]) -> None:
    lab, run = setting
    model = plain(lab)
    with model.trace(run, fn=lab.run) as tracer:
        x = model.transformer.blocks[0].attn1.output
        _ = model.transformer.blocks[1].output
        x.zero_()
        got = tracer.result.save()
    assert torch.equal(results(got), results(lab.run(run)))


def test_an_address_that_is_not_there(setting: tuple[Any, Any]) -> None:
    lab, run = setting
    model = plain(lab)
    with model.trace(run, fn=lab.run) as tracer:
        empty = tracer.cache(modules=["model.transformer.blocks.0.atn1"])
    assert empty.keys() == []

    assert_refused(setting, lambda t: t["blocks.0.hook_resid_pots", 0, "cond"], "did you mean")
    assert_refused(setting, lambda t: t["blocks.7.hook_resid_post", 0, "cond"], "layer 7 is out of range")
    assert_refused(setting, lambda t: t[FIRST, 3, "cond"], "step 3 is out of range")
    assert_refused(setting, lambda t: t[FIRST, 0, "neg"], "no branch 'neg'")
    assert_refused(setting, lambda t: t["latents.hook_x0", 0, "cond"], "guided only")
    assert_refused(setting, lambda t: t[f"{FIRST}[step=0, branch=cond, frames=1]"], "whole tensors")
    assert_refused(setting, lambda t: t.cache(), "without its step and branch")
    with pytest.raises(SelectionError, match="did you mean"):
        lab.trace(run, also="blocks.0.attn.hook_patern")


def test_steps_of_the_other_expert(setting: tuple[Any, Any], native: dict[str, torch.Tensor]) -> None:
    """Two trees of one name: the second is served by the first expert."""
    lab, run = setting
    high, low = NNsight(lab.pipe.transformer), NNsight(lab.pipe.transformer_2)
    with high.trace(run, fn=lab.run):
        wrong = low.blocks[0].output.save()
    assert torch.equal(wrong[0], native[FIRST][0, 0])  # step 0 is the high expert's

    def foreign(t: Any) -> None:
        t.goto(1, "cond")
        _ = low.blocks[0].output

    def idle(t: Any) -> None:
        t.goto(1, "cond")
        _ = t.model.transformer.blocks[0].output

    assert_refused(setting, foreign, "is of another nnsight tree")
    assert_refused(setting, idle, r"did not come any more in the forward \[step=1, branch=cond\]")
    with lab.trace(run) as t:
        steps = [step for _, step, _ in t.each(FIRST, expert="low", branch="cond")].save()
        right = t[FIRST, 1, "cond"].save()
    assert steps == [1, 2]
    assert torch.equal(right[0], native[FIRST][1, 0])


def test_values_asked_for_out_of_order(setting: tuple[Any, Any]) -> None:
    def back_a_step(t: Any) -> None:
        _ = t[FIRST, 1, "cond"]
        _ = t[LAST, 0, "uncond"]

    def back_to_a_forward(t: Any) -> None:
        _ = t[FIRST, 1, "cond"]
        t.goto(1, "cond")

    def after_the_end(t: Any) -> None:
        _ = t.result
        _ = t["latents.hook_out", 2]

    assert_refused(setting, back_a_step, "ask for values in the order of the computation")
    assert_refused(setting, back_to_a_forward, "has begun already")
    assert_refused(setting, after_the_end, "the run is past")


def test_what_is_left_of_a_trace(setting: tuple[Any, Any]) -> None:
    lab, run = setting
    with lab.trace(run) as t:
        _ = t[FIRST, 0, "cond"]
    with pytest.raises(InterpError, match="inside the with block"):
        _ = t[FIRST, 0, "cond"]
    with pytest.raises(InterpError, match="inside the with block"):
        _ = t.model
    with pytest.raises(InterpError, match="no runs"):
        lab.trace([])
    assert_refused(setting, lambda t: t.invoke(run), "rows of every tensor")
