"""The user's block as nnsight runs it, with every request checked when it is made.

nnsight pauses the block where it asks for a value, lets the model run to where the value is made, and hands it over. It
finds the value by counting how often a location was come past. Here hook points are locations named by their address,
come past once each, and modules are asked for in the forward that is under way.

What nnsight keeps private and this module builds on: `Mediator.wanted` and `worker`, `Interleaver.parked`.
"""

from __future__ import annotations

from typing import Any

from greenlet import getcurrent
from nnsight.intervention.interleaver import Mediator

from interp.errors import InterpError
from interp.sampler import Call
from interp.trace.modules import ROOT
from interp.trace.place import place_text
from interp.trace.points import LivePoints


class Worker(Mediator):
    """See the module docstring; made by `interp.trace.tracer.LabTracer`."""

    points: LivePoints
    pending: Any

    def wanted(self, location: str) -> int:
        """Which occurrence is asked for: always the next, as `forward_over` refuses what a later forward would give.

        Raises:
            InterpError: a module is asked for between forwards, or in a tree that is not this trace's.
        """
        if not is_address(location) and location != "result":
            if not location.startswith(f"{ROOT}."):
                raise InterpError(
                    f"{location} is of another nnsight tree, which this run does not come past; reach modules through "
                    "t.model, which has both experts"
                )
            if self.points.clock.call is None:
                raise InterpError(
                    f"{location} is made once in every forward, and none is under way; say which you mean with "
                    "t.goto(step, branch), or ask for a hook point of that forward first"
                )
        return self.occurrence(location)

    def waits_for(self, location: str) -> bool:
        """See `interp.trace.points.Block`."""
        return location in self.interleaver.parked

    def hand_over(self, location: str, value: Any) -> Any:
        """See `interp.trace.points.Block`."""
        return self.interleaver.handle(location, value)

    def forward_over(self, call: Call) -> None:
        """A forward ended; an error goes to the line that still waits for something in it."""
        if not self.alive or self.pending is None:
            return
        location, here = self.pending.provider, place_text(call.step, call.branch)
        if location == "result" or location.startswith("latents."):
            return
        if is_address(location) and not location.endswith(here):
            return
        error = InterpError(
            f"{location} did not come any more in the forward {here}: the run was past it when it was asked for, or "
            "does not come by; ask for values in the order of the computation"
        )
        self.worker.parent = getcurrent()
        self.pending = self.worker.throw(error)
        self.interleaver.reindex()


def is_address(location: str) -> bool:
    """Whether it is a hook point's or a forward's, not a module's."""
    return location.endswith("]")
