"""Carries a program out while a run goes on: at module hooks, in instrumented blocks, between the sampler's steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from interp.edits.latents import patchify, restart_solver, unpatchify
from interp.edits.op import Moment
from interp.edits.program import Address, Closed, Program
from interp.edits.receipt import EditReceipt, Fired, check_fired
from interp.hooks import Clock
from interp.instrument.knockout import closed_scores
from interp.sampler import Call
from interp.sites import GUIDED


class Editor:
    """See the module docstring.

    Args:
        program: what is done where.
        seeds: seed of every run of the batch.
        clock: says which forward is under way.
        x0_before: x0_hat of the step before the first one, [batch, channel, latent_frame, row, col], if there is one.
    """

    def __init__(self, program: Program, seeds: tuple[int, ...], clock: Clock, x0_before: Tensor | None = None) -> None:
        self.program, self.seeds, self.clock = program, seeds, clock
        self.x0_before = x0_before
        self.log: list[tuple[int, Moment, tuple[int, ...], Tensor, Tensor]] = []
        self._moved: Tensor | None = None  # rows whose latents are not the solver's own: bool [batch]

    # --- tensors of the transformer -----------------------------------------------------------------------------------

    def on_site(self, site: str, call: Call, tensor: Tensor) -> Tensor | None:
        """A module hook fired; the tensor that takes its place, or None."""
        address = (site, call.step, call.branch)
        return self._apply(address, tensor) if address in self.program.actions else None

    def wants(self, site: str) -> bool:
        """Whether a site is edited in the forward under way."""
        call = self.clock.call
        return call is not None and (site, call.step, call.branch) in self.program.actions

    def emit(self, site: str, tensor: Tensor) -> Tensor:
        """A named tensor of an instrumented block or attention, as it goes on."""
        call = self.clock.call
        if call is None:
            return tensor
        address = (site, call.step, call.branch)
        edited = address in self.program.actions or address in self.program.closed
        return self._apply(address, tensor) if edited else tensor

    def closed(self, site: str) -> tuple[Closed, ...]:
        """Knock-outs in the forward under way."""
        call = self.clock.call
        return () if call is None else tuple(self.program.closed.get((site, call.step, call.branch), ()))

    def knocked(self, site: str, closed: tuple[Closed, ...], before: Tensor, after: Tensor) -> None:
        """Note knock-outs that were applied, with z [batch, token, head, d_head] before and after."""
        assert self.clock.call is not None
        call = self.clock.call
        for number in dict.fromkeys(one.number for one in closed):
            rows = next(one.rows for one in closed if one.number == number)
            self._note(
                number, self._moment((site, call.step, call.branch), rows), rows, before[list(rows)], after[list(rows)]
            )

    # --- tensors of the sampler ---------------------------------------------------------------------------------------

    def on_latents(self, site: str, step: int, latents: Tensor) -> Tensor:
        """Latents at the start ("latents.hook_in") or end ("latents.hook_out") of a step, as they go on."""
        new = self._between(site, step, GUIDED, latents)
        if new is not latents:
            moved = (new != latents).flatten(1).any(1)
            self._moved = moved if self._moved is None else self._moved | moved
        return new

    def on_velocity(self, branch: str, step: int, latents: Tensor, velocity: Tensor) -> Tensor:
        """The velocity of a pass, or the guided one, as it goes on; edits of x0_hat become edits of the velocity."""
        last = "cfg" if branch == GUIDED else branch
        velocity = self._between(f"latents.hook_velocity_{last}", step, branch, velocity)
        name = "latents.hook_x0" if branch == GUIDED else f"latents.hook_x0_{branch}"
        if (name, step, branch) not in self.program.actions:
            return velocity
        sigma = self.program.space.sigmas[step]
        clean = latents.float() - sigma * velocity.float()
        new = self._between(name, step, branch, clean)
        implied = ((latents.float() - new) / sigma).to(velocity.dtype)
        return torch.where(new == clean, velocity, implied)

    def on_solver(self, scheduler: Any, latents: Tensor, velocity: Tensor) -> None:
        """Just before the solver's step: it forgets what it knows of rows whose latents were edited."""
        if self._moved is not None:
            restart_solver(scheduler, self._moved, latents, velocity)
            self._moved = None

    def on_clean(self, x0_hat: Tensor) -> None:
        """A step's x0_hat, which the next step's renoising starts from."""
        self.x0_before = x0_hat

    def _between(self, site: str, step: int, branch: str, latents: Tensor) -> Tensor:
        if (site, step, branch) not in self.program.actions:
            return latents
        grid = self.program.space.grid
        return unpatchify(self._apply((site, step, branch), patchify(latents, grid)), grid).to(latents.dtype)

    # --- both ---------------------------------------------------------------------------------------------------------

    def _apply(self, address: Address, tensor: Tensor) -> Tensor:
        program, shut = self.program, dict[int, list[Closed]]()
        for one in program.closed.get(address, ()):
            shut.setdefault(one.number, []).append(one)
        actions = {action.number: action for action in program.actions.get(address, ())}
        for number in sorted({*actions, *shut}):
            if number in shut:
                rows = shut[number][0].rows
                before, tensor = tensor, closed_scores(tensor, shut[number])
                old, new = (x[list(rows)].softmax(-1) for x in (before, tensor))
                self._note(number, self._moment(address, rows), rows, old, new)
                continue
            action = actions[number]
            moment = self._moment(address, action.rows, action.picks)
            tensor, before, after = action.run(tensor, moment)
            if shut:  # scores may be infinite
                before, after = before.softmax(-1), after.softmax(-1)
            self._note(number, moment, action.rows, before, after)
        return tensor

    def _moment(self, address: Address, rows: tuple[int, ...], picks: tuple[tuple[int, Tensor], ...] = ()) -> Moment:
        site, step, branch = address
        space, x0 = self.program.space, None
        if site == "latents.hook_in" and self.x0_before is not None:
            x0 = patchify(self.x0_before, space.grid)[list(rows)]
            for dimension, positions in picks:
                x0 = x0.index_select(dimension, positions.to(x0.device))
        seeds = tuple(self.seeds[row] for row in rows)
        return Moment(site, step, branch, space.experts[step], space.sigmas[step], seeds, x0)

    def _note(self, number: int, moment: Moment, rows: tuple[int, ...], before: Tensor, after: Tensor) -> None:
        with torch.no_grad():
            change = (after.float() - before.float()).norm()
            self.log.append((number, moment, rows, change, before.float().norm()))

    def receipt(self) -> EditReceipt:
        """What fired.

        Raises:
            InterpError: it is not what was planned.
        """
        fired = tuple(
            Fired(number, m.site, m.step, m.branch, m.expert, rows, float(change), float(size))
            for number, m, rows, change, size in self.log
        )
        check_fired(fired, self.program.planned)
        return EditReceipt(self.program.graph, fired)
