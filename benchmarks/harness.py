"""What every benchmark shares: pinned threads, interleaved repetitions, medians with spread, one JSON object.

Both sides of a comparison run in one process, in turn, with the same number of threads, so that a machine whose speed
drifts slows both. A ratio is the median over rounds of the two times of one round.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).with_name("results")
PACKAGES = ("torch", "diffusers", "nnsight", "h5py", "numpy", "scikit-learn", "zarr", "safetensors")


class Spent(NamedTuple):
    """Seconds on the wall's clock, and of this process on processors."""

    wall: float
    cpu: float

    @staticmethod
    def now() -> Spent:
        """Since some fixed moment."""
        return Spent(time.perf_counter(), time.process_time())

    def since(self, before: Spent) -> Spent:
        """What was spent from then to this."""
        return Spent(self.wall - before.wall, self.cpu - before.cpu)


@dataclass(frozen=True)
class Times:
    """Seconds of one case in every round.

    Attributes:
        seconds: from the first to the last.
        own: what was spent of them beside what all cases have in common, where that was timed (see `interleaved`).
    """

    seconds: tuple[float, ...]
    own: tuple[Spent, ...] = ()

    @property
    def median(self) -> float:
        """Middle of the rounds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """Quartiles of the rounds."""
        if len(self.seconds) < 2:
            return (self.seconds[0], self.seconds[0])
        low, _, high = statistics.quantiles(self.seconds, n=4)
        return (low, high)

    def ratio(self, other: Times) -> float:
        """How many times longer this takes than ``other``: median over rounds."""
        return statistics.median(a / b for a, b in zip(self.seconds, other.seconds, strict=True))

    def ratio_spread(self, other: Times) -> tuple[float, float]:
        """Quartiles over rounds of how many times longer this takes than ``other``."""
        return Times(tuple(a / b for a, b in zip(self.seconds, other.seconds, strict=True))).spread

    def ratio_interval(self, other: Times) -> tuple[float, float]:
        """95 % interval of `ratio`; see `median_interval`."""
        return median_interval([a / b for a, b in zip(self.seconds, other.seconds, strict=True)])

    def surplus(self, other: Times) -> list[Spent]:
        """What this spends more than ``other`` beside what both have in common, in every round."""
        return [a.since(b) for a, b in zip(self.own, other.own, strict=True)]


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a median from order statistics; the whole range where there are too few values for one."""
    ordered = sorted(values)
    count, left, outside = len(ordered), 0, 0.5 ** len(ordered)
    while 2 * (left + 1) < count:
        outside += math.comb(count, left + 1) * 0.5**count  # chance that the median is below the next value
        if outside > 0.025:
            break
        left += 1
    return ordered[left], ordered[count - 1 - left]


def interleaved(
    cases: Mapping[str, Callable[[], Any]],
    rounds: int,
    warmup: int = 1,
    before: Callable[[], None] = lambda: None,
    common: Callable[[], Spent] = lambda: Spent(0, 0),
) -> dict[str, Times]:
    """Time every case once a round, in an order that alternates.

    Args:
        cases: by name.
        rounds: that count.
        warmup: rounds before, that do not.
        before: done before every case, untimed.
        common: what was spent so far on what all cases have in common.
    """
    kept: dict[str, list[float]] = {name: [] for name in cases}
    own: dict[str, list[Spent]] = {name: [] for name in cases}
    names = list(cases)
    for number in range(-warmup, rounds):
        for name in names if number % 2 == 0 else reversed(names):
            before()
            shared, start = common(), Spent.now()
            cases[name]()
            spent = Spent.now().since(start)
            if number >= 0:
                kept[name].append(spent.wall)
                own[name].append(spent.since(common().since(shared)))
    return {name: Times(tuple(kept[name]), tuple(own[name])) for name in cases}


def row(
    case: str, ours: float, peer: str, peer_value: float, unit: str, aim: str, met: bool | None, **more: Any
) -> dict[str, Any]:
    """One row of the table; ``ratio`` is ours over the peer's, ``met`` None where there is no aim."""
    ratio = ours / peer_value if peer_value else None
    return {
        "case": case,
        "ours": ours,
        "peer": peer,
        "peer_value": peer_value,
        "unit": unit,
        "ratio": ratio,
        "aim": aim,
        "met": met,
        **more,
    }


def environment() -> dict[str, Any]:
    """Where the figures are from."""
    import torch

    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "versions": found,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def arguments(doc: str | None, **extra: Any) -> argparse.Namespace:
    """The command line every benchmark has: ``--json``, ``--rounds``, ``--threads``, and its own."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the JSON object instead of a table")
    parser.add_argument("--rounds", type=int, default=extra.pop("rounds", 7))
    parser.add_argument("--threads", type=int, default=1)
    for name, default in extra.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(default, bool):
            parser.add_argument(flag, action="store_true")
        else:
            parser.add_argument(flag, type=type(default), default=default)
    chosen = parser.parse_args()
    import torch

    torch.set_num_threads(chosen.threads)
    return chosen


def kept_rows(name: str) -> list[dict[str, Any]]:
    """Rows of an earlier run, if one was kept."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text())["rows"] if path.is_file() else []


def result(name: str, rows: Sequence[Mapping[str, Any]], *, keep: bool = True) -> str:
    """The object as JSON, kept in ``benchmarks/results/NAME.json`` if asked for."""
    text = json.dumps({"benchmark": name, "environment": environment(), "rows": list(rows)}, indent=1)
    if keep:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(text + "\n")
    return text


def publish(name: str, rows: Sequence[Mapping[str, Any]], *, as_json: bool, keep: bool = True) -> None:
    """Print the object or a table of it, and keep it in ``benchmarks/results/NAME.json`` (not that of a quick look)."""
    text = result(name, rows, keep=keep)
    if as_json:
        print(text)
        return
    for one in rows:
        ratio = "" if one["ratio"] is None else f"{one['ratio']:.3g}x of {one['peer']}"
        met = one.get("verdict") or {True: "met", False: "missed", None: ""}[one["met"]]
        print(f"{one['case']:<56} {one['ours']:10.4g} {one['unit']:<8} {ratio:<28} {one['aim']:<12} {met}")
