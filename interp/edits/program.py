"""A graph bound to a run: for every address, what is done there, with all indices made and all sources at hand.

Binding is where a graph is checked; nothing has run yet when it raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from interp.edits.given import Picture
from interp.edits.graph import Edit, EditGraph
from interp.edits.knockout import Knockout
from interp.edits.op import Moment
from interp.edits.sources import Constant, FromStore, OtherRun, Source, Stored, World
from interp.errors import InterpError, SelectionError
from interp.selection import AddressSpace, Part, Resolution, select
from interp.sites import site_named

Address = tuple[str, int, str]  # site, step, branch


@dataclass(frozen=True)
class Action:
    """One edit at one address.

    Attributes:
        number: of the edit in the graph.
        edit: the edit, its sources fetched.
        rows: worlds that are changed.
        part: the smallest rectangle around what is selected.
        picks: (dimension with the batch, positions) of that rectangle.
        mask: what of the rectangle is selected, if not all: [token, head] with ones for the axes that follow.
        axes: of the site.
        asked: runs of the batch that were asked for; those after them are there to be read only.
    """

    number: int
    edit: Edit
    rows: tuple[int, ...]
    part: Part
    picks: tuple[tuple[int, Tensor], ...]
    mask: Tensor | None
    axes: tuple[str, ...]
    asked: int

    def run(self, x: Tensor, moment: Moment) -> tuple[Tensor, Tensor, Tensor]:
        """Apply it to a tensor [batch, <site axes>]: the new tensor, and the changed part before and after."""
        if len(x) <= max(self.rows):
            raise InterpError(
                f"{moment.site} has {len(x)} rows for the whole batch, so single worlds of it cannot be edited"
            )
        chosen = x
        for dimension, positions in self.picks:
            chosen = chosen.index_select(dimension, positions.to(x.device))
        rows = torch.tensor(self.rows, device=x.device)
        every = self.rows == tuple(range(len(x)))
        own = chosen if every else chosen.index_select(0, rows)
        op = self.edit.op
        if op.mixes:
            made = op.apply(chosen[: self.asked], (), moment)
            made = made if self.rows == tuple(range(self.asked)) else made.index_select(0, rows)
        else:
            given = tuple(self._given(source, chosen, own, x, moment) for source in self.edit.sources)
            made = op.apply(own, given, moment)
        if made.shape != own.shape:
            raise InterpError(f"{self.edit.op} gave {tuple(made.shape)} at {moment.site}, where {tuple(own.shape)} was")
        made = made.to(own.dtype)
        if self.mask is not None:
            made = torch.where(self.mask.to(x.device), made, own)
        return _put(x, ((() if every else ((0, rows),)) + self.picks), made), own, made

    def _given(self, source: Source, chosen: Tensor, own: Tensor, x: Tensor, moment: Moment) -> Tensor:
        if isinstance(source, World):
            return chosen[source.index : source.index + 1]
        if isinstance(source, Constant):
            whole = _broadcast(source.values.tensor, x.shape[1:], self.edit, moment.site)
            found = whole.unsqueeze(0).to(x.device)
            if self.edit.op.whole:
                return found
            for dimension, positions in self.picks:
                found = found.index_select(dimension, positions.to(x.device))
            return found
        assert isinstance(source, Stored)
        step = moment.step if source.step is None else source.step
        branch = moment.branch if source.branch is None else source.branch
        found = source.at(moment.site).read(step, branch, self.part, self.axes)
        if found.shape[1:] != own.shape[1:] or len(found) not in (1, len(own)):
            raise InterpError(
                f"the source of edit {self.number} is {tuple(found.shape)} at {moment.site}, "
                f"and {tuple(own.shape)} is needed"
            )
        return found.to(x.device)


@dataclass(frozen=True)
class Closed:
    """Keys that queries cannot see: positions along each axis, None for all."""

    number: int
    rows: tuple[int, ...]
    heads: tuple[int, ...] | None
    queries: tuple[int, ...] | None
    keys: tuple[int, ...]


@dataclass
class Program:
    """What is done where.

    Attributes:
        graph: the edits, as given.
        space: addresses of the run.
        actions: by address, in order.
        closed: knock-outs by the address of the scores.
        planned: (edit, site, step, branch) to the rows it has to change.
    """

    graph: EditGraph
    space: AddressSpace
    actions: dict[Address, list[Action]] = field(default_factory=dict)
    closed: dict[Address, list[Closed]] = field(default_factory=dict)
    planned: dict[tuple[int, str, int, str], tuple[int, ...]] = field(default_factory=dict)

    @property
    def sites(self) -> tuple[str, ...]:
        """Every site that is edited, in the order of the computation."""
        used = {address[0] for address in (*self.actions, *self.closed)}
        return tuple(site for site in self.space.sites if site in used)

    def first_step(self) -> int | None:
        """The first step at which anything is edited; None for no edits."""
        return min((step for _, step, _ in (*self.actions, *self.closed)), default=None)

    def last_step(self) -> int | None:
        """The last step at which anything is edited; None for no edits."""
        return max((step for _, step, _ in (*self.actions, *self.closed)), default=None)


def bind(graph: EditGraph, space: AddressSpace, worlds: int, asked: int, steps: range) -> Program:
    """Resolve every edit.

    Args:
        graph: edits; `OtherRun` sources have already become worlds.
        space: addresses of the run.
        worlds: rows of the batch.
        asked: how many of them, the first ones, are runs that were asked for: what ``rows=None`` stands for.
        steps: steps that will be run.

    Raises:
        SelectionError: an edit matches nothing, or nothing in these steps, or what cannot be written.
        InterpError: worlds, shapes or sources that do not fit.
    """
    program = Program(graph, space)
    for number, edit in enumerate(graph):
        resolution = edit.selection.resolve(space)
        if not any(step in steps for step in resolution.steps):
            raise SelectionError(
                f"edit {number} is at steps {list(resolution.steps)}, "
                f"and this run makes steps {steps.start} to {steps.stop - 1}"
            )
        rows = _check(number, edit, resolution, worlds, asked)
        within = resolution
        if not all(step in steps for step in resolution.steps):
            within = (edit.selection & select(step=list(steps))).resolve(space)
        fetched = replace(edit, sources=tuple(_fetched(source, within) for source in edit.sources))
        for address in within.addresses():
            if isinstance(edit.op, Knockout):
                keys = edit.op.closed(space, address[0])
                parts = within.parts(*address)
                program.closed.setdefault(address, []).extend(
                    Closed(number, rows, part.heads, part.tokens, keys) for part in parts
                )
            else:
                action = _action(number, fetched, rows, asked, within, address)
                program.actions.setdefault(address, []).append(action)
            program.planned[(number, *address)] = rows
    return program


def _check(number: int, edit: Edit, resolution: Resolution, worlds: int, asked: int) -> tuple[int, ...]:
    rows = tuple(range(asked)) if edit.rows is None else edit.rows
    if max(rows) >= asked:
        raise InterpError(f"edit {number} changes world {max(rows)}, and the batch has {asked} runs (0 to {asked - 1})")
    edit.op.check(asked)
    for source in edit.sources:
        if isinstance(source, World) and not 0 <= source.index < worlds:
            raise InterpError(
                f"edit {number} reads world {source.index}, and the batch has {worlds} (0 to {worlds - 1})"
            )
    for name in resolution.sites:
        site = site_named(name)
        if not site.writable:
            raise SelectionError(f"edit {number} cannot write {name}: it is {site.meaning_at(name)}")
        if edit.op.sites and name not in edit.op.sites:
            raise SelectionError(f"edit {number}: {edit.op.name} is at {' or '.join(edit.op.sites)}, not at {name}")
        if isinstance(edit.op, Picture):
            edit.op.check_channels(resolution.space.widths[name][0])
        knocked, scores = isinstance(edit.op, Knockout), name.endswith("hook_attn_scores")
        if knocked and not scores:
            raise SelectionError(
                f"edit {number}: a knock-out is at blocks.*.attn or blocks.*.cross_attn, not at {name}"
            )
        if edit.op.name == "noise" and getattr(edit.op, "kind", "") == "renoise" and name != "latents.hook_in":
            raise SelectionError(
                f"edit {number}: renoising makes noisy latents, so it goes to latents.hook_in, not to {name}"
            )
        for source in edit.sources:
            if isinstance(source, Constant) and not edit.op.whole:
                _broadcast(source.values.tensor, resolution.space.widths[name], edit, name)
    return rows


def _fetched(source: Source, resolution: Resolution) -> Source:
    if isinstance(source, OtherRun):
        raise InterpError(f"the source {source} has not been made a world of the batch; run the edit with run_with")
    if isinstance(source, FromStore):
        return source.read(resolution)
    if isinstance(source, Stored):
        for site in resolution.sites:
            source.at(site)
    return source


def _action(
    number: int, edit: Edit, rows: tuple[int, ...], asked: int, resolution: Resolution, address: Address
) -> Action:
    axes = resolution.space.axes_of(address[0])
    parts = resolution.parts(*address)
    part, mask = parts[0], None
    if len(parts) > 1:
        part = Part(_hull([p.tokens for p in parts]), _hull([p.heads for p in parts]))
        mask = _mask(parts, part, axes, resolution.space.widths[address[0]])
    picks = tuple(
        (1 + axes.index(axis), torch.tensor(positions))
        for axis, positions in (("token", part.tokens), ("head", part.heads))
        if positions is not None
    )
    action = Action(number, edit, rows, part, picks, mask, axes, asked)
    for source in edit.sources:
        if isinstance(source, Stored):
            step = address[1] if source.step is None else source.step
            source.at(address[0]).read(step, address[2] if source.branch is None else source.branch, part, axes)
    return action


def _mask(parts: Sequence[Part], hull: Part, axes: tuple[str, ...], shape: tuple[int, ...]) -> Tensor:
    """Which of the hull is in any part: bool, with size 1 for axes other than token and head."""
    sizes = [shape[i] if axis in ("token", "head") else 1 for i, axis in enumerate(axes)]
    mask = torch.zeros(sizes, dtype=torch.bool)
    for part in parts:
        inside = torch.ones(sizes, dtype=torch.bool)
        for axis, positions in (("token", part.tokens), ("head", part.heads)):
            if axis in axes and positions is not None:
                along = torch.zeros(sizes[axes.index(axis)], dtype=torch.bool)
                along[list(positions)] = True
                inside &= along.view([-1 if a == axis else 1 for a in axes])
        mask |= inside
    for axis, positions in (("token", hull.tokens), ("head", hull.heads)):
        if axis in axes and positions is not None:
            mask = mask.index_select(axes.index(axis), torch.tensor(positions))
    return mask


def _hull(sets: Sequence[tuple[int, ...] | None]) -> tuple[int, ...] | None:
    return None if any(s is None for s in sets) else tuple(sorted({p for s in sets if s is not None for p in s}))


def _broadcast(constant: Tensor, shape: Sequence[int], edit: Edit, site: str) -> Tensor:
    if edit.op.whole:
        wide = constant.reshape(-1, constant.shape[-1])
        if wide.shape[-1] != shape[-1]:
            raise InterpError(f"{edit.op.name}: directions have {wide.shape[-1]} features, and {site} has {shape[-1]}")
        return wide
    try:
        return constant.expand(tuple(shape))
    except RuntimeError:
        raise InterpError(
            f"{edit.op.name}: a tensor of shape {tuple(constant.shape)} does not broadcast to {site}, "
            f"which is {tuple(shape)}"
        ) from None


def _put(x: Tensor, picks: Sequence[tuple[int, Tensor]], made: Tensor) -> Tensor:
    """A copy of x with the picked rectangle replaced; x itself is not changed."""
    if not picks:
        return made.contiguous() if made.shape == x.shape else made.expand_as(x)
    (dimension, positions), rest = picks[0], picks[1:]
    positions = positions.to(x.device)
    inner = made if not rest else _put(x.index_select(dimension, positions), rest, made)
    return x.index_copy(dimension, positions, inner.contiguous())
