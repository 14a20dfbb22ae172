"""What looking costs: a bare pipeline beside idle hooks, captures to memory and to HDF5, and the same by other means.

    python -m benchmarks.capture --json                        # fifteen minutes
    python -m benchmarks.capture --only "mini,medium: loop"    # parts: loop, rivals and others of mini and medium

Two models: the bundled one with the 20 steps that `interp.Lab.plan` takes by itself (half a second), and a medium one
(d 512, 8 layers, 1280 tokens, random weights) with 2. What is kept is resid_post of every layer and step. Every case
runs the call up to the final latents, but for encoding prompt and picture, which is done once for all of them:

- the stock ``pipe(...)``, beside our loop twice: the second shows how far apart two equal things are measured here;
- our step loop, without hooks and with hooks on every layer that nobody reads (idle);
- the capture to memory in fp32: ours, by torch hooks that clone, by nnsight's ``cache``, by ``lab.trace``;
- the capture to an HDF5 file that has reached the disk: ours, and what the two others keep written with h5py in a few
  lines (no checksums, no provenance, no list of finished runs; the file and its folder are fsynced once);
- a view (the mean of each frame) of every hook point that modules give: ours, and by torch hooks on the same modules'
  outputs; nnsight has no views, so its case keeps every module's output whole;
- ``callback_on_step_end`` keeping latents, which is what diffusers offers.

One torch thread on both sides. nnsight stays on the modules that it has wrapped, so it gets a copy of the model. Our
times include checks that the others do not make: the model is the one the run was planned with, every tensor came
exactly once, every block of a file has a checksum. Each case that writes finds no file there.

Two ratios, each the median over rounds of pairs of one round, with a 95 % interval. ``paired_ratio`` is of the two
times. On two shared cores it does not resolve 1 %: the model's own work differs by more from run to run. So
``direct_ratio`` leaves out what both sides have in common, the forwards of the blocks: ``surplus_s`` is how much longer
the rest takes (hooks on blocks, step loop, scheduler, embeddings, head, files), and the ratio is 1 plus its share of
the peer's whole time. It is CPU time; of cases that write it is time on the clock, as they wait for the disk. It cannot
see what a case does to the caches of the blocks, nor hooks inside blocks, so captures of every hook point have none.
"bare pipeline again" is what either ratio makes of two equal things: its interval is the resolution. An aim is met if
the whole interval keeps it (of the direct ratio, where there is one), missed if none of it does, else not resolved.

The limit: a capture cannot be cheaper than one copy of its bytes into memory that is mapped (``copy_s`` in each row).
"""

from __future__ import annotations

import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.captures.bench import BARE, EVERY, FILE, MEMORY, VIEWS, Bench, agree
from benchmarks.captures.models import medium, remember, small
from benchmarks.harness import Times, arguments, interleaved, kept_rows, median_interval, publish, row

AIMS = {
    ("mini", "our loop, idle hooks"): 1.01,
    ("medium", "our loop, idle hooks"): 1.01,
    ("medium", f"ours, {FILE}"): 1.10,
    ("medium", "ours, to HDF5, bf16"): 1.10,
}


def loop_rows(name: str, bench: Bench, rounds: int) -> list[dict[str, Any]]:
    """Our loop against the bare pipeline, and the bare pipeline against itself."""
    times = interleaved(bench.loops(), rounds, min(1, rounds - 1), common=bench.stopwatch.read)
    return [compared(name, case, BARE, times, bench, AIMS.get((name, case))) for case in times if case != BARE]


def rival_rows(name: str, bench: Bench, rounds: int) -> list[dict[str, Any]]:
    """Our captures against the bare pipeline, and against nnsight keeping the same."""
    times = interleaved(bench.rivals(), rounds, min(1, rounds - 1), bench.clear, bench.stopwatch.read)
    rows = [compared(name, case, BARE, times, bench, AIMS.get((name, case))) for case in times if case != BARE]
    rows += [compared(name, f"ours, {what}", f"nnsight, {what}", times, bench, 1.0) for what in (MEMORY, FILE)]
    return [*rows, compared(name, f"ours, {VIEWS}", EVERY, times, bench, 1.0)]


