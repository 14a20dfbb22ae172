"""Description length over a whole grid: how many bits does the target take, given each cell's features?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl

from probes.control_task import control_labels
from probes.errors import ProbeError
from probes.leaks import Watch, named
from probes.mdl import FRACTIONS, online_code
from probes.prepare import prepare
from probes.source import Key
from probes.transfer import known

SCHEMA = {
    "step": pl.Int64, "sigma": pl.Float64, "layer": pl.Int64, "bits": pl.Float64, "spread": pl.Float64,
    "uniform": pl.Float64, "entropy": pl.Float64, "compression": pl.Float64, "control": pl.Float64,
    "n": pl.Int64, "groups": pl.Int64,
}  # fmt: skip

OPTIONS = (
    "groups", "site", "steps", "layers", "branch", "pool", "sigmas", "standardise", "max_rows", "seed", "dtype",
)  # fmt: skip


def code_grid(
    source: Any,
    target: Any,
    *,
    fractions: Sequence[float] = FRACTIONS,
    path: float = 0.1,
    orders: int = 3,
    controls: int = 1,
    kinds: Any = None,
    progress: Callable[[Iterable[Key]], Iterable[Key]] | None = None,
    **options: Any,
) -> pl.DataFrame:
    """The online code (`probes.online_code`) of every cell.

    Args:
        source, target, options: as in `probes.fit_grid`; options that say which rows and features: groups, site, steps,
            layers, branch, pool, sigmas, standardise, max_rows, seed, dtype (of features as they are read).
        fractions, path: as in `probes.online_code`.
        orders: random orders of groups that codes are averaged over; the same in all cells.
        controls, kinds: control tasks, as in `probes.fit_grid`.
        progress: wraps the list of cells.

    Returns:
        One row a cell, with step, sigma, layer, bits (mean over orders), spread (standard deviation over orders; null
        for one), uniform and entropy (bits without features, see `probes.OnlineCode`), compression (uniform / bits),
        control (bits of control tasks, which a probe can only learn by heart; null without), n (rows), groups.

    Raises:
        LeakageError: a feature is the target, or two groups hold one and the same run.
        ProbeError: no order, an option that there is not, or a target of values (bin them).
    """
    if orders < 1:
        raise ProbeError(f"orders={orders}: need 1 or more.")
    data, plan = prepare(source, target, **known(options, OPTIONS), folds=2, path=path, shuffles=0)
    seed = int(options.get("seed", 0))
    watch = Watch(plan, data.run)
    by_heart = control_labels(data, plan, controls, kinds=kinds, seed=seed + 3).astype(np.int64)
    rows = []
    for key in progress(data.keys) if progress else data.keys:
        x = data.matrix(key, dtype=plan.dtype, device="cpu")
        with named(f"step {key[0]}, layer {key[1]}"):
            watch.see(x)

        def coded(labels: Any, order: int, x: Any = x) -> Any:
            return online_code(
                x, labels, groups=plan.folds.group, fractions=fractions, path=path, seed=seed + order,
                standardise=plan.standardise, dtype="float64",
            )  # fmt: skip

        codes = [coded(plan.y.astype(np.int64), order) for order in range(orders)]
        bits = np.array([code.bits for code in codes])
        heart = [coded(labels, order).bits for labels in by_heart.T for order in range(orders)]
        rows.append(
            {
                "step": key[0], "sigma": data.sigmas.get(key[0]), "layer": key[1],
                "bits": bits.mean(), "spread": bits.std(ddof=1) if orders > 1 else None,
                "uniform": codes[0].uniform, "entropy": float(np.mean([code.entropy for code in codes])),
                "compression": codes[0].uniform / bits.mean(), "control": float(np.mean(heart)) if heart else None,
                "n": len(plan.y), "groups": plan.folds.groups,
            }
        )  # fmt: skip
    return pl.DataFrame(rows, schema=SCHEMA)
