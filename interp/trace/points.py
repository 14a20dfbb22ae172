"""Where a run meets an nnsight block: every hook point hands its tensor over under its address.

The tensors come from the hooks that native captures and edits use (`interp.hooks.tapped`, `interp.instrument`, the step
loop's editor), so a value read here is the tensor that a native capture keeps. A location is named by its address and
is therefore come past exactly once in a run: there is nothing to count.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from interp.edits.latents import patchify, restart_solver, unpatchify
from interp.errors import InterpError
from interp.hooks import Clock
from interp.sampler import Call
from interp.selection import AddressSpace
from interp.sites import GUIDED, site_named
from interp.trace.place import Address, place_text, text_of


@runtime_checkable
class Block(Protocol):
    """The user's code, as the run sees it."""

    def waits_for(self, location: str) -> bool:
        """Whether the code is paused until this location."""

    def hand_over(self, location: str, value: Any) -> Any:
        """Let the code go on with the value; what takes the value's place."""

    def forward_over(self, call: Call) -> None:
        """A forward ended; whatever is still waited for inside it will not come."""


@dataclass(frozen=True)
class Touched:
    """A tensor that was handed to the block.

    Attributes:
        site, step, branch: its address.
        changed: whether the block replaced it, or changed it in place.
    """

    site: str
    step: int
    branch: str
    changed: bool


class LivePoints:
    """Every hook point of one run; a `StepEditor`, and `Points` for what modules cannot write.

    Args:
        block: the user's code.
        space: addresses of the run.
        inner: sites that instrumented layers hand over.
        clock: says which forward is under way.
    """

    def __init__(self, block: Block, space: AddressSpace, inner: frozenset[str], clock: Clock) -> None:
        self.block, self.space, self.inner, self.clock = block, space, inner, clock
        self.touched: list[Touched] = []
        self.now: Address | None = None
        self._past: set[Address] = set()
        self._begun: set[tuple[int, str]] = set()
        self._kept: list[tuple[Address, weakref.ref[Tensor], int]] = []
        self._moved: Tensor | None = None  # rows whose latents are not the solver's own

    def is_past(self, address: Address) -> bool:
        """Whether the run has gone beyond an address."""
        return address != self.now and address in self._past

    def has_begun(self, step: int, branch: str) -> bool:
        """Whether a forward has begun, or is over."""
        return (step, branch) in self._begun

    # --- tensors of the transformer -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def on_call(self, call: Call) -> Iterator[None]:
        """Around one forward; given to the sampler."""
        with self.clock.enter(call):
            self.now = None
            self._begun.add((call.step, call.branch))
            self.block.hand_over(place_text(call.step, call.branch), call)
            yield
            self.block.forward_over(call)

    def on_site(self, site: str, call: Call, tensor: Tensor) -> Tensor | None:
        """A module hook fired; the tensor that takes its place, or None."""
        if site in self.inner:
            return None
        new, changed = self._offer((site, call.step, call.branch), tensor)
        return new if changed else None

    def wants(self, site: str) -> bool:
        """Whether the block is paused until this site of the forward under way."""
        call = self.clock.call
        return call is not None and self.block.waits_for(text_of((site, call.step, call.branch)))

    def emit(self, site: str, tensor: Tensor) -> Tensor:
        """A named tensor of an instrumented layer, as it goes on."""
        call = self.clock.call
        if call is None or site not in self.inner:
            return tensor
        return self._offer((site, call.step, call.branch), tensor)[0]

    def closed(self, site: str) -> tuple[Any, ...]:
        """No knock-outs: a block changes the pattern itself."""
        return ()

    def knocked(self, site: str, closed: tuple[Any, ...], before: Tensor, after: Tensor) -> None:
        """Never called, as there are none."""

    # --- tensors of the sampler ---------------------------------------------------------------------------------------

    def on_latents(self, site: str, step: int, latents: Tensor) -> Tensor:
        """Latents at the start or the end of a step, as they go on."""
        new = self._between((site, step, GUIDED), latents)
        if new is not latents:
            moved = (new != latents).flatten(1).any(1)
            self._moved = moved if self._moved is None else self._moved | moved
        return new

    def on_velocity(self, branch: str, step: int, latents: Tensor, velocity: Tensor) -> Tensor:
        """The velocity of a pass, or the guided one; an x0_hat that is written is reached by the velocity."""
        guided = branch == GUIDED
        velocity = self._between((f"latents.hook_velocity_{'cfg' if guided else branch}", step, branch), velocity)
        address = ("latents.hook_x0" if guided else f"latents.hook_x0_{branch}", step, branch)
        sigma = self.space.sigmas[step]
        clean = latents.float() - sigma * velocity.float()
        new = self._between(address, clean)
        return velocity if new is clean else torch.where(new == clean, velocity, (latents.float() - new) / sigma)

    def on_solver(self, scheduler: Any, latents: Tensor, velocity: Tensor) -> None:
        """The solver forgets what it knows of rows whose latents were replaced."""
        if self._moved is not None:
            restart_solver(scheduler, self._moved, latents, velocity)
            self._moved = None

    def on_clean(self, x0_hat: Tensor) -> None:
        """The step's x0_hat, which was offered with the velocity."""

    def _between(self, address: Address, latents: Tensor) -> Tensor:
        """Offer a tensor of the sampler as patches; the very same tensor if nothing was changed."""
        if not self.block.waits_for(text_of(address)):
            self._come_to(address)
            return latents
        new, changed = self._offer(address, patchify(latents, self.space.grid).clone())
        return unpatchify(new, self.space.grid).to(latents.dtype) if changed else latents

    # --- both ---------------------------------------------------------------------------------------------------------

    def _offer(self, address: Address, tensor: Tensor) -> tuple[Tensor, bool]:
        """Hand a tensor over: what goes on, and whether that is something new."""
        self._come_to(address)
        location = text_of(address)
        if not self.block.waits_for(location):
            return tensor, False
        version = _version(tensor)
        new = self.block.hand_over(location, tensor)
        if not isinstance(new, Tensor) or new.shape != tensor.shape:
            given = tuple(new.shape) if isinstance(new, Tensor) else f"a {type(new).__name__}"
            raise InterpError(f"{location} is a tensor of {tuple(tensor.shape)}, and the trace assigned {given}")
        changed = new is not tensor or _version(tensor) != version
        if changed and not site_named(address[0]).writable:
            raise InterpError(f"{address[0]} cannot be changed: {site_named(address[0]).meaning}")
        self._kept.append((address, weakref.ref(tensor), _version(tensor)))
        self.touched.append(Touched(*address, changed))
        return new.to(tensor.dtype), changed

    def _come_to(self, address: Address) -> None:
        self.now = address
        self._past.add(address)

    def check_kept(self) -> None:
        """Refuse changes that came too late to have an effect.

        Raises:
            InterpError: a tensor was changed in place after the run had gone on.
        """
        for address, kept, version in self._kept:
            tensor = kept()
            if tensor is not None and _version(tensor) != version:
                raise InterpError(
                    f"{text_of(address)} was changed in place after the run had gone on, so the change had no effect "
                    "there, or was made to a tensor that shares its memory; assign t[...] = new before asking for "
                    "another value, and clone() what you keep"
                )


def _version(tensor: Tensor) -> int:
    """A number that changes when a tensor is changed in place."""
    return 0 if tensor.is_inference() else tensor._version