def other_rows(name: str, bench: Bench, rounds: int) -> list[dict[str, Any]]:
    """Other ways against the bare pipeline, and ours against torch hooks."""
    times = interleaved(bench.others(), rounds, min(1, rounds - 1), bench.clear, bench.stopwatch.read)
    cases = [case for case in times if not case.startswith(("ours", BARE))]
    rows = [compared(name, case, BARE, times, bench, None) for case in cases]
    same = (MEMORY, FILE, VIEWS)
    return rows + [compared(name, f"ours, {what}", f"torch hooks, {what}", times, bench, None) for what in same]


def copy_seconds(count: int) -> float:
    """One copy of that many bytes into memory that is mapped."""
    source, target = np.ones(max(count, 1), np.uint8), np.ones(max(count, 1), np.uint8)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def compared(
    name: str, case: str, peer: str, times: dict[str, Times], bench: Bench, aim: float | None
) -> dict[str, Any]:
    """One row; ratios are medians over rounds, and the aim is met if the whole interval keeps it."""
    one, other = times[case], times[peer]
    kept, interval = bench.nbytes(case), one.ratio_interval(other)
    more: dict[str, Any] = {}
    if VIEWS not in case and EVERY not in case:
        clock = "wall" if "HDF5" in case else "cpu"
        surplus = [getattr(spent, clock) for spent in one.surplus(other)]
        low, high = median_interval(surplus)
        interval = 1 + low / other.median, 1 + high / other.median
        more = {
            "clock": clock,
            "beside_blocks_s": statistics.median(getattr(spent, clock) for spent in one.own),
            "peer_beside_blocks_s": statistics.median(getattr(spent, clock) for spent in other.own),
            "surplus_s": statistics.median(surplus),
            "surplus_interval_s": (low, high),
            "direct_ratio": 1 + statistics.median(surplus) / other.median,
            "direct_ratio_interval": interval,
        }
    verdict = "" if aim is None else "met" if interval[1] <= aim else "missed" if interval[0] > aim else "not resolved"
    return row(
        f"{name}: {case}",
        one.median,
        peer,
        other.median,
        "s",
        "" if aim is None else f"<= {aim:.3g}x",
        None if aim is None else verdict == "met",
        verdict=verdict,
        paired_ratio=one.ratio(other),
        paired_ratio_interval=one.ratio_interval(other),
        paired_ratio_quartiles=one.ratio_spread(other),
        **more,
        quartiles=one.spread,
        bytes=kept,
        copy_s=copy_seconds(kept) if kept else 0.0,
        steps=bench.steps,
        rounds=len(one.seconds),
    )


PARTS = {"loop": loop_rows, "rivals": rival_rows, "others": other_rows}
ROUNDS = {"loop": 4, "rivals": 3, "others": 1}
"""How many times more often the finer differences are measured."""


def main() -> None:
    """Command line."""
    chosen = arguments(__doc__, rounds=4, steps=20, quick=False, only="")
    models = {"mini": (small, chosen.steps, 2), "medium": (medium, 2, 1)}
    if chosen.quick:
        models = {"mini": (partial(small, 4), 2, 1)}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (make, steps, often) in models.items():
            parts = [part for part in PARTS if f"{name}: {part}".startswith(tuple(chosen.only.split(",")))]
            if not parts:
                continue
            lab, sample = make()
            remember(lab.pipe.vae, "encode")
            remember(lab.pipe.text_encoder, "forward")
            bench = Bench(lab, sample, steps, Path(folder) / name)
            agree(bench)
            for part in parts:
                rows += PARTS[part](name, bench, 1 if chosen.quick else often * ROUNDS[part] * chosen.rounds)
    if not rows:
        raise SystemExit(f"no part begins with {chosen.only!r}; there are mini and medium, each with {list(PARTS)}")
    if chosen.only:
        measured = {(one["case"], one["peer"]) for one in rows}
        rows += [one for one in kept_rows("capture") if (one["case"], one["peer"]) not in measured]
    publish("capture", rows, as_json=chosen.json, keep=not chosen.quick)


if __name__ == "__main__":
    main()
