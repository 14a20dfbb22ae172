"""The same patch four ways: an edit, a trace over names, nnsight alone with counting, plain torch hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from nnsight import NNsight
from torch import nn

import interp
from interp import edits
from tests.edits.labs import KINDS, lab_and_runs, results, short_call
from tests.tracer.runs import KINDS as ALL_KINDS
from tests.tracer.runs import arguments_of, specs_of

CELLS = [
    ("i2v two experts", "euler", 0, "cond", 1),
    ("i2v two experts", "unipc", 2, "uncond", 0),  # the second expert
    ("t2v", "unipc", 1, "cond", 0),
    ("ti2v image", "euler", 1, "uncond", 1),
]
STEPS = 3
Change = Callable[[torch.Tensor], torch.Tensor]


class Pipeline(nn.Module):
    """Both experts under one root; calling it runs the stock pipeline."""

    def __init__(self, pipe: Any) -> None:
        super().__init__()
        self.pipe = pipe
        self.transformer, self.transformer_2 = pipe.transformer, getattr(pipe, "transformer_2", None)

    def forward(self, **arguments: Any) -> torch.Tensor:
        return self.pipe(**arguments).frames


def call_of_two(pipe: Any) -> dict[str, Any]:
    """A stock call of two videos: row 0 is the clean run, row 1 the corrupt one. Only their seeds differ."""
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    return short_call(pipe, STEPS) | {"num_videos_per_prompt": 2, "generator": generators}


def call_of_one(kind: str, pipe: Any) -> dict[str, Any]:
    """A stock call of one video, as every pipeline can make."""
    return arguments_of(kind, pipe, steps=STEPS, guidance=4.0) | {"generator": torch.Generator().manual_seed(1)}


def place(lab: Any, run: Any, step: int, branch: str) -> tuple[str, int]:
    """What has to be counted without addresses: the expert's attribute, and the number of its call."""
    experts = lab.space(run).experts
    name = "transformer_2" if experts[step] == "low" else "transformer"
    return name, 2 * (step - experts.index(experts[step])) + ("cond", "uncond").index(branch)


def by_torch_hooks(
    lab: Any, call: dict[str, Any], run: Any, step: int, branch: str, layer: int, change: Change
) -> torch.Tensor:
    name, number = place(lab, run, step, branch)
    calls = iter(range(10**6))

    def patch(_: nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor | None:
        return change(output) if next(calls) == number else None

    handle = getattr(lab.pipe, name).blocks[layer].register_forward_hook(patch)
    try:
        return lab.pipe(**call).frames
    finally:
        handle.remove()


def by_nnsight_alone(
    lab: Any, call: dict[str, Any], run: Any, step: int, branch: str, layer: int, change: Change
) -> torch.Tensor:
    name, number = place(lab, run, step, branch)
    model = NNsight(Pipeline(lab.pipe))
    with model.trace(**call) as tracer:
        for _ in tracer.iter[number]:
            block = model.get(name).blocks[layer]
            block.output = change(block.output)
        frames = tracer.result.save()
    return frames  # noqa: RET504  a traced block cannot return


def second_for_both(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([x[1], x[1]])


def by_trace(lab: Any, runs: list[Any], step: int, branch: str, layer: int) -> torch.Tensor:
    site = f"blocks.{layer}.hook_resid_post"
    with lab.trace(runs) as t:
        x = t[site, step, branch]
        t[site, step, branch] = torch.stack([x[1], x[1]])
    return results(t.result)


@pytest.mark.parametrize(("kind", "scheduler", "step", "branch", "layer"), CELLS)
def test_the_same_patch_by_hand_gives_the_same_latents(
    kind: str, scheduler: str, step: int, branch: str, layer: int
) -> None:
    assert kind in KINDS
    lab, (clean, corrupt, _) = lab_and_runs(kind, scheduler, STEPS)
    patch = edits.patch(f"blocks.{layer}.hook_resid_post", step=step, branch=branch, source=corrupt)
    ours = lab.run(clean, edits=patch)
    hooks = by_torch_hooks(lab, call_of_two(lab.pipe), clean, step, branch, layer, second_for_both)
    alone = by_nnsight_alone(lab, call_of_two(lab.pipe), clean, step, branch, layer, second_for_both)
    named = by_trace(lab, [clean, corrupt], step, branch, layer)
    bare = results(lab.run([clean, corrupt]))
    assert torch.equal(ours.trajectory.result, hooks[0])
    assert torch.equal(hooks, alone)
    assert torch.equal(hooks, named)
    assert torch.equal(hooks[1], bare[1])
    assert not torch.equal(hooks[0], bare[0])


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_tensor_put_in_by_hand_on_every_kind(kind: str) -> None:
    lab = interp.load(ALL_KINDS[kind](scheduler="unipc"))
    (run,) = specs_of(lab, call_of_one(kind, lab.pipe), [1])
    step, branch, layer = len(lab.space(run).experts) - 1, "uncond", 1  # the second expert, where there are two
    site = f"blocks.{layer}.hook_resid_post"
    clean = lab.run(run, site)
    value = clean.captured[site][0, 0].flip(0)  # [token, feature]
    ours = lab.run(run, edits=edits.patch(site, value, step=step, branch=branch)).trajectory.result
    for way in (by_torch_hooks, by_nnsight_alone):
        latents = way(lab, call_of_one(kind, lab.pipe), run, step, branch, layer, lambda x: value[None].to(x))
        assert torch.equal(latents[0], ours)
    assert not torch.equal(ours, clean.trajectory.result)
