"""Tiny labs and runs for the tests of edits."""

from __future__ import annotations

import json
from typing import Any

import torch

import interp
from interp.runspec import RunSpec
from tests import pipelines
from tests.tracer.runs import KINDS as ORDINARY
from tests.tracer.runs import MODULAR, arguments_of, specs_of

ALL_KINDS = ORDINARY | {kind: MODULAR[kind] for kind in ("modular i2v two experts",)}
KINDS: dict[str, Any] = {kind: ALL_KINDS[kind] for kind in ("i2v two experts", "t2v", "ti2v image")}


def lab_and_runs(
    kind: str = "i2v two experts", scheduler: str = "euler", steps: int = 3, guidance: float = 4.0, **more: Any
) -> tuple[Any, list[RunSpec]]:
    """A lab and three runs that differ in the seed."""
    pipe = ALL_KINDS[kind](scheduler=scheduler, **more)
    lab = interp.load(pipe)
    arguments = arguments_of(kind, pipe, steps=steps, guidance=guidance)
    if "clip" not in kind:  # whose attention takes the last 512 tokens for the text
        arguments |= SHORT
    return lab, specs_of(lab, arguments, [1, 2, 3])


SHORT = {"max_sequence_length": 16}  # text tokens are most of the cost of so small a model


def short_call(pipe: Any, steps: int = 3, guidance: float = 4.0) -> dict[str, Any]:
    """Arguments of a small call."""
    return pipelines.call_arguments(pipe, steps=steps, guidance=guidance) | SHORT


def results(runs: Any) -> torch.Tensor:
    """Final latents of results: [run, channel, latent_frame, row, col]."""
    return torch.stack([run.trajectory.result for run in (runs if isinstance(runs, list) else [runs])])


def state(pipe: Any) -> str:
    """Everything of a pipeline that an edit could leave changed."""
    parts = [name for name in ("transformer", "transformer_2") if getattr(pipe, name, None) is not None]
    modules = {
        name: (
            sorted(module.__dict__),
            [len(h) for h in (module._forward_hooks, module._forward_pre_hooks)],
            str(id(module.__dict__.get("processor"))),
        )
        for part in parts
        for name, module in getattr(pipe, part).named_modules(prefix=part)
    }
    scheduler = {k: repr(v) for k, v in pipe.scheduler.__dict__.items()}
    return json.dumps([modules, scheduler, sorted(pipe.__dict__)], default=str)
