"""nnsight's own tree over both experts, for values that have no name yet; taken off again after the run.

Its one difference from plain nnsight: a value is asked for inside a forward that was named first, and comes from that
forward or not at all. nnsight itself counts how often a module has run, so that a module asked for out of order would
be served from the next pass: the uncond one, after the cond one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NoReturn

from nnsight import Envoy, NNsight
from nnsight.intervention.source import STATE
from torch import nn

from interp.errors import InterpError

ROOT = "lab"


class Experts(nn.Module):
    """The transformers of a pipeline under one root, so that one clock serves both.

    Args:
        pipe: the pipeline.
    """

    def __init__(self, pipe: Any) -> None:
        super().__init__()
        for name in ("transformer", "transformer_2"):
            model = getattr(pipe, name, None)
            if model is not None:
                self.add_module(name, model)


class Module(Envoy):
    """An nnsight envoy of a module, without what would silently do nothing here."""

    def edit(self, **_: Any) -> NoReturn:
        """Refused.

        Raises:
            InterpError: always.
        """
        raise InterpError(
            f"{self.path}.edit() stores a change for later traces, and this tree lives for one trace, so it would "
            "never run; assign inside the trace, or give lab.run(..., edits=...) an edit of interp.edits"
        )


class Root(Module, NNsight):
    """The root of the tree."""


@contextlib.contextmanager
def wrapped(experts: Experts) -> Iterator[Root]:
    """nnsight's tree over both experts; the modules are as they were when the block ends."""
    before = {module: dict(vars(module)) for module in experts.modules()}
    try:
        yield Root(experts, path=ROOT, envoys=Module)
    finally:
        for module, own in before.items():
            if STATE in own:  # somebody else has wrapped it, and keeps it so
                continue
            module.__dict__.pop(STATE, None)
            if "forward" in own:
                module.__dict__["forward"] = own["forward"]
            else:
                module.__dict__.pop("forward", None)
