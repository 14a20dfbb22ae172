"""One run of every kind of pipeline with every hook point captured, shared by the tests that look at it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from interp.capture import MemorySink, Recorder
from interp.lab import Lab, load
from interp.sampler import Call, Step
from interp.selection import AddressSpace, Selection, select
from interp.trajectory import Trajectory
from tests.tracer.runs import RUN, arguments_of, call, seeds_of, specs_of

GUIDANCE = 5.0


@dataclass(frozen=True)
class Walk:
    """A run with everything captured.

    Attributes:
        lab: the pipeline.
        space: its addresses.
        fired: how often a hook delivered (site, expert, step, branch).
        got: site to [step, branch, <site axes>] of the last row, as fp32.
        trajectory: of the last row.
        same: whether the latents of all rows are the stock call's, to the bit.
    """

    lab: Lab
    space: AddressSpace
    fired: Counter[tuple[str, str, int, str]]
    got: dict[str, Tensor]
    trajectory: Trajectory
    same: bool


class _Counting(Recorder):
    """Counts before anything is kept."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.seen: Counter[tuple[str, str, int, str]] = Counter()

    def on_site(self, site: str, call: Call, tensor: Tensor) -> None:
        self.seen[site, call.expert, call.step, call.branch] += 1
        super().on_site(site, call, tensor)

    def on_step(self, step: Step) -> None:
        before = Counter(self.fired)
        super().on_step(step)
        experts = self.resolution.space.experts
        self.seen.update(
            {(site, experts[at], at, branch): n for (site, at, branch), n in (self.fired - before).items()}
        )


def everything() -> Selection:
    """All hook points, those too big for a wildcard too."""
    return select(["**", "**.hook_{attn_scores,pattern,result}"])


def walk(kind: str, dtype: torch.dtype = torch.float32) -> Walk:
    """Three steps with guidance."""
    return _walked(kind, dtype)


@cache  # which would take an argument that is given and one that is left out for two different ones
def _walked(kind: str, dtype: torch.dtype) -> Walk:
    pipe = RUN[kind](scheduler="unipc", dtype=dtype)
    arguments, seeds = arguments_of(kind, pipe, guidance=GUIDANCE, steps=3), seeds_of(kind)
    expected = call(pipe, arguments, seeds)
    lab = load(pipe)
    specs = specs_of(lab, arguments, seeds)
    resolution = everything().resolve(lab.space(specs[0]))
    sinks = [MemorySink(resolution) for _ in specs]
    recorder = _Counting(resolution, sinks, "float32")
    trajectories = lab.run_batch(specs, recorder)
    recorder.receipt()
    same = torch.equal(torch.stack([t.result for t in trajectories]), expected.float())
    return Walk(lab, resolution.space, recorder.seen, sinks[-1].tensors, trajectories[-1], same)
