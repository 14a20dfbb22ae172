"""What a sweep of patches costs: step x layer, naive reruns with plain hooks, the same with nnsight, and ours.

Every cell patches the last frame of one block's output at one step from another run. Finished: the run is completed,
and its latents are compared. Early: it stops after the patched step, and x0_hat is read. On the bundled model and a
medium one (d 512, 8 layers, 1280 tokens, random weights); 20 steps x all layers.

All three drive the same step loop over the same prepared batch, so that neither side pays for prompts and pictures.
Peers take a sample of the cells whose mean cost is that of the grid (every layer costs them the same, and the steps
have the mean of all steps); so do our sweeps of the medium model. ``--only "medium: read early"`` measures the rows
that begin so and keeps the others; ``--peers naive`` leaves nnsight out. Times are those of the whole grid:
``fixed + cells x time of a cell``, where fixed is the source run and, for ours, the recording of the clean run.

The limits. Replay alone: 20 steps of each run become 9.5 and the rest of the layers of one. What FLOPs allow:
``flop_bound`` is the ratio of floating point operations of both sides, counted while they ran.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.capture import medium, small
from benchmarks.harness import Times, arguments, interleaved, kept_rows, publish, row
from interp import edits
from interp.edits.sources import Stored
from interp.lab import Lab
from interp.replay import Recording, record, replay
from interp.runspec import RunSpec
from interp.sampler import prepare, run_steps
from interp.sweep import kept_at, kept_source, plan_cells, sweep

SITE = "blocks.{}.hook_resid_post"
CLOSE = 1e-4
PEERS = "naive,nnsight"
Cell = tuple[int, int]  # step, layer


@dataclass
class Bench:
    """One model, a clean run and a run to patch from."""

    lab: Lab
    clean: RunSpec
    source: RunSpec
    steps: int
    layers: int
    batch_size: int

    def __post_init__(self) -> None:
        self.plan = prepare(self.lab.pipe, [self.clean])
        self.source_plan = prepare(self.lab.pipe, [self.source])
        self.blocks = self.lab.pipe.transformer.blocks
        grid = self.lab.grid(self.clean.sample)
        self.tokens = slice(grid.tokens - grid.rows * grid.cols, None)
        self.given: dict[Cell, Tensor] = {}
        template = edits.patch(SITE.format("*"), self.source, frames=-1)
        self.where = template.selection
        self.kept = kept_at(self.lab, self.clean, plan_cells(self.lab, self.clean, template, self.over()))

    @property
    def grid(self) -> list[Cell]:
        """Every cell."""
        return [(step, layer) for step in range(self.steps) for layer in range(self.layers)]

    # --- naive ------------------------------------------------------------------------------------------------------

    def naive_source(self) -> None:
        """The source run, every block's output kept by a plain hook."""
        self.given = {}
        calls = dict.fromkeys(range(self.layers), 0)

        def keep(layer: int) -> Callable[..., None]:
            def hook(module: Any, args: Any, output: Tensor) -> None:
                self.given[calls[layer], layer] = output.clone()
                calls[layer] += 1

            return hook

        handles = [block.register_forward_hook(keep(i)) for i, block in enumerate(self.blocks)]
        try:
            list(run_steps(self.lab.pipe, self.source_plan))
        finally:
            for handle in handles:
                handle.remove()

    def naive(self, cells: Sequence[Cell], early: bool) -> dict[Cell, Tensor]:
        """One run a cell, from the noise on, with one plain hook that counts its calls."""
        found = {}
        for step, layer in cells:
            calls = 0

            def patch(module: Any, args: Any, output: Tensor, at: Cell = (step, layer)) -> Tensor:
                nonlocal calls
                calls += 1
                if calls - 1 != at[0]:
                    return output
                new = output.clone()
                new[:, self.tokens] = self.given[at][:, self.tokens]
                return new

            handle = self.blocks[layer].register_forward_hook(patch)
            try:
                found[step, layer] = self._run(step, early)
            finally:
                handle.remove()
        return found

    def _run(self, step: int, early: bool) -> Tensor:
        last = list(run_steps(self.lab.pipe, self.plan, stop=step + 1 if early else None))[-1]
        return (last.x0_hat if early else last.next_latents)[0]

    # --- nnsight ----------------------------------------------------------------------------------------------------

    def nnsight(self, wrapped: Any, cells: Sequence[Cell], early: bool) -> dict[Cell, Tensor]:
        """The same as one trace a cell. Without guidance a block is called once a step, so its index is the step."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return {cell: self._trace(wrapped, cell, early) for cell in cells}

    def _trace(self, wrapped: Any, cell: Cell, early: bool) -> Tensor:
        kept: list[Tensor] = []
        (step, layer), tokens = cell, self.tokens
        given, block = self.given[cell], wrapped.blocks[layer]

        def work(at: int) -> None:
            kept.append(self._run(at, early))

        with wrapped.trace(step, fn=work) as tracer:  # without an argument nnsight takes the block for invokes
            for _ in tracer.iter[step]:
                new = block.output.clone()
                new[:, tokens] = given[:, tokens]
                block.output = new
        return kept[0]

    # --- ours -------------------------------------------------------------------------------------------------------

    def prepared(self) -> tuple[Recording, Stored]:
        """What a sweep does once: the source run with what cells read, and the clean run with where cells begin."""
        share = self.batch_size > 1
        recording = record(self.lab, self.plan, self.kept, share_text=share)
        return recording, kept_source(self.lab, self.source_plan, self.where, share_text=share)

    def over(self, cells: Sequence[Cell] | None = None) -> dict[str, list[int]]:
        """The axes of a sweep over all cells, or over the product that these are."""
        at = self.grid if cells is None else cells
        return {"step": sorted({s for s, _ in at}), "layer": sorted({layer for _, layer in at})}

    def ours(self, ready: tuple[Recording, Stored], cells: Sequence[Cell], early: bool) -> dict[Cell, Tensor]:
        """One sweep; a cell's tensor in place of a metric."""
        taken: list[Tensor] = []

        def metric(result: Any) -> float:
            taken.append(result.x0_hat if early else result.trajectory.result)
            return 0.0

        recording, stored = ready
        template = edits.patch(SITE.format("*"), stored, frames=-1)
        sweep(self.lab, recording, template, self.over(cells), metric, early=early, batch_size=self.batch_size)
        # cells come by step, then layer; the last values of the metric are those of the clean run
        return dict(zip(sorted(cells), taken, strict=False))

    def same_bits(self, kept: Stored, cell: Cell, expected: Tensor) -> bool:
        """Whether one replay of an exact recording gives the naive run's bits."""
        patch = edits.patch(SITE.format(cell[1]), kept, step=cell[0], frames=-1)
        return torch.equal(replay(self.lab, record(self.lab, self.plan), patch)[0].trajectory.result, expected)


