"""Writing beside a producer, by the process that computes and by one that does nothing else."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Times, row
from benchmarks.stores.common import Scale, empty, layout_of, numbers, rounds_of
from interp.store import BackgroundWriter, RunLayout, Store

ON_THEIR_WAY = 8
"""Results that a device may still owe, as `interp.hostcopy` has it."""


@dataclass(frozen=True)
class _Owed:
    """What a device will have computed: when, and where it goes."""

    ready: float
    write: Callable[[], None]

    def land(self) -> None:
        """Wait for it, and hand it over."""
        time.sleep(max(0.0, self.ready - time.perf_counter()))
        self.write()


class Producer:
    """Is busy half of the time and idle the other half. For each event it makes a number of small matrix products,
    which let other threads in as kernels do: an amount of work, not of time, so that whoever slows it pays for that.
    Why it is idle is one of two things:

    "device": it waits for a device, to which the products are what launching costs, and which computes all the time.
    What the producer does meanwhile is free, until the device waits for the producer. So a model runs on a GPU.

    "pauses": it sleeps for a fixed time, whatever it did before. All that it does besides makes it late.

    Args:
        layouts: the runs.
        tensors: what is written for each step of each of them.
    """

    def __init__(self, layouts: list[RunLayout], tensors: list[Tensor]) -> None:
        self.layouts, self.tensors = layouts, tensors
        self._factor = torch.randn(128, 128, generator=torch.Generator().manual_seed(0))
        self._product = torch.empty(128, 128)
        self.compute(2000)
        self._each = self._seconds_of_one()

    def _seconds_of_one(self) -> float:
        """Seconds of one product, where the processor rests as long after each few: it takes longer to it then than in
        one go, and the producer would be idle for less than half of its time."""
        spent = 0.0
        for _ in range(500):
            start = time.perf_counter()
            self.compute(10)
            busy = time.perf_counter() - start
            time.sleep(busy)
            spent += busy
        return spent / 5000

    def compute(self, count: int) -> None:
        """That many matrix products."""
        for _ in range(count):
            torch.mm(self._factor, self._factor, out=self._product)

    def run(self, writers: Store | BackgroundWriter | None, seconds: float, idle: str = "device") -> None:
        """All runs, in about as many seconds where nobody takes their tensors (None); 0 computes nothing."""
        each = seconds / (len(self.layouts) * len(self.tensors))
        count = round(each / 2 / self._each)
        ready = 0.0
        for layout in self.layouts:
            writer = writers.writer(layout.run, layout) if writers is not None else None
            owed: deque[_Owed] = deque()
            for step, tensor in enumerate(self.tensors):
                write = partial(writer.write, "site0", step, 0, tensor) if writer is not None else _nothing
                self.compute(count)
                if not seconds or idle == "pauses":
                    if seconds:
                        time.sleep(each / 2)
                    write()
                    continue
                now = time.perf_counter()
                ready = max(ready, now) + each
                while owed and (len(owed) == ON_THEIR_WAY or owed[0].ready <= now):
                    owed.popleft().land()
                owed.append(_Owed(ready, write))
            for one in owed:
                one.land()
            if writer is not None:
                writer.finish()


def _nothing() -> None:
    return None


def processor_seconds() -> float:
    """Of this process and of those that it has started and seen end."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


ASKED = (("device", 1), ("device", 2), ("pauses", 1))
"""Why the producer is idle, and how many times as long as writing it computes."""
SHOWN = {"device": "waiting for a device", "pauses": "fixed pauses"}


class Background:
    """The ways to write beside a producer, and what each took in processor time.

    Args:
        folder: where to write; emptied before each case.
        producer: what gives the tensors.
    """

    def __init__(self, folder: Path, producer: Producer) -> None:
        self.folder, self.producer = folder, producer
        self.spent: dict[str, list[float]] = {}
        self._writing: dict[str, float] = {}
        self._store: Store | None = None

    def before(self) -> None:
        """An empty folder with an empty store."""
        empty(self.folder)
        os.sync()  # what was removed may keep the disk busy
        self._store = Store.create(self.folder / "store")

    @property
    def seconds(self) -> float:
        """What writing took the last time, in one process or in two, whichever was faster."""
        return min(self._writing.values())

    def alone(self) -> None:
        """One process, nothing computed; the next cases compute for as long as this took."""
        self._timed("one", lambda: self.producer.run(self._store, 0))

    def nothing_computed(self) -> None:
        """Two processes, nothing computed; the next cases compute for as long as this took, where it was faster."""
        self._timed("two", lambda: self.background(0))

    def background(self, seconds: float, idle: str = "device", borrow: bool = False) -> None:
        """Two processes."""
        assert self._store is not None
        with self._store.background(borrow=borrow) as writers:
            self.producer.run(writers, seconds, idle)

    def start(self) -> None:
        """Two processes, and nothing to write."""
        assert self._store is not None
        with self._store.background():
            pass

    def cases(self) -> dict[str, Callable[[], None]]:
        """By name; each notes its processor time."""
        cases: dict[str, Callable[[], None]] = {
            "write": self.alone,
            "idle": self.nothing_computed,
            "start": self.start,
            "one process": lambda: self.producer.run(self._store, self.seconds),
        }
        for idle, times in ASKED:
            cases[f"compute {idle} {times}"] = partial(self._compute, times, idle)
            cases[f"background {idle} {times}"] = partial(self._beside, times, idle)
            cases[f"borrowed {idle} {times}"] = partial(self._beside, times, idle, True)
        return {name: partial(self._noted, name, case) for name, case in cases.items()}

    def _timed(self, name: str, case: Callable[[], None]) -> None:
        start = time.perf_counter()
        case()
        self._writing[name] = time.perf_counter() - start

    def _beside(self, times: float, idle: str, borrow: bool = False) -> None:
        self.background(times * self.seconds, idle, borrow)

    def _compute(self, times: float, idle: str) -> None:
        self.producer.run(None, times * self.seconds, idle)

    def _noted(self, name: str, case: Callable[[], None]) -> None:
        before = processor_seconds()
        case()
        self.spent.setdefault(name, []).append(processor_seconds() - before)