def flops(work: Callable[[], Any]) -> float:
    """Floating point operations of matrix products, convolutions and attention."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def rows_of(
    name: str,
    bench: Bench,
    peer: Bench,
    sample: dict[bool, Sequence[Cell]],
    own: dict[bool, Sequence[Cell]],
    rounds: int,
    only: str = "",
    peers: str = PEERS,
) -> list[dict[str, Any]]:
    """Rows of one model; of what is by False and True, the first is finished and the second early.

    Args:
        name: of the model.
        bench: the two runs.
        peer: the same on another copy of the model, which nnsight wraps.
        sample: cells that peers are timed on.
        own: cells that ours is timed on.
        rounds: repetitions.
        only: how the cases begin that are measured.
        peers: what ours is compared with.
    """
    modes = [early for early in (False, True) if _case(name, early).startswith(only)]
    if not modes:
        return []
    ready: list[Any] = [None]
    wrapped = _wrapped(peer.lab) if "nnsight" in peers else None
    results: dict[str, dict[Cell, Tensor]] = {}

    def prepare_ours() -> None:
        ready[0] = bench.prepared()

    def run(way: str, early: bool) -> None:
        if way == "naive":
            results[f"{way} {early}"] = bench.naive(sample[early], early)
        elif way == "nnsight":
            peer.given = bench.given
            results[f"{way} {early}"] = peer.nnsight(wrapped, sample[early], early)
        else:
            results[f"{way} {early}"] = bench.ours(ready[0], own[early], early)

    ways = ["naive", *(["nnsight"] if wrapped is not None else [])]
    cases: dict[str, Callable[[], Any]] = {"source": bench.naive_source, "fixed": prepare_ours}
    cases |= {f"{way} {early}": partial(run, way, early) for early in modes for way in (*ways, "ours")}
    times = interleaved(cases, rounds, warmup=0)
    bounds, exact = flop_bounds(bench, ready[0]), kept_source(bench.lab, bench.source_plan, bench.where)
    count, rows = len(bench.grid), []
    for early in modes:
        mine = _whole(times["fixed"], times[f"ours {early}"], count / len(own[early]))
        for way in ways:
            theirs = _whole(times["source"], times[f"{way} {early}"], count / len(sample[early]))
            faster = theirs.ratio(mine)
            reference = results[f"{way} {early}"]
            apart = max(float((results[f"ours {early}"][c] - reference[c]).abs().max()) for c in reference)
            if apart > CLOSE:
                raise SystemExit(f"{name}: ours and {way} differ by {apart}")
            at = sample[early][-1]
            same = None if early else bench.same_bits(exact, at, reference[at])
            if same is False:
                raise SystemExit(f"{name}: a replay at equal batch size is not equal to {way} to the bit")
            aim = AIMS[name][early] if way == "naive" else None
            rows.append(
                row(
                    f"{_case(name, early)}, {count} cells",
                    mine.median, f"{way} reruns", theirs.median, "s",
                    "" if aim is None else f">= {aim}x faster", None if aim is None else faster >= aim,
                    times_faster=faster, flop_bound=bounds[early], max_difference=apart,
                    bit_equal_at_equal_batch=same, fixed_s=times["fixed"].median, quartiles=mine.spread,
                    cells_timed={"ours": len(own[early]), "peer": len(sample[early])},
                    peer_quartiles=theirs.spread, steps=bench.steps, batch_size=bench.batch_size,
                )
            )  # fmt: skip
    return rows


def _case(name: str, early: bool) -> str:
    return f"{name}: {'read early' if early else 'finished'}"


def flop_bounds(bench: Bench, ready: tuple[Recording, Stored]) -> dict[bool, float]:
    """How many times fewer FLOPs ours needs than naive for the whole grid, finished (False) and early (True)."""
    last, count, steps = bench.steps - 1, len(bench.grid), bench.steps
    full = flops(lambda: list(run_steps(bench.lab.pipe, bench.plan, stop=1)))
    entering = flops(lambda: bench.ours(ready, [(last, layer) for layer in range(bench.layers)], True))
    both = ready[0].rows([0, 0])
    shared = flops(lambda: replay(bench.lab, both, edits.scale("latents.hook_in", 2, step=last), share_text=True)) / 2
    fixed = 2 * steps * shared + steps * entering
    naive = {False: full * steps * (count + 1), True: full * (steps + bench.layers * steps * (steps + 1) / 2)}
    return {False: naive[False] / (fixed + count * (steps - 1) / 2 * shared), True: naive[True] / fixed}


def _whole(fixed: Times, sampled: Times, scale: float) -> Times:
    """Times of the whole grid from those of a sample."""
    return Times(tuple(a + b * scale for a, b in zip(fixed.seconds, sampled.seconds, strict=True)))


def _wrapped(lab: Lab) -> Any:
    """nnsight over the stock modules, or None if it is not installed."""
    try:
        from nnsight import NNsight
    except ImportError:
        return None
    return NNsight(lab.pipe.transformer)


def bench_of(made: tuple[Lab, Any], steps: int, batch_size: int) -> Bench:
    """Two seeds of one sample."""
    lab, sample = made
    clean, source = lab.plan(sample, seeds=2, steps=steps)
    return Bench(lab, clean, source, steps, len(lab.pipe.transformer.blocks), batch_size)


def main() -> None:
    """Command line."""
    chosen = arguments(__doc__, rounds=3, steps=20, quick=False, only="", peers=PEERS)
    rows = []
    if chosen.quick:
        bench, peer = (bench_of(small(4), 4, 4) for _ in range(2))
        sample = [(1, 1), (2, 4)]
        few = [(step, layer) for step in (1, 2) for layer in (1, 4)]
        rows += rows_of("mini", bench, peer, {False: sample, True: sample}, {False: few, True: bench.grid}, 1)
    quarter = chosen.steps // 4
    if not chosen.quick and _wanted("mini", chosen.only):
        bench, peer = (bench_of(small(), chosen.steps, 16) for _ in range(2))
        steps = [quarter // 2 + quarter * k for k in range(4)]  # 2, 7, 12, 17 of 20: with the mean of all
        sample = [(step, layer) for step in steps for layer in (1, 4)]
        both = {False: sample, True: sample}
        own = {False: bench.grid, True: bench.grid}
        rows += rows_of("mini", bench, peer, both, own, chosen.rounds, chosen.only, chosen.peers)
    if not chosen.quick and _wanted("medium", chosen.only):
        bench, peer = (bench_of(medium(), chosen.steps, 8) for _ in range(2))
        low, high = quarter, chosen.steps - 1 - quarter  # 5 and 14: with the mean of all
        early = [(step, layer) for step in (low, high) for layer in range(bench.layers)]
        some = [(step, layer) for step in (low, high) for layer in (1, 6)]
        sampled = {False: [(high, 6)], True: [(low, 1), (high, 6)]}
        own = {False: some, True: early}
        rows += rows_of("medium", bench, peer, sampled, own, chosen.rounds, chosen.only, chosen.peers)
    if chosen.only:
        measured = {(one["case"], one["peer"]) for one in rows}
        rows += [one for one in kept_rows("patching") if (one["case"], one["peer"]) not in measured]
    publish("patching", rows, as_json=chosen.json, keep=not chosen.quick)


def _wanted(name: str, only: str) -> bool:
    return any(_case(name, early).startswith(only) for early in (False, True))


AIMS = {"mini": {False: 3.0, True: 15.0}, "medium": {False: 1.8, True: 15.0}}


if __name__ == "__main__":
    main()