def background_rows(folder: Path, scale: Scale, rounds: int, only: str = "") -> list[dict[str, Any]]:
    """Writing beside a producer that is idle half of the time, which is to cost little of max(compute, write).

    The producer takes as long as writing took the last time, where overlap has most to gain and is hardest, or twice as
    long; the speed of a disk drifts. The limit is the longer of the two in the same round. "Write" is whichever is
    faster, one process or two. Where the producer is the hardest to keep up with, more rounds are made, in which one
    process writes only if it was the faster before.
    """
    if not any(name.startswith(only) for name in ("compute and write", "write in the background")):
        return []
    tensors = list(numbers(min(scale.middle, 64), 1024, 512))
    layouts = [layout_of(f"run{i}", len(tensors), 1, 1024, 512) for i in range(scale.background_runs)]
    ways = Background(folder, Producer(layouts, tensors))
    ways.before()
    ways.alone()  # says how long to compute, before the first round
    ways.before()
    ways.nothing_computed()
    cases = ways.cases()
    times = rounds_of(cases, max(2, rounds - 3), before=ways.before, warmup=0)
    faster = any(one < two for one, two in zip(times["write"].seconds, times["idle"].seconds, strict=True))
    beside = [" ".join(map(str, (way, *ASKED[0]))) for way in ("compute", "background", "borrowed")]
    hardest = ["write"] * faster + ["idle", *beside]
    more = rounds_of({name: cases[name] for name in hardest}, 2 * (rounds - 2), before=ways.before, warmup=0)
    times |= {name: Times(times[name].seconds + more[name].seconds) for name in hardest}
    empty(folder)
    both = zip_longest(times["write"].seconds, times["idle"].seconds, fillvalue=math.inf)
    write = Times(tuple(map(min, both)))
    said = {
        "bytes": sum(layout.nbytes for layout in layouts),
        "write_alone": times["write"].median,
        "background_alone": times["idle"].median,
        "start_of_the_process": times["start"].median,
    }

    def one(case: str, name: str, peer: str, limit: Times, aim: float | None, **more: Any) -> dict[str, Any]:
        count = min(len(times[name].seconds), len(limit.seconds))
        ours, limit = (Times(side.seconds[:count]) for side in (times[name], limit))
        ratio = ours.ratio(limit)
        more |= {"paired_ratio": ratio, "rounds": count, "quartiles": ours.spread, **said}
        more["processor_seconds"] = statistics.median(ways.spent[name])
        met = None if aim is None else ratio <= aim
        return row(case, ours.median, peer, limit.median, "s", f"<= {aim}x" if aim else "", met, **more)

    rows = [one("write in the background, nothing computed", "idle", "write in one process", times["write"], None)]
    for idle, factor in ASKED:
        compute = times[f"compute {idle} {factor}"]
        limit = Times(tuple(map(max, compute.seconds, write.seconds)))
        case = f"compute and write, compute {'twice ' * (factor - 1)}as long as write, " + SHOWN[idle]
        alone = statistics.median(ways.spent[f"compute {idle} {factor}"])
        more = {"compute_alone": compute.median, "processor_seconds_of_compute": alone}
        aim = 1.1 if idle == "device" else None
        peer = "max(compute, write)"
        rows.append(one(f"{case}, background", f"background {idle} {factor}", peer, limit, aim, **more))
        rows.append(one(f"{case}, background, tensors borrowed", f"borrowed {idle} {factor}", peer, limit, aim, **more))
        if (idle, factor) == ASKED[0]:
            rows.append(one(f"{case}, one process", "one process", peer, limit, None, **more))
    return rows
